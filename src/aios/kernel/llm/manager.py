"""What `llm_generate` and `llm_embed` mean: which core may run a call, and how a slice of it is run.

Knows no policy and no wire.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec

from aios.abi.calls import LLMEmbed, LLMGenerate
from aios.abi.errors import KernelFault
from aios.abi.messages import Embeddings, Generation

from ..syscall import Suspended, Syscall
from . import embed
from .base import Core, CoreInfo, NotBegun, Request
from .measure import Measure, check_length, measure_of
from .prices import Prices
from .router import Router

MAX_TRIES = 4
"""Times that a call is begun before its error is given to the agent. Being refused for load does not count: waiting
for room is what the queue is for, and the call's own deadline ends it."""


class LLMManager:
    """Hands slots of cores to calls. The queue's runner for "llm"; one slot name is one core."""

    def __init__(
        self, cores: Mapping[str, Core], router: Router, now: Callable[[], float], prices: Prices | None = None
    ) -> None:
        self._cores = cores
        self._router = router
        self._now = now
        self._active = dict.fromkeys(cores, 0)
        self.prices = prices or Prices()
        self._spent: dict[str, float] = {}
        """US dollars by core, where its prices are known."""

    def check(self, call: Syscall) -> None:
        if isinstance(call.args, LLMEmbed):
            embed.check(call.args, self._serving(call.args))
            return
        for core in self._router.cores_for(call.args.model):
            core.check(call.args)
            if call.args.window in (None, "error"):
                check_length(core, call.args)

    def _serving(self, args: LLMGenerate | LLMEmbed) -> list[Core]:
        """Cores that answer to the name in `args` and can do what is asked, never none. Raises NotFound."""
        if isinstance(args, LLMEmbed):
            return embed.among(self._cores, args, self._router.cores_for)
        return self._router.cores_for(args.model)

    def measure(self, model: str | None) -> Measure | None:
        """The smallest window among the cores that answer to `model`, as far as they know theirs."""
        found = [measure_of(core) for core in self._router.cores_for(model)]
        return min((each for each in found if each is not None), key=lambda each: each.context, default=None)

    def free(self) -> Iterable[str]:
        """Cores with a free slot, the least loaded first."""
        room = [c for c in self._cores.values() if self._active[c.name] < c.slots]
        return [c.name for c in sorted(room, key=lambda c: self._active[c.name] / c.slots)]

    def fits(self, call: Syscall, slot: str) -> bool:
        core = self._cores[slot]
        active = self._active[slot]
        if active >= core.slots:
            return False
        if call.snapshot is not None:
            return call.core == slot and core.can_take(call.snapshot, active)
        if call.refused_until and call.refused_until.get(slot, 0.0) > self._now():
            return False
        return core in self._serving(call.args) and core.can_take(None, active)

    def take(self, call: Syscall, slot: str) -> None:
        self._active[slot] += 1
        call.core = slot

    def release(self, call: Syscall, slot: str) -> None:
        self._active[slot] -= 1

    async def run(self, call: Syscall, slot: str, quantum: int | None) -> Generation | Embeddings | Suspended:
        if isinstance(call.args, LLMEmbed):
            return await self._embed(call, slot)
        streamed = bool(call.listeners) or call.chunks is not None
        request = Request(call.id, call.args, call.emit, call.snapshot, streamed)
        try:
            outcome = await self._cores[slot].run(request, quantum)
        except NotBegun as refusal:
            return self._try_again(call, slot, refusal)
        if isinstance(outcome, Generation):
            self._account(call, outcome)
            if call.context is not None or call.cost is not None:
                outcome = msgspec.structs.replace(outcome, context=call.context, cost=call.cost)
        return outcome

    async def _embed(self, call: Syscall, slot: str) -> Embeddings | Suspended:
        core = embed.embedder(self._cores[slot])
        assert core is not None, "only such a core fits"
        try:
            outcome = await core.embed(call.args)
        except NotBegun as refusal:
            return self._try_again(call, slot, refusal)
        self._account(call, outcome)
        return outcome if call.cost is None else msgspec.structs.replace(outcome, cost=call.cost)

    def _try_again(self, call: Syscall, slot: str, refusal: NotBegun) -> Suspended:
        """Back to the queue, for another core or for this one later. Raises what went wrong when it was tried often."""
        call.num_tries += not refusal.is_busy
        if call.num_tries >= MAX_TRIES:
            raise refusal.error
        call.refused_until[slot] = self._now() + refusal.after
        return Suspended(None, 0, refusal.after)

    def _account(self, call: Syscall, done: Generation | Embeddings) -> None:
        call.snapshot = None
        call.tokens_in = done.usage.prompt_tokens
        call.tokens_out = done.usage.completion_tokens
        call.cost = self.prices.cost(call.args, done)
        if call.cost is not None:
            self._spent[done.core] = self._spent.get(done.core, 0.0) + call.cost

    def drop(self, call: Syscall) -> None:
        if call.snapshot is not None and call.core is not None:
            self._cores[call.core].drop(call.snapshot)
            call.snapshot = None

    def info(self) -> list[CoreInfo]:
        return [
            CoreInfo(
                c.name,
                c.kind,
                c.model,
                c.slots,
                self._active[c.name],
                c.context_length,
                c.resume,
                c.statistics(),
            )
            for c in self._cores.values()
        ]

    def names(self) -> Collection[str]:
        return self._cores.keys()

    def core(self, name: str) -> Core:
        return self._cores[name]

    def check_integrity(self) -> None:
        """When idle, no slot is taken."""
        if taken := {name: n for name, n in self._active.items() if n}:
            raise KernelFault(f"slots are taken while nothing runs: {taken}")

    def statistics(self) -> dict[str, Any]:
        spent = {name: {"spent_dollars": dollars} for name, dollars in self._spent.items()}
        return {name: core.statistics() | spent.get(name, {}) for name, core in self._cores.items()}

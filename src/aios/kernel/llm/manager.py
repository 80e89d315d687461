"""What `llm_generate` means: which core may run a call, and how a slice of it is run. Knows no policy and no wire."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec

from aios.abi.errors import KernelFault
from aios.abi.messages import Generation

from ..syscall import Suspended, Syscall
from .base import Core, CoreInfo, NotBegun, Request, Said, Stored
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
        for core in self._router.cores_for(call.args.model):
            core.check(call.args)
            if call.args.window in (None, "error"):
                check_length(core, call.args)

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
        if call.snapshot is not None and not isinstance(call.snapshot, Said):
            return call.core == slot and core.can_take(call.snapshot, active)
        if call.refused_until and call.refused_until.get(slot, 0.0) > self._now():
            return False
        return core in self._cores_for(call) and core.can_take(None, active)

    def _cores_for(self, call: Syscall) -> list[Core]:
        """Those that may take it. Half an answer goes to one that can continue it; if none can any more, whichever
        gets it says so."""
        cores = self._router.cores_for(call.args.model)
        said = call.snapshot
        return cores if said is None else [c for c in cores if c.can_continue(call.args, said)] or cores

    def take(self, call: Syscall, slot: str) -> None:
        self._active[slot] += 1
        call.core = slot

    def release(self, call: Syscall, slot: str) -> None:
        self._active[slot] -= 1

    async def run(self, call: Syscall, slot: str, quantum: int | None) -> Generation | Suspended:
        streamed = bool(call.listeners) or call.chunks is not None
        said, snapshot = (call.snapshot, None) if isinstance(call.snapshot, Said) else (None, call.snapshot)
        request = Request(
            call.id,
            call.args,
            call.emit,
            snapshot,
            streamed,
            said,
            call.process.nice,
            num_switches=call.num_switches,
            note=call.note,
        )
        try:
            outcome = await self._cores[slot].run(request, quantum)
        except NotBegun as refusal:
            return self._try_again(call, slot, refusal)
        if isinstance(outcome, Generation):
            self._account(call, outcome)
            if call.context is not None or call.cost is not None:
                outcome = msgspec.structs.replace(outcome, context=call.context, cost=call.cost)
        else:
            call.num_tries = 0
        return outcome

    def _try_again(self, call: Syscall, slot: str, refusal: NotBegun) -> Suspended:
        """Back to the queue, for another core or for this one later. Raises what went wrong when it was tried often,
        or when what was said cannot be gone on with anywhere."""
        call.num_tries += not refusal.is_busy
        said, cores = refusal.said, self._router.cores_for(call.args.model)
        if call.num_tries >= MAX_TRIES or (said and not any(c.can_continue(call.args, said) for c in cores)):
            raise refusal.error
        call.refused_until[slot] = self._now() + refusal.after
        return Suspended(said, 0, refusal.after, is_refusal=True)

    def _account(self, call: Syscall, generation: Generation) -> None:
        call.snapshot = None
        call.tokens_in = generation.usage.prompt_tokens
        call.tokens_out = generation.usage.completion_tokens
        call.cost = self.prices.cost(call.args, generation)
        if call.cost is not None:
            self._spent[generation.core] = self._spent.get(generation.core, 0.0) + call.cost

    def drop(self, call: Syscall) -> None:
        if call.snapshot is not None and call.core is not None:
            if not isinstance(call.snapshot, Said):
                self._cores[call.core].drop(call.snapshot)
            call.snapshot = None

    def adopt(self, call: Syscall, stored: Stored) -> bool:
        """Let `call` go on from what an earlier run of the kernel has left of it. False if its core is not here."""
        core = self._cores.get(stored.core)
        if core is None or core.resume != "kv_exact" or core not in self._router.cores_for(call.args.model):
            return False
        call.snapshot, call.core = stored, stored.core
        return True

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

"""What `llm_generate` and `llm_embed` mean: which core may run a call, and how a slice of it is run.

Knows no policy and no wire.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec

from aios.abi.calls import LLMEmbed, LLMGenerate
from aios.abi.errors import AiosError, KernelFault
from aios.abi.messages import Chunk, Embeddings, Generation

from ..syscall import Suspended, Syscall
from .affinity import Ties, beginnings
from .base import Core, CoreInfo, NotBegun, Request, Said, Stored, Textual, read_said
from .embed import check_embed, check_input, embedder, is_for_embedding
from .measure import Measure, check_length, measure_of
from .prices import Prices
from .roster import AT_WORK, OPEN, CoreState, Roster, Seat
from .router import Router

GOING_ON = frozenset({CoreState.READY, CoreState.RESTARTING})
"""States of cores that go on, now or soon, with half an answer of another one."""
MAX_TRIES = 4
"""Times that a call is begun before its error is given to the agent. Being refused for load does not count: waiting
for room is what the queue is for, and the call's own deadline ends it."""


class LLMManager:
    """Hands slots of cores to calls. The queue's runner for "llm"; what it calls a slot is a core's seat.

    `on_left` hears of each call that gives up its slot or its snapshot.
    """

    def __init__(self, roster: Roster, router: Router, now: Callable[[], float], prices: Prices | None = None) -> None:
        self.roster = roster
        self.router = router
        self.prices = prices or Prices()
        self.on_left: Callable[[], None] = lambda: None
        self._now = now

    def check(self, call: Syscall) -> None:
        """Raise what keeps every core of this name from taking the call, now or ever. Cores that cannot take it though
        others can are not asked."""
        refusals: list[AiosError] = []
        if isinstance(call.args, LLMEmbed):
            check_input(call.args)
            call.args = self._for_embedding(call.args)
        serving = self.router.serving(call.args.model)
        for seat in serving:
            try:
                self._check(seat.core, call.args)
            except AiosError as error:
                refusals.append(error)
                call.refused_until[seat.name] = math.inf
            else:  # another core may have come under a name that could not take it
                if call.refused_until.get(seat.name) == math.inf:
                    del call.refused_until[seat.name]
        if len(refusals) == len(serving):
            raise refusals[0]

    def _check(self, core: Core, args: LLMGenerate | LLMEmbed) -> None:
        if isinstance(args, LLMEmbed):
            check_embed(core, args, [seat.core for seat in self.roster])
            return
        core.check(args)
        if args.window in (None, "error"):
            check_length(core, args)

    def _for_embedding(self, args: LLMEmbed) -> LLMEmbed:
        """With the name of a core that is for embedding, if there is one, where none was named or none that we know:
        the router's default is for answering."""
        if args.model and args.model in self.router.names():
            return args
        found = next((seat.name for seat in self.roster if is_for_embedding(seat.core)), None)
        if found is None or (args.model and self.router.default is None):
            return args
        return msgspec.structs.replace(args, model=found)

    def measure(self, model: str | None) -> Measure | None:
        """The smallest window among the cores that answer to `model`, as far as they know theirs."""
        found = [measure_of(seat.core) for seat in self.router.serving(model)]
        return min((each for each in found if each is not None), key=lambda each: each.context, default=None)

    def shortest_context(self, model: str) -> int | None:
        """Tokens that every core of that name takes, as far as they know."""
        route = self.router.route(model) if self.knows(model) else None
        known = [seat.core.context_length for seat in route.seats] if route is not None else []
        return min((each for each in known if each is not None), default=None)

    def knows(self, model: str) -> bool:
        """Whether anything has that name; others go to the default."""
        return model in self.router.names()

    def free(self) -> Iterable[Seat]:
        """Cores with a free slot, the least loaded first."""
        room = [seat for seat in self.roster if seat.state in AT_WORK and seat.has_room]
        return sorted(room, key=lambda seat: seat.active / seat.core.slots)

    def fits(self, call: Syscall, seat: Seat) -> bool:
        if not seat.has_room:
            return False
        if call.snapshot is not None and not isinstance(call.snapshot, Said):
            return call.core == seat.name and seat.state in AT_WORK and seat.core.can_take(call.snapshot, seat.active)
        route = self.router.route(call.args.model)
        if route is None or seat.name not in route.by_name or not self._can_take(call, seat):
            return False
        if len(route.by_name) == 1:
            return True
        chosen = self.router.choose(
            route, _ties(call), lambda each: self._can_take(call, each), lambda each: self._declines(call, each)
        )
        return chosen is seat

    def _can_take(self, call: Syscall, seat: Seat) -> bool:
        """Whether `seat` can begin the call now, or go on with half an answer. That may end where it was begun, also
        when that is drained."""
        is_its_own = call.snapshot is not None and call.core == seat.name
        return (
            (seat.state is CoreState.READY or (is_its_own and seat.state is CoreState.DRAINING))
            and seat.has_room
            and not self._declines(call, seat)
            and seat.core.can_take(None, seat.active)
        )

    def _declines(self, call: Syscall, seat: Seat) -> bool:
        """Whether it refused this very call and need not be asked now, or cannot go on with what was said of it."""
        if call.refused_until and call.refused_until.get(seat.name, 0.0) > self._now():
            return True
        said = call.snapshot
        return said is not None and not seat.core.can_continue(call.args, said) and self.can_continue(call, said)

    def can_continue(self, call: Syscall, said: Said) -> bool:
        """Whether any core of its name can go on with what was said of `call`. If none can any more, whichever gets
        it says so."""
        route = self.router.route(call.args.model)
        seats = route.seats if route is not None else []
        there = [seat for seat in seats if seat.state in GOING_ON or (call.core == seat.name and seat.state in OPEN)]
        return any(seat.core.can_continue(call.args, said) for seat in there)

    def take(self, call: Syscall, seat: Seat) -> None:
        seat.active += 1
        call.core = seat.name
        route = self.router.route(call.args.model)
        if call.snapshot is None and route is not None and len(route.by_name) > 1:
            self.router.begins(route, _ties(call), seat.name)

    def release(self, call: Syscall, seat: Seat) -> None:
        seat.active -= 1
        self.on_left()

    async def run(self, call: Syscall, seat: Seat, quantum: int | None) -> Generation | Embeddings | Suspended:
        if isinstance(call.args, LLMEmbed):
            return await self._embed(call, seat)
        streamed = bool(call.listeners) or call.chunks is not None
        said, snapshot = (call.snapshot, None) if isinstance(call.snapshot, Said) else (None, call.snapshot)
        request = Request(
            call.id,
            call.args,
            call.emit,
            snapshot,
            streamed,
            said,
            max(call.process.nice, call.nice),
            num_switches=call.num_switches,
            note=call.note,
        )
        try:
            outcome = await seat.core.run(request, quantum)
        except NotBegun as refusal:
            return self._try_again(call, seat, refusal)
        seat.is_down = False
        if isinstance(outcome, Generation):
            self._account(call, outcome)
            seat.ended(call.tokens_in, call.tokens_out - call.tokens_charged, self._now(), call.cost)
            if call.context is not None or call.cost is not None or call.memory is not None:
                told = {"context": call.context, "cost": call.cost, "memory": call.memory}
                outcome = msgspec.structs.replace(outcome, **told)
        else:
            seat.spoke(outcome.tokens, self._now())
            call.num_tries = 0
        return outcome

    async def _embed(self, call: Syscall, seat: Seat) -> Embeddings | Suspended:
        core = embedder(seat.core)
        assert core is not None, "others have refused the call"
        try:
            outcome = await core.embed(call.args)
        except NotBegun as refusal:
            return self._try_again(call, seat, refusal)
        seat.is_down = False
        self._account(call, outcome)
        seat.ended(call.tokens_in, 0, self._now(), call.cost)
        return outcome if call.cost is None else msgspec.structs.replace(outcome, cost=call.cost)

    def _try_again(self, call: Syscall, seat: Seat, refusal: NotBegun) -> Suspended:
        """Back to the queue, for another core or for this one later. Raises what went wrong when it was tried often,
        or when somebody has heard what cannot be gone on with anywhere."""
        seat.is_down = not refusal.is_busy
        seat.num_refusals += 1
        call.num_tries += not refusal.is_busy
        said = refusal.said
        is_lost = said is not None and not self.can_continue(call, said)
        if call.num_tries >= MAX_TRIES or (is_lost and call.is_heard):
            raise refusal.error
        if is_lost:
            call.unsay()
            said = None
        call.refused_until[seat.name] = self._now() + refusal.after
        return Suspended(said, 0, refusal.after, is_refusal=True)

    def _account(self, call: Syscall, done: Generation | Embeddings) -> None:
        call.snapshot = None
        call.tokens_in = done.usage.prompt_tokens
        call.tokens_cached = done.usage.prompt_tokens_details.cached_tokens
        call.tokens_out = done.usage.completion_tokens
        call.cost = self.prices.cost(call.args, done)

    def drop(self, call: Syscall) -> None:
        seat = self.roster.get(call.core)
        if call.snapshot is not None and seat is not None and not isinstance(call.snapshot, Said):
            seat.core.drop(call.snapshot)
        call.snapshot = None
        self.on_left()

    def carry_on(self, call: Syscall, state: bytes) -> None:
        """Let `call` go on from what `half_said` gave in an earlier run: who listens hears that first. Raises
        ValueError when it has to begin anew."""
        try:
            said = read_said(state)
        except msgspec.MsgspecError as error:
            raise ValueError(f"what was said of it cannot be read: {error}") from None
        # The names that a server gave its stream stay behind with it: who listens now is told one name from the start.
        said = msgspec.structs.replace(said, id=None, created=None)
        if not self.can_continue(call, said):
            raise ValueError("no core that is ready goes on with half an answer")
        call.snapshot, call.tokens_charged = said, said.tokens
        call.emit(Chunk(said.text, logprobs=said.logprobs, tokens=said.tokens))

    def adopt(self, call: Syscall, stored: Stored) -> bool:
        """Let `call` go on from what its core has left of it in an earlier run. False if that core is not here."""
        seat, route = self.roster.get(stored.core), self.router.route(call.args.model)
        if seat is None or route is None or seat.name not in route.by_name:
            return False
        if seat.state is not CoreState.READY or seat.core.resume != "kv_exact":
            return False
        call.snapshot, call.core = stored, stored.core
        return True

    def info(self) -> list[CoreInfo]:
        return [self.info_of(seat) for seat in self.roster]

    def info_of(self, seat: Seat) -> CoreInfo:
        core = seat.core
        about = (seat.name, core.kind, core.model, core.slots, seat.active, core.context_length, core.resume)
        return CoreInfo(*about, core.statistics() | seat.statistics(self._now()), seat.state.value, seat.why)

    def names(self) -> Collection[str]:
        return self.roster.names()

    def core(self, name: str) -> Core:
        return self.roster.find(name).core

    def check_integrity(self) -> None:
        """When idle, no slot is taken."""
        if taken := {seat.name: seat.active for seat in self.roster if seat.active}:
            raise KernelFault(f"slots are taken while nothing runs: {taken}")

    def statistics(self) -> dict[str, Any]:
        now = self._now()
        return {
            seat.name: {"slots": seat.core.slots, "slots_taken": seat.active, "is_ready": seat.state is CoreState.READY}
            | seat.core.statistics()
            | seat.statistics(now)
            for seat in self.roster
        }


def said_of(call: Syscall) -> Said | None:
    """What was said of it until it was interrupted, for other cores than the one that was; None where that is more than
    text, or nothing."""
    found = call.snapshot
    return found.as_said() if isinstance(found, Textual) else found if isinstance(found, Said) else None


def half_said(call: Syscall) -> bytes | None:
    """What any core of its model may go on from at the kernel's next start; None where nothing was said, or more than
    text. An answer to a summary belongs to that very summary, and the next run may make another one."""
    said = said_of(call)
    if said is None or not said.text or (call.context is not None and call.context.summary):
        return None
    return msgspec.json.encode(said)


def _ties(call: Syscall) -> Ties:
    """What ties `call` to a core. Worked out when first asked for: most kernels have one core for a name."""
    ties: Ties | None = call.ties
    if ties is None:
        args, process = call.args, call.process
        session = call.session or (args.extra or {}).get("prompt_cache_key")
        ties = call.ties = Ties(
            hash((process.owner, process.agent, str(session))) if session else None,  # which may be of any length
            None if process.is_implicit else process.pid,
            beginnings(args) if isinstance(args, LLMGenerate) else (),
        )
    return ties

"""Adding, draining and removing cores while the kernel runs. Knows no policy, no wire and no core's inside.

A core that leaves takes no answer along: what runs on it ends there, or begins anew on another core of its name, or
ends with an error that says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from aios.abi.errors import AiosError, Conflict, CutShort, Full, ModuleFault

from ..config import CoreSection
from ..syscall import TERMINAL, State, Syscall
from .base import Core, CoreInfo, TellsState
from .manager import LLMManager, said_of
from .roster import CORE_TRANSITIONS, OPEN, CoreState, Seat

log = logging.getLogger("aios.cores")

MAX_CORES = 64
Make = Callable[[CoreSection], Core]
Work = Callable[[Seat], Coroutine[Any, Any, None]]


class Calls(Protocol):
    """The calls of this module that are not over, and what can be done with them."""

    def open(self) -> Iterable[Syscall]: ...

    def abort(self, call: Syscall, fate: AiosError) -> None: ...

    def restart(self, call: Syscall) -> None:
        """Take it off its slot; it waits as one that has not begun."""

    def pump(self) -> None:
        """A slot may have come free."""


BOOT_SECONDS = 60.0
"""So long the kernel waits for one core before it begins without."""


class Plug:
    """The cores of one kernel, as they come and go."""

    def __init__(self, manager: LLMManager, make: Make, calls: Calls) -> None:
        self._manager = manager
        self._roster = manager.roster
        self._make = make
        self._calls = calls
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """By name, the opening of a core, or its leaving, the latest that was begun: the next one waits for it."""
        self._all_tasks: set[asyncio.Task[None]] = set()
        self._closing: set[str] = set()
        self._is_serving = False
        self._left = asyncio.Event()
        manager.on_left = self._left.set
        self._roster.listen(self._moved)

    # ── boot and shut down ──

    async def boot(self, what: CoreSection | Core, patience: float = BOOT_SECONDS) -> Seat:
        """Open a core before the kernel takes calls. One that cannot be opened is FAILED, and spares the others; one
        that takes longer than `patience` seconds stays OPENING, and calls for it wait, while the kernel begins."""
        seat = self._seat(what)
        if seat.state is CoreState.OPENING:
            await asyncio.wait([self._begin(seat, self._open)], timeout=patience)
        return seat

    async def close(self) -> None:
        self._is_serving = False
        for task in self._all_tasks:
            task.cancel()
        if self._all_tasks:
            await asyncio.wait(self._all_tasks)
        for seat in reversed(list(self._roster)):
            if seat.state in OPEN:
                self._closing.add(seat.name)
                await seat.core.close()

    # ── while it runs ──

    def add(self, section: CoreSection, by: str | None = None) -> Seat:
        """Begin to open the core that `section` asks for. Asking again for what is there changes nothing, but opens
        anew what failed, and puts back to work what drains. Raises Conflict for another core of that name.

        `by` says who asks, for the trace.
        """
        seat = self._roster.get(section.name)
        if seat is None:
            self._check_name(section.name)
            return self._fresh(section, by)
        if seat.state is CoreState.FAILED:
            return self._anew(seat, section, by)
        if seat.section != section:
            raise Conflict(
                f"there is a core '{section.name}' already, with other settings; "
                f"'aios cores remove {section.name}' first, or choose another name",
                code="core_exists",
                param="name",
            )
        return self._undrain(seat, by) if seat.state is CoreState.DRAINING else seat

    def reopen(self, name: str, by: str | None = None) -> Seat:
        """Open anew a core that failed, put back to work one that drains; nothing for one that is ready."""
        seat = self._roster.find(name)
        if seat.state is CoreState.DRAINING:
            return self._undrain(seat, by)
        return self._anew(seat, seat.section or seat.core, by) if seat.state is CoreState.FAILED else seat

    def drain(self, name: str, by: str | None = None) -> Seat:
        """What runs there ends, nothing new begins; calls that wait for this core alone are told so."""
        seat = self._roster.find(name)
        if seat.state in (CoreState.READY, CoreState.RESTARTING):
            self._roster.move(seat, CoreState.DRAINING, by)
        elif seat.state is not CoreState.DRAINING:
            raise Conflict(f"core '{name}' is {seat.state.value}: there is nothing to drain", code="core_not_ready")
        return seat

    def remove(self, name: str, *, now: bool = False, by: str | None = None) -> Seat:
        """Drain, then close. With `now` what runs there goes to another core, or ends."""
        seat = self._roster.find(name)
        if seat.state in (CoreState.OPENING, CoreState.FAILED):
            if seat.state is CoreState.OPENING:
                self._tasks[name].cancel()
            self._roster.move(seat, CoreState.CLOSED, by)
            return seat
        seat.is_leaving = True
        self.drain(name, by)
        if name not in self._tasks:
            self._begin(seat, self._leave)
        if now:
            for call in self._begun(seat):
                self._move_or_end(call, seat)
        return seat

    def _check_name(self, name: str) -> None:
        if name in self._manager.router.others:
            raise Conflict(
                f"'{name}' is the name of a [[model]] or an alias; choose another name", code="name_taken", param="name"
            )
        if len(self._roster) >= MAX_CORES:
            raise Full(f"there are {MAX_CORES} cores, the most allowed; remove one first", code="too_many_cores")

    def _anew(self, seat: Seat, what: CoreSection | Core, by: str | None) -> Seat:
        self._roster.move(seat, CoreState.CLOSED, by)
        return self._fresh(what, by)

    def _fresh(self, what: CoreSection | Core, by: str | None) -> Seat:
        seat = self._seat(what, by)
        if seat.state is CoreState.OPENING:
            self._begin(seat, self._open)
        return seat

    def _undrain(self, seat: Seat, by: str | None) -> Seat:
        if seat.name in self._closing:
            raise Conflict(f"core '{seat.name}' is being closed; add it again when it is gone", code="core_closing")
        if (task := self._tasks.pop(seat.name, None)) is not None:
            task.cancel()
        seat.is_leaving = False
        self._roster.move(seat, CoreState.READY, by)
        return seat

    def find(self, name: str) -> Seat:
        """Raises NotFound that names the nearest."""
        return self._roster.find(name)

    def info(self) -> list[CoreInfo]:
        return [self.info_of(seat) for seat in self._roster]

    def info_of(self, seat: Seat) -> CoreInfo:
        return dataclasses.replace(self._manager.info_of(seat), left=self.left(seat))

    def left(self, seat: Seat) -> int:
        """Calls that have begun there and are not over."""
        return len(self._begun(seat))

    def _begun(self, seat: Seat) -> list[Syscall]:
        return [
            call
            for call in self._calls.open()
            if call.core == seat.name and (call.state is State.RUNNING or call.snapshot is not None)
        ]

    # ── what goes on behind ──

    def _seat(self, what: CoreSection | Core, by: str | None = None) -> Seat:
        """A seat for it, FAILED at once when such a core cannot even be made."""
        if not isinstance(what, CoreSection):
            return self._seated(what, None, by)
        try:
            core = self._make(what)
        except (AiosError, ImportError, OSError) as error:
            seat = self._roster.add(_Unmade(what), what, by)
            self._fail(seat, error)
            return seat
        return self._seated(core, what, by)

    def _seated(self, core: Core, section: CoreSection | None, by: str | None) -> Seat:
        seat = self._roster.add(core, section, by)
        if isinstance(core, TellsState):
            core.tell = lambda state, why: self._hear(seat, CoreState(state), why)
        return seat

    def _begin(self, seat: Seat, work: Work) -> asyncio.Task[None]:
        before = self._tasks.get(seat.name)
        task = self._tasks[seat.name] = asyncio.get_running_loop().create_task(_after(before, work, seat))
        self._all_tasks.add(task)
        task.add_done_callback(lambda done: self._done(seat, done))
        return task

    def _done(self, seat: Seat, task: asyncio.Task[None]) -> None:
        self._all_tasks.discard(task)
        if self._tasks.get(seat.name) is task:
            del self._tasks[seat.name]
        if task.cancelled():
            return
        if (bug := task.exception()) is not None and seat.state is CoreState.OPENING:
            log.error("core '%s' has a bug in its opening", seat.name, exc_info=bug)
            self._fail(seat, bug)
        else:
            task.result()

    async def _open(self, seat: Seat) -> None:
        try:
            await seat.core.open()
        except (AiosError, ImportError, OSError, MemoryError) as error:
            self._fail(seat, error)
        except asyncio.CancelledError:
            with contextlib.suppress(AiosError, OSError):
                await seat.core.close()
            raise
        else:
            self._roster.move(seat, CoreState.READY)

    def _fail(self, seat: Seat, error: BaseException) -> None:
        why = error.message if isinstance(error, AiosError) else str(error) or type(error).__name__
        why = why.removeprefix(f"core '{seat.name}' cannot be loaded: ")
        self._roster.move(seat, CoreState.FAILED, why)
        log.warning("core '%s' could not be opened: %s", seat.name, why)

    def _hear(self, seat: Seat, state: CoreState, why: str | None) -> None:
        """A core's own word on how it is. Of one that drains only its end counts, of one that is closing nothing."""
        is_told = state is CoreState.FAILED if seat.state is CoreState.DRAINING else seat.state in OPEN
        if not is_told or state not in CORE_TRANSITIONS[seat.state] or seat.name in self._closing:
            return
        self._roster.move(seat, state, why)
        if state is CoreState.FAILED:
            log.error("core '%s' failed: %s", seat.name, why)
            if seat.name not in self._tasks:
                self._begin(seat, self._bury)

    async def _leave(self, seat: Seat) -> None:
        await self._emptied(seat)
        self._closing.add(seat.name)
        try:
            await seat.core.close()
        finally:
            self._closing.discard(seat.name)
            if seat.state is not CoreState.CLOSED:  # it failed meanwhile, and was removed once more
                self._roster.move(seat, CoreState.CLOSED, seat.why)

    async def _bury(self, seat: Seat) -> None:
        """Close a core that failed, once nothing is left inside."""
        try:
            await self._emptied(seat)
        finally:
            await seat.core.close()

    async def _emptied(self, seat: Seat) -> None:
        """Wait until no call is inside that has begun there."""
        while self.left(seat) or seat.active:
            self._left.clear()
            await self._left.wait()
            await asyncio.sleep(0)  # between two slices a call has no slot, for a moment
            if seat.state not in OPEN:
                self.sweep()  # what has just been interrupted there does not go on there

    def _moved(self, seat: Seat) -> None:
        if self._is_serving:
            asyncio.get_running_loop().call_soon(self.sweep)

    def serve(self) -> None:
        """Boot is over: calls that were taken up from an earlier kernel may have lost their core."""
        self._is_serving = True
        self.sweep()

    def sweep(self) -> None:
        """End the calls that no core can serve any more, those too that are still on their way into the journal, and
        see what others can begin now."""
        for call in list(self._calls.open()):
            if call.state is State.RUNNING or call.state in TERMINAL:
                continue
            if call.snapshot is not None:
                seat = self._roster.get(call.core)
                if seat is None or seat.state not in OPEN:
                    self._move_or_end(call, seat)
            elif (why := self._hopeless(call)) is not None:
                self._calls.abort(call, why)
        self._calls.pump()

    def _hopeless(self, call: Syscall) -> AiosError | None:
        try:
            self._manager.check(call)
        except AiosError as error:
            return error
        return None

    def _move_or_end(self, call: Syscall, seat: Seat | None) -> None:
        """Let `call` go on on another core that can continue it, or begin anew on one if nobody has heard what it said
        here."""
        said = said_of(call) if call.state is not State.RUNNING else None
        if (why := self._hopeless(call)) is None:
            if said is not None and self._manager.can_continue(call, said):
                self._manager.drop(call)
                call.snapshot, call.core = said, None
                return
            if not call.is_heard:
                self._calls.restart(call)
                return
        is_removed = seat is None or seat.state is not CoreState.FAILED
        if why is None or (is_removed and call.is_heard):
            why = _cut_short(call.core if seat is None else seat.name, seat, why)
        self._calls.abort(call, why)


async def _after(before: asyncio.Task[None] | None, work: Work, seat: Seat) -> None:
    if before is not None:
        await asyncio.wait([before])
    await work(seat)


def _cut_short(name: str | None, seat: Seat | None, hopeless: AiosError | None) -> AiosError:
    """What half an answer ends with that nobody can go on with; `hopeless`: nor begin it anew."""
    then = "; ask again" if hopeless is None else f", and {hopeless.message}"
    if seat is not None and seat.state is CoreState.FAILED:
        why = f"core '{name}' failed in the middle of this answer ({seat.why}); ask again"
        return ModuleFault(why, code="core_failed", retry_after=1)
    what = f"core '{name}' was removed in the middle of this answer" if name else "what began this answer is gone"
    return CutShort(f"{what}{then}", retry_after=1)


class _Unmade:
    """Stands for a core that could not be made: something to show, and nothing more."""

    resume = "none"

    def __init__(self, section: CoreSection) -> None:
        self.name, self.slots = section.name, section.slots
        self.kind: str = section.kind
        self.context_length: int | None = None
        self.model = section.model or section.name

    async def open(self) -> None:
        raise ModuleFault(f"core '{self.name}' could not be made")

    async def close(self) -> None:
        """There is nothing to close."""

    def check(self, args: Any) -> None:
        """It is never asked."""

    def can_take(self, snapshot: Any, active: int = 0) -> bool:
        return False

    def can_continue(self, args: Any, said: Any) -> bool:
        return False

    async def run(self, request: Any, quantum: int | None) -> Any:
        raise ModuleFault(f"core '{self.name}' could not be made")

    def drop(self, snapshot: Any) -> None:
        """It gave none."""

    def statistics(self) -> dict[str, Any]:
        return {}

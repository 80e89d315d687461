"""Adding, draining and removing cores while the kernel runs. Knows no policy, no wire and no core's inside.

What becomes of the calls of a core that leaves is decided in `departing.py`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from aios.abi.errors import AiosError, Conflict, Full

from ..config import CoreSection
from .base import Core, CoreInfo, TellsState
from .departing import Calls, Departing
from .manager import LLMManager
from .roster import HEARD, OPEN, CoreState, Seat
from .serial import Serial
from .unmade import Unmade

log = logging.getLogger("aios.cores")

MAX_CORES = 64
Make = Callable[[CoreSection], Core]
Work = Callable[[Seat], Coroutine[Any, Any, None]]
BOOT_SECONDS = 60.0
"""So long the kernel waits for one core before it begins without."""


class Plug:
    """The cores of one kernel, as they come and go."""

    def __init__(self, manager: LLMManager, make: Make, calls: Calls) -> None:
        self._manager = manager
        self._roster = manager.roster
        self._make = make
        self._departing = Departing(manager, calls)
        self._serial = Serial()
        self._tasks: dict[Seat, asyncio.Task[None]] = {}
        """What is under way for a seat: its opening, or its leaving."""
        self._opened: list[Seat] = []
        """Whose cores are to be closed: those that are open, half open, or not yet closed."""
        self._is_serving = False
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
        """Close every core that is not closed yet, also one that is just being opened. One that cannot be closed keeps
        no other open."""
        self._is_serving = False
        for seat in self._opened:
            seat.is_closing = True  # what it says of itself counts no more, or it would be closed twice at once
        await self._serial.end()
        seats = list(self._opened)
        for seat, end in zip(seats, await asyncio.gather(*map(self._shut, seats), return_exceptions=True), strict=True):
            if end is not None:
                log.error("core '%s' has a bug in its closing", seat.name, exc_info=end)

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
                self._tasks[seat].cancel()
            self._roster.move(seat, CoreState.CLOSED, by)
            return seat
        self.drain(name, by)
        if not seat.is_leaving:
            seat.is_leaving = True
            self._begin(seat, self._leave)
        if now:
            self._departing.interrupt(seat)
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
        if seat.is_closing:
            raise Conflict(f"core '{seat.name}' is being closed; add it again when it is gone", code="core_closing")
        if seat.is_leaving:
            self._tasks[seat].cancel()
            seat.is_leaving = False
        self._as_told(seat, by)
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
        return len(self._departing.begun(seat))

    # ── what goes on behind ──

    def _seat(self, what: CoreSection | Core, by: str | None = None) -> Seat:
        """A seat for it, FAILED at once when such a core cannot even be made."""
        if not isinstance(what, CoreSection):
            return self._seated(what, None, by)
        try:
            core = self._make(what)
        except (AiosError, ImportError, OSError) as error:
            seat = self._roster.add(Unmade(what), what, by)
            self._fail(seat, error)
            return seat
        return self._seated(core, what, by)

    def _seated(self, core: Core, section: CoreSection | None, by: str | None) -> Seat:
        seat = self._roster.add(core, section, by)
        if isinstance(core, TellsState):
            core.tell = lambda state, why: self._hear(seat, CoreState(state), why)
        return seat

    def _begin(self, seat: Seat, work: Work) -> asyncio.Task[None]:
        task = self._tasks[seat] = self._serial.begin(seat.name, lambda: work(seat))
        task.add_done_callback(lambda done: self._done(seat, done))
        return task

    def _done(self, seat: Seat, task: asyncio.Task[None]) -> None:
        if self._tasks.get(seat) is task:
            del self._tasks[seat]
        if not task.cancelled() and (bug := task.exception()) is not None:
            log.error("core '%s' has a bug in its opening or closing", seat.name, exc_info=bug)
            if seat.state is CoreState.OPENING:
                self._fail(seat, bug)

    async def _open(self, seat: Seat) -> None:
        self._opened.append(seat)
        try:
            await seat.core.open()
            if seat.state is CoreState.OPENING:  # else it was removed meanwhile
                self._as_told(seat)
        except (AiosError, ImportError, OSError, MemoryError) as error:
            if seat.state is CoreState.OPENING:
                self._fail(seat, error)
        finally:
            if seat.state not in OPEN:  # it may be half open
                await self._shut(seat)

    def _fail(self, seat: Seat, error: BaseException) -> None:
        why = error.message if isinstance(error, AiosError) else str(error) or type(error).__name__
        why = why.removeprefix(f"core '{seat.name}' cannot be loaded: ")
        self._roster.move(seat, CoreState.FAILED, why)
        log.warning("core '%s' could not be opened: %s", seat.name, why)

    def _hear(self, seat: Seat, state: CoreState, why: str | None) -> None:
        """A core's own word on how it is: it counts now, or when the core is to serve (again). Of one that is closing
        nothing does."""
        if seat.is_closing:
            return
        seat.word = state, why
        if state in HEARD[seat.state]:
            self._as_told(seat)

    def _as_told(self, seat: Seat, by: str | None = None) -> None:
        """It serves, or does not, as its own last word was."""
        state, why = seat.word
        self._roster.move(seat, state, why or by)
        if state is CoreState.FAILED:
            log.error("core '%s' failed: %s", seat.name, why)
            if not seat.is_leaving:
                self._begin(seat, self._leave)

    async def _leave(self, seat: Seat) -> None:
        """Close a core that is removed or failed, once nothing is left inside."""
        try:
            await self._departing.emptied(seat)
        finally:
            if not _is_cancelled():  # else it is put back to work, or the kernel stops, which closes all
                await self._close(seat)

    async def _close(self, seat: Seat) -> None:
        try:
            await self._shut(seat)
        finally:
            if seat.is_leaving and seat.state is not CoreState.CLOSED:  # it may have failed, and been removed once more
                self._roster.move(seat, CoreState.CLOSED, seat.why)

    async def _shut(self, seat: Seat) -> None:
        """Close its core, once in all. One that cannot be closed is let go all the same, and the log says why."""
        if seat not in self._opened:
            return
        seat.is_closing = True
        try:
            await seat.core.close()
        except (AiosError, OSError) as error:
            log.warning("core '%s' could not be closed: %s", seat.name, error)
        self._opened.remove(seat)

    def _moved(self, seat: Seat) -> None:
        if self._is_serving:
            asyncio.get_running_loop().call_soon(self._departing.sweep)

    def serve(self) -> None:
        """Boot is over: calls that were taken up from an earlier kernel may have lost their core."""
        self._is_serving = True
        self._departing.sweep()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

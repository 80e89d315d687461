"""The calls of cores that leave or fail: what ends, what moves on, and when none is left inside. Opens and closes no
core.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from aios.abi.errors import AiosError, CutShort, ModuleFault

from ..syscall import TERMINAL, State, Syscall
from .manager import LLMManager, said_of
from .roster import OPEN, CoreState, Seat


class Calls(Protocol):
    """The calls of this module that are not over, and what can be done with them."""

    def open(self) -> Iterable[Syscall]: ...

    def abort(self, call: Syscall, fate: AiosError) -> None: ...

    def restart(self, call: Syscall) -> None:
        """Take it off its slot; it waits as one that has not begun."""

    def pump(self) -> None:
        """A slot may have come free."""


class Departing:
    """A core that leaves takes no answer along: what runs on it ends there, or begins anew on another core of its name,
    or ends with an error that says why."""

    def __init__(self, manager: LLMManager, calls: Calls) -> None:
        self._manager = manager
        self._roster = manager.roster
        self._calls = calls
        self._left = asyncio.Event()
        manager.on_left = self._left.set

    def begun(self, seat: Seat) -> list[Syscall]:
        """Calls that have begun there and are not over."""
        return [
            call
            for call in self._calls.open()
            if call.core == seat.name and (call.state is State.RUNNING or call.snapshot is not None)
        ]

    async def emptied(self, seat: Seat) -> None:
        """Wait until no call is inside that has begun there."""
        while self.begun(seat) or seat.active:
            self._left.clear()
            await self._left.wait()
            await asyncio.sleep(0)  # between two slices a call has no slot, for a moment
            if seat.state not in OPEN:
                self.sweep()  # what has just been interrupted there does not go on there

    def interrupt(self, seat: Seat) -> None:
        """What runs there goes to another core, or ends."""
        for call in self.begun(seat):
            self._move_or_end(call, seat)

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


def _cut_short(name: str | None, seat: Seat | None, hopeless: AiosError | None) -> AiosError:
    """What half an answer ends with that nobody can go on with; `hopeless`: nor begin it anew."""
    then = "; ask again" if hopeless is None else f", and {hopeless.message}"
    if seat is not None and seat.state is CoreState.FAILED:
        why = f"core '{name}' failed in the middle of this answer ({seat.why}); ask again"
        return ModuleFault(why, code="core_failed", retry_after=1)
    what = f"core '{name}' was removed in the middle of this answer" if name else "what began this answer is gone"
    return CutShort(f"{what}{then}", retry_after=1)

"""What is known of a call's effects when it breaks off: marked before they begin, told honestly at the end. Knows no
queue.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from aios.abi.calls import Effect
from aios.abi.errors import AiosError, CutShort, OutcomeUnknown, Stopping

from .journal import Journal
from .scheduler import Runner
from .syscall import State, Syscall

NEVER_RAN = "tool_unavailable"
"""The code of a tool's run that came to nothing before the tool was asked."""


class Tools(Runner[str], Protocol):
    """The tool room."""

    def side_effect(self, call: Syscall) -> bool:
        """Whether what `call` runs changes anything."""


class Effects:
    """What a second run of a call could do, when nobody can tell what became of the first."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def cut_short(self, call: Syscall) -> AiosError:
        """What `call` ends with when the kernel will not wait for it: to come back, unless that could do harm."""
        if call.is_detached and not (call.state is State.RUNNING and self._may_be_half_done(call)):
            return Stopping("the kernel stopped before this was done; it goes on at the next start", retry_after=5)
        if call.state is State.RUNNING and self._may_have_changed(call):
            return OutcomeUnknown(
                "the kernel stopped while this ran; whether it took effect is not known: look before you try again"
            )
        return CutShort("the kernel stopped before this was done; try again when it is back", retry_after=5)

    def _may_be_half_done(self, call: Syscall) -> bool:
        """Whether it is not carried on at the next start: nobody could tell what of it was done."""
        return not call.spec.is_repeatable and self._may_have_changed(call)

    def _may_have_changed(self, call: Syscall) -> bool:
        """Whether a second run of `call` could do harm, if the first took effect."""
        if call.spec.effect in (Effect.PURE, Effect.READ):
            return False
        return call.spec.module != "tool" or self._tools.side_effect(call)


def is_journalled(call: Syscall) -> bool:
    """Whether a crash would leave anything of the call to tell: not of a mere look, nor of the process table."""
    return call.spec.module != "kernel" and (call.key is not None or call.spec.effect is not Effect.READ)


def after_begun(error: AiosError) -> AiosError:
    """What a side effect under a key is said to have ended with: not with what asking again would mend, when it had
    begun and may have been done."""
    if error.status < 500 or isinstance(error, Stopping | OutcomeUnknown) or error.code == NEVER_RAN:
        return error
    why = f"{error.message}; whether it took effect is not known: it is not run again under this key"
    return type(error)(why, code=OutcomeUnknown.default_code, call_id=error.call_id)


class Marked:
    """The tool room's runner, with a mark in the journal before a side effect of a keyed call begins."""

    def __init__(self, tools: Tools, journal: Journal) -> None:
        self._tools = tools
        self._journal = journal
        self.check, self.free, self.fits = tools.check, tools.free, tools.fits
        self.take, self.release, self.drop = tools.take, tools.release, tools.drop

    async def run(self, call: Syscall, slot: str, quantum: int | None) -> Any:
        if call.key is not None and self._tools.side_effect(call):
            await self._mark(call)
        return await self._tools.run(call, slot, quantum)

    async def _mark(self, call: Syscall) -> None:
        marked: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def then(error: AiosError | None) -> None:
            if not marked.done():
                marked.set_result(None) if error is None else marked.set_exception(error)

        self._journal.begin(call, then)
        await marked
        call.is_begun = True

"""Time, as the kernel sees it. Everything that waits asks a Clock, so that tests wait for nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """`now` is monotonic seconds for differences, `wall` is seconds since 1970 for people."""

    def now(self) -> float: ...
    def wall(self) -> float: ...
    def call_later(self, delay: float, action: Callable[[], None]) -> Timer: ...


class SystemClock:
    """The machine's clock; timers fire on the running event loop."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def call_later(self, delay: float, action: Callable[[], None]) -> Timer:
        return _Punctual(delay, action)


class _Punctual:
    """A timer that never fires before its time: uvloop counts in whole milliseconds, and who was woken too early would
    find that nothing is due yet, and wait for ever."""

    def __init__(self, delay: float, action: Callable[[], None]) -> None:
        self._due = time.monotonic() + delay
        self._action = action
        self._handle = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        left = self._due - time.monotonic()
        if left > 0:
            self._handle = asyncio.get_running_loop().call_later(left, self._fire)
        else:
            self._action()

    def cancel(self) -> None:
        self._handle.cancel()

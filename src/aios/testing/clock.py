"""A clock that moves only when a test moves it. Knows no event loop: timers fire inside `advance`."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class MockTimer:
    """What `call_later` gives: `cancel` before it is due and it never fires."""

    def __init__(self, due: float, action: Callable[[], None]) -> None:
        self.due = due
        self.action = action
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class MockClock:
    """Implements the kernel's `Clock`. `now` starts at `start`, `wall` at `wall`; both move together."""

    def __init__(self, start: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        self._now = start
        self._offset = wall - start
        self._order = itertools.count()
        self._timers: list[tuple[float, int, MockTimer]] = []

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now + self._offset

    def call_later(self, delay: float, action: Callable[[], None]) -> MockTimer:
        timer = MockTimer(self._now + max(0.0, delay), action)
        heapq.heappush(self._timers, (timer.due, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Move on, firing each timer that comes due at its own time, in order; timers may set timers."""
        if seconds < 0:
            raise ValueError("time does not run backwards")
        end = self._now + seconds
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            if not timer.is_cancelled:
                self._now = max(self._now, due)
                timer.action()
        self._now = end

    @property
    def num_timers(self) -> int:
        """Timers that are set and not cancelled."""
        return sum(not timer.is_cancelled for _, _, timer in self._timers)

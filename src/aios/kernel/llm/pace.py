"""How much a server behind a core is asked at once, and when it is left alone. Plain decisions; knows no wire, no I/O.

Concurrency follows additive increase and multiplicative decrease (Chiu and Jain, 1989): each full round of answers
allows one call more, a refusal for load allows a fifth fewer. Faults in a row open a circuit breaker (Nygard, "Release
It!", 2007): nobody is sent until a pause has passed, then one call goes ahead to see. Pauses double and are drawn at
random from their upper half, so that many kernels do not come back at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable

DECREASE = 0.8
BREAK_AFTER = 5
"""Faults in a row after which the server is left alone."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0


class Pace:
    """Of one server. `most` calls at once are never exceeded. Times are the clock's monotonic seconds."""

    def __init__(self, most: int, now: Callable[[], float], rng: random.Random | None = None) -> None:
        self.most = most
        self.limit = float(most)
        self.num_refused = self.num_faults = 0
        self._now = now
        self._rng = rng or random.Random()
        self._faults = 0
        """In a row."""
        self._pauses = 0
        """In a row."""
        self._until = 0.0
        self._cut_at = -1.0

    @property
    def room(self) -> int:
        """Calls that may be under way at once, now."""
        if self._now() < self._until:
            return 0
        return 1 if self.is_broken else max(1, int(self.limit))

    @property
    def is_broken(self) -> bool:
        """The breaker is open, or half open: at most one call goes ahead."""
        return self._faults >= BREAK_AFTER

    @property
    def waits(self) -> float:
        """Seconds until the server may be asked again; 0 when it may be now."""
        return max(0.0, self._until - self._now())

    def went_well(self, active: int) -> None:
        """An answer came; `active` calls were under way, this one among them."""
        self._faults = self._pauses = 0
        if active >= int(self.limit):
            self.limit = min(float(self.most), self.limit + 1.0 / self.limit)

    def was_refused(self, began: float, active: int, after: float | None) -> float:
        """The server has too much to do. Returns the seconds to leave it alone: `after` if it said so."""
        self.num_refused += 1
        if began >= self._cut_at:  # those sent before the last cut tell nothing about what is allowed now
            self.limit = max(1.0, min(self.limit, float(active)) * DECREASE)
            self._cut_at = self._now()
            return self._rest(after)
        return self.waits

    def went_wrong(self, after: float | None = None) -> float:
        """The server broke, hung or could not be reached. Returns the seconds to leave this call alone."""
        self.num_faults += 1
        self._faults += 1
        if self.is_broken:
            return self._rest(after)
        return after if after is not None else self._drawn(0)

    def statistics(self) -> dict[str, float | int]:
        return {
            "limit": round(self.limit, 1),
            "refused": self.num_refused,
            "faults": self.num_faults,
            "pause_s": round(self.waits, 1),
        }

    def _rest(self, after: float | None) -> float:
        pause = after if after is not None else self._drawn(self._pauses)
        self._pauses += 1
        self._until = max(self._until, self._now() + pause)
        return self.waits

    def _drawn(self, pauses: int) -> float:
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**pauses)
        return longest * self._rng.uniform(0.5, 1.0)

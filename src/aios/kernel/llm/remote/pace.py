"""How much a server behind a core is asked at once, and when it is left alone. Plain decisions; knows no wire, no I/O.

Concurrency follows additive increase and multiplicative decrease (Chiu and Jain, 1989), with two amendments. A server
that refuses now and then, however little it is asked, is not full: a refusal counts only where no more answers than
refusals came at that many calls at once. And the number at which it did refuse is remembered: below it the limit grows
fast, beside it slowly, since every attempt costs somebody a refusal.

Faults in a row open a circuit breaker (Nygard, "Release It!", 2007): nobody is sent until a pause has passed, then one
call goes ahead to see. Pauses double and are drawn at random from their upper half, so that many kernels do not come
back at once.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

DECREASE = 0.8
INCREASE = 0.25
"""What one answer adds to a limit that is far from where the server refused."""
PATIENCE = 16
"""Rounds of answers for one attempt to go where the server refused."""
BREAK_AFTER = 5
"""Faults in a row after which the server is left alone."""
REST_AFTER = 3
"""Refusals in a row, without any answer, after which it is not its fullness, and nobody is sent for a while."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0


class Pace:
    """Of one server. `most` calls at once are never exceeded. Times are the clock's monotonic seconds.

    What came of a request is told with when it was sent (`began`) and how many were under way then, this one among
    them (`active`).
    """

    def __init__(self, most: int, now: Callable[[], float], rng: random.Random | None = None) -> None:
        self.most = most
        self.limit = float(most)
        self.num_refused = self.num_faults = 0
        self._now = now
        self._rng = rng or random.Random()
        self._ceiling = most + 1
        """So many at once were refused."""
        self._good: Counter[int] = Counter()
        self._bad: Counter[int] = Counter()
        """Answers and refusals lately, by how many calls were under way."""
        self._faults = self._refusals = 0
        """In a row."""
        self._pauses = 0
        """In a row."""
        self._until = 0.0
        self._cut_at = self._well_at = self._rested_at = -1.0

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

    def went_well(self, began: float, active: int) -> None:
        """An answer came."""
        self._faults = self._refusals = self._pauses = 0
        self._well_at = self._now()
        self._good[active] += 1
        self._fade()
        if active >= self._ceiling and not self._is_over(active, since=0):
            self._ceiling = self.most + 1
        if active > self.limit and began < self._cut_at and not self._is_over(active, since=0):
            self.limit = float(min(active, self.most))  # the cut was for a refusal that meant nothing
        elif active >= int(self.limit):
            self.limit = min(float(self.most), self.limit + self._step())

    def _step(self) -> float:
        if self.limit + 2 < self._ceiling:
            return INCREASE
        return 1.0 / (self.limit if int(self.limit) + 1 < self._ceiling else self.limit * PATIENCE)

    def was_refused(self, began: float, active: int, after: float | None) -> float:
        """The server has too much to do. Returns the seconds to leave this call alone: `after` if it said so, and then
        nobody else is sent either."""
        self.num_refused += 1
        self._bad[active] += 1
        if began >= self._cut_at:  # those sent before the last cut tell nothing about what is allowed now
            self._refusals += 1
            if self._is_over(active, since=active) or self._refusals >= REST_AFTER:
                self._cut(active)
        if after is not None or self._refusals >= REST_AFTER:
            return self._rest(began, after)
        return max(self.waits, self._drawn(0))

    def _cut(self, active: int) -> None:
        self._ceiling = min(active, self.most)
        self.limit = max(1.0, min(self.limit, float(active)) * DECREASE)
        self._cut_at = self._now()
        for level in [level for level in self._good if level >= active]:
            del self._good[level]

    def _is_over(self, level: int, *, since: int) -> bool:
        """Whether `level` calls at once are more than the server takes: no fewer were refused, at `since` to `level` at
        once, than were answered at `level` or more."""
        bad = sum(number for at, number in self._bad.items() if since <= at <= level)
        return bad >= sum(number for at, number in self._good.items() if at >= level)

    def _fade(self) -> None:
        """What is long past weighs less."""
        if self._good.total() + self._bad.total() <= 2 * self.limit + 16:
            return
        for counts in (self._good, self._bad):
            for level in list(counts):
                counts[level] //= 2
                if not counts[level]:
                    del counts[level]

    def went_wrong(self, began: float, after: float | None = None) -> float:
        """The server broke, hung or could not be reached. Returns the seconds to leave this call alone."""
        self.num_faults += 1
        self._faults += began >= self._well_at  # of a request older than the last answer the server may have recovered
        if self.is_broken:
            return self._rest(began, after)
        return after if after is not None else self._drawn(0)

    def statistics(self) -> dict[str, float | int]:
        return {
            "limit": round(self.limit, 1),
            "refused": self.num_refused,
            "faults": self.num_faults,
            "pause_s": round(self.waits, 1),
        }

    def _rest(self, began: float, after: float | None) -> float:
        """Send nobody for a while; longer than the last time if this was sent after that."""
        if after is not None:
            self._until = max(self._until, self._now() + after)
        elif began >= self._rested_at:
            self._until = max(self._until, self._now() + self._drawn(self._pauses))
            self._rested_at = self._now()
            self._pauses += 1
        return max(self.waits, 0.0 if after is not None else self._drawn(0))

    def _drawn(self, pauses: int) -> float:
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**pauses)
        return longest * self._rng.uniform(0.5, 1.0)

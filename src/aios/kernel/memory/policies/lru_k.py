"""LRU-K: the entry leaves whose K-th last use is longest ago (O'Neil, O'Neil and Weikum, SIGMOD 1993).

Two uses within `correlated` seconds are one: a program that writes and reads back has shown no lasting interest. What
an entry's uses were is remembered for a while after it has left, or it would come back a stranger each time. An entry
of fewer than K uses has none that long ago, and leaves before all others, the one that was used last the last.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from sys import getsizeof

from ..sizes import FLOAT, INT, POINTER, TUPLE, fitted

Past = tuple[float, ...]
"""When it was used last, and the times of its last uncorrelated uses, K at most, the newest first."""
Item = tuple[float, float, int]
"""The time of the K-th last use, that of the last, the key: the least leaves first."""
ITEM = TUPLE + 3 * POINTER
LONG_AGO = float("-inf")
MAX_PASSED = 8
"""Entries that are passed over since they were used just now. When all of so many were, the first of them leaves."""


class LRUK:
    """`retained` is how many of those that have left are remembered, for each that is there, and `period` for how
    long: seconds, as `correlated`."""

    def __init__(self, k: int = 2, *, correlated: float = 1.0, retained: float = 0.5, period: float = 3600.0) -> None:
        self._k = k
        self._correlated = correlated
        self._retained = retained
        self._period = period
        self._there: dict[int, Past] = {}
        self._gone: OrderedDict[int, Past] = OrderedDict()
        self._heap: list[Item] = []
        """At least one item of each key that is there, perhaps of an earlier time: what is used is worth more."""
        self._pasts = 0
        """Bytes of all pasts."""

    @property
    def size(self) -> int:
        tables = getsizeof(self._there) + getsizeof(self._gone) + getsizeof(self._heap)
        return tables + self._pasts + len(self._gone) * INT + len(self._heap) * ITEM

    def __len__(self) -> int:
        return len(self._there)

    def touched(self, key: int, size: int, now: float) -> None:
        past = self._there.get(key)
        if past is None:
            self._come(key, now)
            return
        if now - past[0] <= self._correlated:
            new = (now, *past[1:])
        else:
            # A burst was one use, at its end: the time from each use to the next is counted without bursts.
            lasted = past[0] - past[1]
            new = (now, now, *[each + lasted for each in past[1 : self._k]])
        self._there[key] = new
        self._pasts += _bytes_of(new) - _bytes_of(past)

    def _come(self, key: int, now: float) -> None:
        new: Past = (now, now)
        if self._gone and (past := self._gone.pop(key, ())):
            self._pasts -= _bytes_of(past)
            if now - past[0] <= self._period:
                new = (now, now, *past[1 : self._k])
        self._there[key] = new
        self._pasts += _bytes_of(new)
        heapq.heappush(self._heap, self._item(key, new))
        if len(self._heap) > 2 * len(self._there) + 16:  # items of keys that were removed
            self._heap = [self._item(key, past) for key, past in self._there.items()]
            heapq.heapify(self._heap)

    def victim(self, now: float) -> int:
        passed: list[Item] = []
        chosen = None
        while chosen is None and len(passed) < MAX_PASSED and (item := self._pop()) is not None:
            if now - self._there[item[2]][0] > self._correlated:
                chosen = item
            else:
                passed.append(item)
        if chosen is None:
            if not passed:
                raise LookupError("nothing is there")
            chosen = passed.pop(0)
        for item in passed:
            heapq.heappush(self._heap, item)
        self._leave(chosen[2])
        return chosen[2]

    def removed(self, key: int) -> None:
        past = self._there.pop(key, ()) or self._gone.pop(key, ())
        if past:
            self._pasts -= _bytes_of(past)
        self._trim()

    def _leave(self, key: int) -> None:
        self._gone[key] = self._there.pop(key)
        self._trim()

    def _trim(self) -> None:
        while len(self._gone) > self._retained * len(self._there):
            self._pasts -= _bytes_of(self._gone.popitem(last=False)[1])
        self._there, self._gone = fitted(self._there), fitted(self._gone)

    def _pop(self) -> Item | None:
        """Take out the least item. One that its key has outgrown goes back with what the key is worth now."""
        while self._heap:
            item = heapq.heappop(self._heap)
            past = self._there.get(item[2])
            if past is None:
                continue
            if (worth := self._item(item[2], past)) == item:
                return item
            heapq.heappush(self._heap, worth)
        return None

    def _item(self, key: int, past: Past) -> Item:
        return (past[self._k] if len(past) > self._k else LONG_AGO, past[0], key)

    def check_integrity(self) -> None:
        """Raises AssertionError when a key has left without an item, or is both there and gone."""
        assert not self._there.keys() & self._gone.keys()
        assert self._there.keys() <= {key for _, _, key in self._heap}
        assert len(self._gone) <= self._retained * len(self._there)
        pasts = (*self._there.values(), *self._gone.values())
        assert all(1 < len(past) <= self._k + 1 for past in pasts)
        assert self._pasts == sum(map(_bytes_of, pasts))


def _bytes_of(past: Past) -> int:
    return TUPLE + len(past) * (POINTER + FLOAT) - (FLOAT if past[0] is past[1] else 0)

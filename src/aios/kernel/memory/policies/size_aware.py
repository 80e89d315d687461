"""GDSF: small entries that are used often stay, large ones that are used seldom leave (Cherkasova, HP Labs 1998).

An entry is worth its number of uses by its bytes, above what the last one was worth that left: so what is not used any
more is overtaken in time.
"""

from __future__ import annotations

import heapq
from sys import getsizeof

from ..sizes import FLOAT, POINTER, TUPLE, fitted

Item = tuple[float, int]
_PAIR = TUPLE + 2 * POINTER


class SizeAware:
    def __init__(self) -> None:
        self._there: dict[int, tuple[float, int]] = {}
        """What each is worth, and how often it was used."""
        self._heap: list[Item] = []
        """At least one item of each key, perhaps of an earlier time: what is used is worth more."""
        self._level = 0.0

    @property
    def size(self) -> int:
        tables = getsizeof(self._there) + getsizeof(self._heap)
        return tables + len(self._there) * (_PAIR + FLOAT) + len(self._heap) * _PAIR

    def __len__(self) -> int:
        return len(self._there)

    def touched(self, key: int, size: int, now: float) -> None:
        _, uses = self._there.get(key, (0.0, 0))
        worth = self._level + (uses + 1) / max(1, size)
        self._there[key] = (worth, uses + 1)
        if not uses:
            self._push((worth, key))

    def victim(self, now: float) -> int:
        while self._heap:
            worth, key = heapq.heappop(self._heap)
            known = self._there.get(key)
            if known is not None and known[0] == worth:
                self._level = worth
                self.removed(key)
                return key
            if known is not None:
                heapq.heappush(self._heap, (known[0], key))
        raise LookupError("nothing is there")

    def removed(self, key: int) -> None:
        self._there.pop(key, None)
        self._there = fitted(self._there)

    def _push(self, item: Item) -> None:
        heapq.heappush(self._heap, item)
        if len(self._heap) > 2 * len(self._there) + 16:  # items of keys that were removed
            self._heap = [(worth, key) for key, (worth, _) in self._there.items()]
            heapq.heapify(self._heap)

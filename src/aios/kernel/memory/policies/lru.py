"""LRU: the entry leaves that was used longest ago."""

from __future__ import annotations

from collections import OrderedDict
from sys import getsizeof

from ..sizes import fitted


class LRU:
    def __init__(self) -> None:
        self._there: OrderedDict[int, None] = OrderedDict()

    @property
    def size(self) -> int:
        return getsizeof(self._there)

    def __len__(self) -> int:
        return len(self._there)

    def touched(self, key: int, size: int, now: float) -> None:
        self._there[key] = None
        self._there.move_to_end(key)

    def victim(self, now: float) -> int:
        key, _ = self._there.popitem(last=False)
        self._there = fitted(self._there)
        return key

    def removed(self, key: int) -> None:
        self._there.pop(key, None)
        self._there = fitted(self._there)

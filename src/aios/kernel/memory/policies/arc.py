"""ARC: the share of what came once and of what came back is learned from who is missed (Megiddo and Modha, FAST 2003).

Sizes are not looked at: the cache is as large as the entries in it are many.
"""

from __future__ import annotations

from collections import OrderedDict
from sys import getsizeof

from ..sizes import INT, fitted


class ARC:
    def __init__(self) -> None:
        self._once: OrderedDict[int, None] = OrderedDict()
        self._often: OrderedDict[int, None] = OrderedDict()
        self._once_gone: OrderedDict[int, None] = OrderedDict()
        self._often_gone: OrderedDict[int, None] = OrderedDict()
        self._target = 0.0
        """How many of those that came once should be there."""

    @property
    def size(self) -> int:
        tables = (self._once, self._often, self._once_gone, self._often_gone)
        return sum(map(getsizeof, tables)) + sum(map(len, tables[1:])) * INT

    def __len__(self) -> int:
        return len(self._once) + len(self._often)

    def touched(self, key: int, size: int, now: float) -> None:
        if key in self._often:
            self._often.move_to_end(key)
            return
        if key in self._once:
            del self._once[key]
        elif key in self._once_gone:
            more = max(1.0, len(self._often_gone) / len(self._once_gone))
            self._target = min(self._target + more, float(len(self)))
            del self._once_gone[key]
        elif key in self._often_gone:
            less = max(1.0, len(self._once_gone) / len(self._often_gone))
            self._target = max(self._target - less, 0.0)
            del self._often_gone[key]
        else:
            self._once[key] = None
            return
        self._often[key] = None

    def victim(self, now: float) -> int:
        if self._once and (len(self._once) > self._target or not self._often):
            key, _ = self._once.popitem(last=False)
            self._once_gone[key] = None
        else:
            key, _ = self._often.popitem(last=False)
            self._often_gone[key] = None
        self._trim()
        return key

    def removed(self, key: int) -> None:
        for table in (self._once, self._often, self._once_gone, self._often_gone):
            table.pop(key, None)
        self._trim()

    def _trim(self) -> None:
        """With those that are there, those that came once are remembered up to the size of the cache, all up to twice
        that."""
        there = len(self)
        while self._once_gone and len(self._once) + len(self._once_gone) > there:
            self._once_gone.popitem(last=False)
        while self._often_gone and len(self._once_gone) + len(self._often_gone) > there:
            self._often_gone.popitem(last=False)
        self._once, self._often = fitted(self._once), fitted(self._often)
        self._once_gone, self._often_gone = fitted(self._once_gone), fitted(self._often_gone)

"""2Q: what came once stands in a short queue, and only what comes back is kept by its uses.

Johnson and Shasha, VLDB 1994.
"""

from __future__ import annotations

from collections import OrderedDict
from sys import getsizeof

from ..sizes import INT, fitted

IN_SHARE = 0.25
"""Of those that are there, for those that came once."""
OUT_SHARE = 0.5
"""How many of those that left the queue are remembered, for each that is there."""


class TwoQ:
    def __init__(self) -> None:
        self._once: OrderedDict[int, None] = OrderedDict()
        self._often: OrderedDict[int, None] = OrderedDict()
        self._out: OrderedDict[int, None] = OrderedDict()

    @property
    def size(self) -> int:
        num_keys = len(self._often) + len(self._out)
        return getsizeof(self._once) + getsizeof(self._often) + getsizeof(self._out) + num_keys * INT

    def __len__(self) -> int:
        return len(self._once) + len(self._often)

    def touched(self, key: int, size: int, now: float) -> None:
        if key in self._often:
            self._often.move_to_end(key)
        elif key in self._out:
            del self._out[key]
            self._often[key] = None
        elif key not in self._once:  # what is in the queue stays where it is: uses close together are one
            self._once[key] = None

    def victim(self, now: float) -> int:
        if self._once and (len(self._once) > IN_SHARE * len(self) or not self._often):
            key, _ = self._once.popitem(last=False)
            self._out[key] = None
        else:
            key, _ = self._often.popitem(last=False)
        self._trim()
        return key

    def removed(self, key: int) -> None:
        for table in (self._once, self._often, self._out):
            table.pop(key, None)
        self._trim()

    def _trim(self) -> None:
        while len(self._out) > OUT_SHARE * len(self):
            self._out.popitem(last=False)
        self._once, self._often, self._out = fitted(self._once), fitted(self._often), fitted(self._out)

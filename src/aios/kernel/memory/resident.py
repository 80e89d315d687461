"""What of one block is in memory: copies of entries in a trie, and who of them leaves first. Knows no store, no clock.

Everything here is on disk too, so forgetting it loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from sys import getsizeof

from msgspec import Struct

from ..config import MemorySection
from .base import Evictor
from .blocks import BlockRow
from .entries import Record
from .sizes import INT, fitted
from .trie import Node, Trie

BASE = 2200
"""Bytes of a block that holds nothing: itself, an empty trie and an evictor that knows nothing."""


class Copy(Struct, eq=False, gc=False):
    """Where the content of an entry is, and JSON of its facts."""

    node: Node
    facts: bytes


_COPY = getsizeof(Copy(Node(None, b""), b"")) + INT


class Resident:
    """The copies of block `id`. `size` is bytes of memory, all that Python needs included; it is kept within `bound`,
    and goes down to `low` once it was above the watermark. `used` is when it was asked for last."""

    def __init__(self, row: BlockRow, settings: MemorySection, make_evictor: Callable[[int], Evictor]) -> None:
        self.id = row.id
        self.bound = settings.limit if row.bound is None else row.bound
        self.watermark = settings.watermark if row.watermark is None else row.watermark
        self.low = min(settings.low, self.watermark) * self.bound
        self.used = 0.0
        self.size = BASE
        self.hits = self.misses = self.evictions = 0
        self._evictor = make_evictor(row.k or settings.k)
        self._trie = Trie()
        self._copies: dict[int, Copy] = {}
        self._facts = 0
        """Bytes of all facts."""
        self._measure()

    def __len__(self) -> int:
        return len(self._copies)

    @property
    def raw(self) -> int:
        """Bytes of the contents, one by one."""
        return self._trie.raw

    @property
    def is_over(self) -> bool:
        return self.size > self.watermark * self.bound and len(self) > 0

    def put(self, record: Record, now: float) -> None:
        """Have a copy of `record`, if it fits the bound at all; others leave for it. That is a use of it."""
        number, content, facts, _ = record
        if number in self._copies:
            self._drop(number)
        fits = len(content) + len(facts) + BASE < self.bound
        if fits and (node := self._trie.insert(content)) is not None:
            self._copies[number] = Copy(node, facts)
            self._facts += getsizeof(facts)
            self._evictor.touched(number, len(content), now)
        else:
            self._evictor.removed(number)
        self._measure()
        if self.size > self.bound:
            self.shrink(now, self.bound)

    def get(self, number: int, now: float) -> Record | None:
        """The copy of an entry, which is used thereby; None when there is none."""
        copy = self._copies.get(number)
        if copy is None:
            return None
        content = self._trie.read(copy.node)
        self._evictor.touched(number, len(content), now)
        self.used = now
        self._measure()
        return Record(number, content, copy.facts)

    def forget(self, number: int) -> None:
        """The entry is no more, or not as it was."""
        self._drop(number)
        self._evictor.removed(number)
        self._measure()

    def shrink(self, now: float, low: float, most: int | None = None) -> None:
        """Forget the copies that are wanted least until `low` bytes are left, `most` of them at most."""
        while self.size > low and self._copies and most != 0:
            self._drop(self._evictor.victim(now))
            self.evictions += 1
            self._measure()
            most = None if most is None else most - 1

    def clear(self) -> None:
        """Before it is dropped: the trie's nodes are nothing that the garbage collector looks at."""
        self._trie.clear()
        self._copies.clear()

    def _drop(self, number: int) -> None:
        copy = self._copies.pop(number, None)
        if copy is not None:
            self._trie.remove(copy.node)
            self._facts -= getsizeof(copy.facts)
            self._copies = fitted(self._copies)

    def _measure(self) -> None:
        copies = getsizeof(self._copies) + len(self._copies) * _COPY + self._facts
        self.size = BASE + self._trie.size + copies + self._evictor.size

    def check_integrity(self) -> None:
        """Raises AssertionError when trie, evictor and copies do not agree, or the bound is not kept."""
        self._trie.check_integrity()
        assert len(self._evictor) == len(self._copies)
        assert self._facts == sum(getsizeof(copy.facts) for copy in self._copies.values())
        assert self._trie.raw == sum(self._trie.length(copy.node) for copy in self._copies.values())
        before = self.size
        self._measure()
        assert before == self.size
        assert self.size <= self.bound or not self._copies

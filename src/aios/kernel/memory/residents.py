"""What of all blocks is in memory, within one total. Knows no call and no store; belongs to the event loop.

A block above its watermark lets entries go until it is down at the low mark, and so do all together. Of all, the block
gives that is large for how lately it was used: who floods the memory, or has not come back for long, before others.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from ..config import MemorySection
from ..process import Place
from .base import Evictor
from .blocks import BlockRow
from .entries import Record
from .resident import Resident

Whose = tuple[Place, str]
"""A block: the place that it is at, and its name there."""
STEP = 256
"""Entries that leave without a pause: about a millisecond's work."""
SHARE = 0.25
"""Of a block, what it gives before it may be another's turn."""
GIVERS = 256
"""Blocks that are chosen together to give."""
IDLE = 60.0
"""Seconds without a use after which a block counts as twice as large."""


class Residents:
    """`must_shrink` says that `shrink` is to be called, again and again until it is False."""

    def __init__(self, settings: MemorySection, make_evictor: Callable[[int], Evictor]) -> None:
        self.size = 0
        self.hits = self.misses = self.evictions = 0
        self._settings = settings
        self._make_evictor = make_evictor
        self._blocks: dict[Whose, Resident] = {}
        self._dropped: list[Resident] = []
        self._over: dict[Whose, None] = {}
        """Blocks that were above their watermark and are not down at the low mark yet."""
        self._is_over = False
        """The same of all together."""
        self._givers: list[Whose] = []
        """Blocks that are to give next, from the last one on, unless they weigh less than `_least` by then."""
        self._least = 0.0

    @property
    def must_shrink(self) -> bool:
        return bool(self._dropped or self._over or self._is_over)

    def get(self, whose: Whose, number: int, now: float) -> Record | None:
        """The copy of an entry: a use of it, and a hit. None when there is none."""
        block = self._blocks.get(whose)
        if block is None:
            return None
        before = block.size
        record = block.get(number, now)
        if record is not None:
            block.hits += 1
            self.hits += 1
            self._moved(whose, block, before)
        return record

    def put(self, whose: Whose, row: BlockRow, record: Record, now: float, *, is_miss: bool = False) -> None:
        """Have a copy of `record`, which was written, or with `is_miss` read back from disk because it was wanted."""
        block = self._block(whose, row)
        before, evictions = block.size, block.evictions
        block.used = now
        block.put(record, now)
        block.misses += is_miss
        self.misses += is_miss
        self.evictions += block.evictions - evictions
        self._moved(whose, block, before)
        while self.size > self._settings.total and (self._blocks or self._dropped):
            self._give(now, self._settings.total)

    def forget(self, whose: Whose, number: int) -> None:
        """The entry is no more, or is not what it was."""
        if (block := self._blocks.get(whose)) is not None:
            before = block.size
            block.forget(number)
            self._moved(whose, block, before)

    def drop(self, whose: Whose) -> None:
        """Nothing is in the block any more. Its copies are out of reach now, and leave the memory step by step."""
        if (block := self._blocks.pop(whose, None)) is not None:
            self._over.pop(whose, None)
            if len(block):
                self._dropped.append(block)
            else:
                self.size -= block.size

    def allot(self, whose: Whose, row: BlockRow) -> None:
        """The block may take other amounts now. Its entries come back as they are asked for."""
        self.drop(whose)
        self._block(whose, row)

    def find(self, whose: Whose) -> Resident | None:
        """To look at, no more."""
        return self._blocks.get(whose)

    def shrink(self, now: float) -> None:
        """Let some entries go, where that must be."""
        if self._dropped:
            self._forget_dropped(now)
        elif self._over:
            whose = next(iter(self._over))
            block = self._blocks[whose]
            self._let_go(block, now, block.low)
            if block.size <= block.low or not len(block):
                del self._over[whose]
        elif self._is_over:
            self._give(now, self._low)
            self._is_over = self.size > self._low and bool(self._blocks)
            if not self._is_over:
                self._givers.clear()

    @property
    def _low(self) -> float:
        return min(self._settings.low, self._settings.watermark) * self._settings.total

    def _block(self, whose: Whose, row: BlockRow) -> Resident:
        block = self._blocks.get(whose)
        if block is not None and block.id != row.id:  # it was emptied, which is about to be said
            self.drop(whose)
            block = None
        if block is None:
            block = self._blocks[whose] = Resident(row, self._settings, self._make_evictor)
            self._moved(whose, block, 0)
        return block

    def _moved(self, whose: Whose, block: Resident, before: int) -> None:
        """Count what has changed of the size of `block`."""
        self.size += block.size - before
        if block.is_over:
            self._over[whose] = None
        if self.size > self._settings.watermark * self._settings.total:
            self._is_over = True

    def _give(self, now: float, low: float) -> None:
        """Have the block that is large for how lately it was used let entries go, `SHARE` at most: then it may be
        another's turn. A block that holds none is dropped itself."""
        if self._dropped:
            return self._forget_dropped(now)
        whose = self._giver(now)
        block = self._blocks[whose]
        if len(block):
            self._let_go(block, now, max(block.size - (self.size - low), block.size * (1 - SHARE)))
        else:
            self.drop(whose)

    def _giver(self, now: float) -> Whose:
        """The block to give next. All are looked at once for many that give: who has given is lighter by no more than a
        quarter, so those of nearly the same weight are next in any case."""
        while self._givers:
            whose = self._givers.pop()
            block = self._blocks.get(whose)
            if block is not None and _weight(block, now) >= self._least:
                return whose
        first, *others = heapq.nlargest(GIVERS, self._blocks, lambda each: _weight(self._blocks[each], now))
        self._least = (1 - SHARE) * _weight(self._blocks[first], now)
        self._givers = others[::-1]
        return first

    def _forget_dropped(self, now: float) -> None:
        block = self._dropped[-1]
        self._let_go(block, now, 0)
        if not len(block):
            self.size -= self._dropped.pop().size

    def _let_go(self, block: Resident, now: float, low: float) -> None:
        """Have `block` let entries go until it takes no more than `low`: `STEP` of them at most."""
        before, evictions = block.size, block.evictions
        block.shrink(now, low, STEP)
        self.evictions += block.evictions - evictions
        self.size += block.size - before

    def close(self) -> None:
        """Forget everything at once."""
        for block in (*self._blocks.values(), *self._dropped):
            block.clear()
        self._blocks.clear()
        self._dropped.clear()
        self._over.clear()
        self._givers.clear()
        self.size = 0

    def statistics(self) -> dict[str, Any]:
        blocks = self._blocks.values()
        return {
            "blocks": len(blocks),
            "resident": self.size,
            "resident_entries": sum(map(len, blocks)),
            "resident_raw": sum(block.raw for block in blocks),
            "hits": self.hits,
            "misses": self.misses,
            "evictions": self.evictions,
        }

    def check_integrity(self) -> None:
        """Raises AssertionError when a block is not sound, a count is wrong, or the total is not kept."""
        for block in self._blocks.values():
            block.check_integrity()
        assert self.size == sum(block.size for block in (*self._blocks.values(), *self._dropped))
        assert self.size <= self._settings.total
        assert self._over.keys() <= self._blocks.keys()


def _weight(block: Resident, now: float) -> float:
    return block.size * (1 + (now - block.used) / IDLE)

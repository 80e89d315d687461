"""Which stopped generation is kept in which tier, and who goes next. Plain decisions; knows no I/O, clock or thread.

Pool, then host memory, then disk, then as text alone: the oldest of a tier goes one further when others need its room.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum

from .base import Array, File, Held, Pool


class Tier(Enum):
    POOL = "pool"
    RAM = "ram"
    DISK = "disk"
    TEXT = "text"

    __hash__ = object.__hash__


@dataclass(slots=True, eq=False)
class Entry:
    """One stopped generation. `bytes` is what it takes up in its tier: its `arrays` in memory, its `file` on disk.
    `pins` counts those who carry it, back or out: until they are done nobody else moves it."""

    held: Held
    tier: Tier
    bytes: int = 0
    arrays: list[Array] | None = None
    file: File | None = None
    pins: int = 0

    @property
    def pool(self) -> Pool:
        return self.held.pool


@dataclass(slots=True)
class _Shelf:
    """One tier: the oldest first."""

    entries: dict[str, Entry] = field(default_factory=dict)
    bytes: int = 0
    hits: int = 0


class Tiers:
    """All entries, each in one tier at every moment, by its call's id; what is counted, for each pool and in all."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._shelves: defaultdict[tuple[Tier, Pool | None], _Shelf] = defaultdict(_Shelf)

    def add(self, held: Held) -> Entry:
        """`held` was stopped just now, in its pool. It must not be here yet."""
        assert held.key not in self._entries, f"{held.key} is kept already"
        entry = self._entries[held.key] = Entry(held, Tier.POOL, held.needs)
        self._put(entry)
        return entry

    def to_ram(self, entry: Entry, arrays: list[Array]) -> None:
        self._move(entry, Tier.RAM, sum(array.nbytes for array in arrays), arrays=arrays)

    def to_disk(self, entry: Entry, file: File) -> None:
        self._move(entry, Tier.DISK, file.size, file=file)

    def to_text(self, entry: Entry) -> None:
        self._move(entry, Tier.TEXT, 0)

    def remove(self, entry: Entry) -> None:
        self._take(entry)
        del self._entries[entry.held.key]

    def count(self, tier: Tier, pool: Pool) -> None:
        """A generation of `pool` goes on from `tier`."""
        self._shelves[tier, None].hits += 1
        self._shelves[tier, pool].hits += 1

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def has(self, entry: Entry, tier: Tier) -> bool:
        """Whether `entry` is still there: much may happen while a file is written."""
        return entry.tier is tier and self._entries.get(entry.held.key) is entry

    def oldest(self, tier: Tier, pool: Pool | None = None) -> Entry | None:
        """The one to go next, of those of `pool` if that is given; None when none may."""
        entries = self._shelves[tier, pool].entries.values()
        return next((entry for entry in entries if not entry.pins), None)

    def bytes(self, tier: Tier, pool: Pool | None = None) -> int:
        return self._shelves[tier, pool].bytes

    def __len__(self) -> int:
        return len(self._entries)

    def statistics(self, pool: Pool | None = None) -> dict[str, int]:
        found: dict[str, int] = {}
        for tier in Tier:
            shelf = self._shelves[tier, pool]
            found[f"suspended_{tier.value}"] = len(shelf.entries)
            found[f"suspended_{tier.value}_bytes"] = shelf.bytes
            found[f"restores_{tier.value}"] = shelf.hits
        return found

    def forget(self, pool: Pool) -> None:
        """`pool` is closed: count it no more, once nothing is in it."""
        for tier in Tier:
            if not self._shelves[tier, pool].entries:
                del self._shelves[tier, pool]

    def check_integrity(self) -> None:
        """Raises AssertionError when an entry is in no tier, in two, or is counted wrongly."""
        seen: dict[str, Entry] = {}
        for (tier, pool), shelf in self._shelves.items():
            assert all(entry.tier is tier and entry.held.key == key for key, entry in shelf.entries.items())
            assert shelf.bytes == sum(entry.bytes for entry in shelf.entries.values()), f"{tier} is counted wrongly"
            if pool is None:
                assert not shelf.entries.keys() & seen.keys(), "an entry is in two tiers"
                seen |= shelf.entries
            else:
                assert all(entry.pool is pool for entry in shelf.entries.values())
        assert seen == self._entries, "an entry is in no tier"
        assert all((entry.arrays is not None) is (entry.tier is Tier.RAM) for entry in seen.values())
        assert all((entry.file is not None) is (entry.tier is Tier.DISK) for entry in seen.values())

    def _move(
        self, entry: Entry, tier: Tier, size: int, *, arrays: list[Array] | None = None, file: File | None = None
    ) -> None:
        self._take(entry)
        entry.tier, entry.bytes, entry.arrays, entry.file = tier, size, arrays, file
        self._put(entry)

    def _both(self, entry: Entry) -> tuple[_Shelf, _Shelf]:
        return self._shelves[entry.tier, None], self._shelves[entry.tier, entry.pool]

    def _put(self, entry: Entry) -> None:
        for shelf in self._both(entry):
            shelf.entries[entry.held.key] = entry
            shelf.bytes += entry.bytes

    def _take(self, entry: Entry) -> None:
        for shelf in self._both(entry):
            del shelf.entries[entry.held.key]
            shelf.bytes -= entry.bytes

"""What calls that change memory do on the store: jobs, and parts of jobs. Knows no call, and nothing that is resident.

A job is bounded by the place and the block's name that it is given.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import apsw
import msgspec

from aios.abi.errors import TooLarge

from ..process import Place
from ..search import Index
from . import entries
from .base import Swap
from .blocks import (
    BlockRow,
    abandon,
    allot,
    an_abandoned,
    blocks_of,
    count,
    drop_block,
    find_block,
    make_block,
    open_block,
)
from .entries import Facts, id_of

MAX_ENTRIES = 100_000
"""Entries of one agent. A bound, so that no agent fills the disk of all; far above what one remembers."""
PURGE_STEP = 200
"""Entries that leave the disk together, so that no job holds up the writes of others for long."""
PURGE_BYTES = 256 << 10
"""Bytes after which no more leave with them: on a full disk even what is deleted has to be written down first."""


class Changed(NamedTuple):
    """An entry as it is now. Without `content` that is as it was."""

    block: BlockRow
    number: int
    content: bytes | None
    facts: Facts


class Changes:
    """`disk` bounds the bytes of contents and metadata that one agent keeps, histories among them. Used on the
    writer's thread only."""

    def __init__(self, swap: Swap, index: Index, disk: int) -> None:
        self._swap = swap
        self._index = index
        self._disk = disk
        self._last_number = 0

    def write(self, connection: apsw.Connection, place: Place, name: str, content: bytes, facts: Facts) -> Changed:
        blocks = blocks_of(connection, place)
        size = len(content) + len(entries.encode(facts.metadata))
        self._check_room(blocks, 1, size)
        block = open_block(connection, place, name, blocks)
        number = self._next_number(connection, facts.created)
        held, taken = self._swap.put(connection, block.id, content)
        entries.add(connection, number, block.id, facts, size, held)
        count(connection, block.id, entries=1, raw=len(content), kept=size, disk=taken)
        self._index.put(connection, block.id, number, content.decode())
        return Changed(block, number, content, facts)

    def update(
        self,
        connection: apsw.Connection,
        place: Place,
        name: str,
        number: int,
        content: bytes | None,
        changes: dict[str, Any],
    ) -> Changed:
        """`changes` are new facts of the entry. Raises NotFound."""
        blocks = blocks_of(connection, place)
        block = find_block(connection, place, name)
        if block is None:
            raise entries.no_entry(id_of(number))
        facts, held, size = entries.keep_as_it_was(connection, block.id, number)
        was = size - len(entries.encode(facts.metadata))
        facts = msgspec.structs.replace(facts, revision=facts.revision + 1, **changes)
        now = was if content is None else len(content)
        size = now + len(entries.encode(facts.metadata))
        self._check_room(blocks, 0, size)
        if content is None:
            self._swap.keep(connection, held[0])
            taken = len(held[1])
        else:
            held, taken = self._swap.put(connection, block.id, content)
            self._index.put(connection, block.id, number, content.decode())
        entries.change(connection, number, facts, size, held)
        kept, freed = entries.trim_history(connection, self._swap, number, facts.revision)
        count(connection, block.id, raw=now - was, kept=size - kept, disk=taken - freed)
        return Changed(block, number, content, facts)

    def forget(self, connection: apsw.Connection, place: Place, name: str, number: int) -> None:
        """One entry and its history. Raises NotFound."""
        block = find_block(connection, place, name)
        gone = entries.remove(connection, self._swap, block.id, number) if block is not None else None
        if block is None or gone is None:
            raise entries.no_entry(id_of(number))
        raw, kept, freed = gone
        self._index.drop(connection, [number])
        count(connection, block.id, entries=-1, raw=-raw, kept=-kept, disk=-freed)

    def empty(self, connection: apsw.Connection, place: Place, name: str) -> int:
        """All entries of a block, at once: how many. They leave the disk by `purge`."""
        block = find_block(connection, place, name)
        if block is None or not block.num_entries:
            return 0
        abandon(connection, block, place)
        return block.num_entries

    def allot(
        self,
        connection: apsw.Connection,
        place: Place,
        name: str,
        bound: int | None,
        watermark: float | None,
        k: int | None,
    ) -> BlockRow:
        """Make a block, if it is not there, and say what it may take."""
        block = blocks_of(connection, place).get(name) or make_block(connection, place, name)
        allot(connection, block.id, bound, watermark, k)
        return blocks_of(connection, place)[name]

    def purge(self, connection: apsw.Connection) -> bool:
        """Take some of what is nobody's any more from the disk; whether there may be more."""
        block = an_abandoned(connection)
        if block is None:
            return False
        left, gone = PURGE_BYTES, list[int]()
        for number in entries.numbers(connection, block, PURGE_STEP):
            removed = entries.remove(connection, self._swap, block, number)
            gone.append(number)
            left -= removed[2] if removed is not None else 0
            if left < 0:
                break
        self._index.drop(connection, gone)
        if drop_block(connection, block):
            self._index.drop_scope(connection, block)
        return True

    def _check_room(self, blocks: dict[str, BlockRow], more: int, size: int) -> None:
        there = sum(block.num_entries for block in blocks.values())
        kept = sum(block.kept for block in blocks.values())
        if there + more > MAX_ENTRIES or kept + size > self._disk:
            raise TooLarge(
                f"an agent's memory holds {MAX_ENTRIES:,} entries and {self._disk:,} bytes at most, their histories "
                f"among them; this one has {there:,} and {kept:,}; forget some with mem_clear first",
                code="memory_full",
            )

    def _next_number(self, connection: apsw.Connection, wall: float) -> int:
        """Numbers sort by time and are never given twice."""
        if not self._last_number:
            self._last_number = entries.newest_number(connection)
        self._last_number = max(self._last_number + 1, int(wall * 1e6))
        return self._last_number

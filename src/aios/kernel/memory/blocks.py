"""Blocks of memory as rows of the store: whose, what they are allotted, how much is in them. Knows no entry.

A block that was emptied is nobody's any more and another has its name: its entries are out of everybody's reach at
once, and leave the disk in small steps.
"""

from __future__ import annotations

from typing import NamedTuple

import apsw

from aios.abi.calls import nearest
from aios.abi.errors import NotFound, TooLarge

from ..database import row, rows, value
from ..process import Place
from ..spaces import NOBODY

MAX_BLOCKS = 64
"""Blocks of one agent."""
_COLUMNS = "name, id, bound, watermark, k, num_entries, raw, kept, disk"


class BlockRow(NamedTuple):
    """`bound`, `watermark` and `k` are None where nothing was allotted. `raw` is bytes of contents, `kept` what counts
    against the agent's bound (metadata and history too), `disk` what the contents take, shared beginnings once."""

    name: str
    id: int
    bound: int | None
    watermark: float | None
    k: int | None
    num_entries: int
    raw: int
    kept: int
    disk: int


def blocks_of(connection: apsw.Connection, place: Place) -> dict[str, BlockRow]:
    """All blocks at a place, by name."""
    found = rows(connection, f"SELECT {_COLUMNS} FROM blocks WHERE owner = ? AND agent = ?", place)
    return {name: BlockRow(name, *rest) for name, *rest in found}


def find_block(connection: apsw.Connection, place: Place, name: str) -> BlockRow | None:
    """None for a block that is there as soon as something is written to it. Raises NotFound for one that is not."""
    sql = f"SELECT {_COLUMNS} FROM blocks WHERE owner = ? AND agent = ? AND name = ?"
    found = row(connection, sql, (*place, name))
    if found is None and not _is_implicit(place, name):
        raise no_block(name, blocks_of(connection, place))
    return None if found is None else BlockRow(*found)


def open_block(connection: apsw.Connection, place: Place, name: str, known: dict[str, BlockRow]) -> BlockRow:
    """The block, among those of its place, for somebody who writes to it."""
    if (found := known.get(name)) is not None:
        return found
    if not _is_implicit(place, name):
        raise no_block(name, known)
    return make_block(connection, place, name)


def make_block(connection: apsw.Connection, place: Place, name: str) -> BlockRow:
    """Raises TooLarge when there are enough."""
    sql = "SELECT count(*) FROM blocks WHERE owner = ? AND agent = ?"
    if not _is_implicit(place, name) and value(connection, sql, place) >= MAX_BLOCKS:
        raise TooLarge(f"an agent has at most {MAX_BLOCKS} blocks of memory", code="too_many_blocks", param="block")
    connection.execute("INSERT INTO blocks(owner, agent, name) VALUES (?, ?, ?)", (*place, name))
    return BlockRow(name, connection.last_insert_rowid(), None, None, None, 0, 0, 0, 0)


def allot(connection: apsw.Connection, block: int, bound: int | None, watermark: float | None, k: int | None) -> None:
    """What is None stays as it is."""
    connection.execute(
        "UPDATE blocks SET bound = coalesce(?, bound), watermark = coalesce(?, watermark), k = coalesce(?, k)"
        " WHERE id = ?",
        (bound, watermark, k, block),
    )


def count(connection: apsw.Connection, block: int, *, entries: int = 0, raw: int = 0, kept: int = 0, disk: int) -> None:
    """Count what a job adds, or takes away."""
    connection.execute(
        "UPDATE blocks SET num_entries = num_entries + ?, raw = raw + ?, kept = kept + ?, disk = disk + ? WHERE id = ?",
        (entries, raw, kept, disk, block),
    )


def abandon(connection: apsw.Connection, block: BlockRow, place: Place) -> None:
    """Empty a block: what it was is nobody's, and a fresh one has its name and what it was allotted."""
    connection.execute("UPDATE blocks SET owner = NULL, agent = NULL, name = NULL WHERE id = ?", (block.id,))
    connection.execute(
        "INSERT INTO blocks(owner, agent, name, bound, watermark, k) VALUES (?, ?, ?, ?, ?, ?)",
        (*place, block.name, block.bound, block.watermark, block.k),
    )


def an_abandoned(connection: apsw.Connection) -> int | None:
    """A block that is nobody's."""
    found: int | None = value(connection, "SELECT id FROM blocks WHERE owner IS NULL LIMIT 1")
    return found


def drop_block(connection: apsw.Connection, block: int) -> bool:
    """Once it holds no entries. Whether that is so."""
    sql = "DELETE FROM blocks WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM entries WHERE block = ?1)"
    connection.execute(sql, (block,))
    return bool(connection.changes())


def no_block(name: str, known: dict[str, BlockRow]) -> NotFound:
    hint = nearest(name, filter(None, known))
    return NotFound(
        f"this agent has no block of memory '{name[:80]}'{hint}; mem_alloc makes one",
        code="no_such_block",
        param="block",
    )


def _is_implicit(place: Place, name: str) -> bool:
    """Main blocks and shared ones need not be allotted first."""
    return name == "" or place.owner == NOBODY

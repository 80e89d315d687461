"""Whether memory is on disk as it should be, and the mending of what can be. For a command; no agent calls it."""

from __future__ import annotations

from collections.abc import Iterator

import apsw

from ..database import Fault, rows
from ..search import Index
from . import entries
from .base import Swap

NAMED = "SELECT tip FROM entries UNION ALL SELECT tip FROM entries_were"
"""The ends of all contents that memory keeps."""

_HOMELESS = "SELECT row FROM entries WHERE block NOT IN (SELECT id FROM blocks)"
_LEFT_OVER = "SELECT DISTINCT row FROM entries_were WHERE row NOT IN (SELECT row FROM entries)"
_REAL = """
    SELECT blocks.id,
        (SELECT count(*) FROM entries WHERE block = blocks.id),
        (SELECT coalesce(sum(size - octet_length(metadata)), 0) FROM entries WHERE block = blocks.id),
        (SELECT coalesce(sum(size), 0) FROM entries WHERE block = blocks.id)
            + (SELECT coalesce(sum(was.size), 0)
                FROM entries_were AS was JOIN entries USING (row) WHERE block = blocks.id),
        (SELECT coalesce(sum(octet_length(tail)), 0) FROM entries WHERE block = blocks.id)
            + (SELECT coalesce(sum(octet_length(was.tail)), 0)
                FROM entries_were AS was JOIN entries USING (row) WHERE block = blocks.id)
            + (SELECT coalesce(sum(octet_length(body)), 0) FROM segments WHERE scope = blocks.id)
    FROM blocks WHERE owner IS NOT NULL"""
_WRONG_COUNTS = f"""
    WITH real(id, num_entries, raw, kept, disk) AS ({_REAL})
    SELECT real.id, real.num_entries, real.raw, real.kept, real.disk FROM real JOIN blocks USING (id)
    WHERE (real.num_entries, real.raw, real.kept, real.disk)
        IS NOT (blocks.num_entries, blocks.raw, blocks.kept, blocks.disk)"""


def check(connection: apsw.Connection, swap: Swap) -> Iterator[Fault]:
    """What is wrong: blocks of contents, entries that cannot be read, rows that belong to nothing, counts."""
    yield from swap.check(connection, NAMED)
    for number, revision, why in entries.unreadable(connection, swap):
        which = "" if revision is None else f" as it was in revision {revision}"
        yield Fault(f"entry {entries.id_of(number)}{which}", why, "is forgotten")
    for (number,) in connection.execute(_HOMELESS):
        yield Fault(f"entry {entries.id_of(number)}", "the block that it is in is missing", "is forgotten")
    for (number,) in connection.execute(_LEFT_OVER):
        yield Fault(f"the history of entry {entries.id_of(number)}", "the entry is missing", "is forgotten")
    for block, *_ in connection.execute(_WRONG_COUNTS):
        yield Fault(f"block of memory {block}", "what it holds is not what is counted", "is counted")


def repair(connection: apsw.Connection, swap: Swap, index: Index) -> None:
    """Forget what cannot be read and what belongs to nothing, and count anew. A job that may take long."""
    lost = list(entries.unreadable(connection, swap))
    connection.executemany(
        "DELETE FROM entries_were WHERE row = ? AND revision = ?", [each[:2] for each in lost if each[1] is not None]
    )
    gone = [number for number, revision, _ in lost if revision is None]
    gone += [number for (number,) in rows(connection, _HOMELESS)]
    connection.executemany("DELETE FROM entries WHERE row = ?", [(number,) for number in gone])
    index.drop(connection, gone)
    connection.execute(f"DELETE FROM entries_were WHERE row IN ({_LEFT_OVER})")
    swap.repair(connection, NAMED)
    for block, *counts in rows(connection, _WRONG_COUNTS):
        connection.execute(
            "UPDATE blocks SET num_entries = ?, raw = ?, kept = ?, disk = ? WHERE id = ?", (*counts, block)
        )

"""What a check of the store found wrong, and the looking through its pages. Knows no table of any room."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import apsw

from .query import rows

_INDEXES = "SELECT name FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL TABLE % USING fts5%'"

TITLE = "*** in database main ***"
"""Stands above what SQLite finds in the pages, which is one text of many lines."""


class Fault(NamedTuple):
    """`where` says which thing of which room, `what` is wrong with it, and `mend` what a repair does about it."""

    where: str
    what: str
    mend: str


def page_faults(connection: apsw.Connection, limit: int) -> list[str]:
    """What SQLite finds wrong in the file, a line each, `limit` at most."""
    for (index,) in rows(connection, _INDEXES):
        # Else FTS5 (3.54) takes what another connection has merged since it was last asked for damage.
        rows(connection, f"SELECT rowid FROM {index} WHERE {index} MATCH 'x' LIMIT 1")
    found = [line for line in _lines(connection, limit) if line != TITLE]
    return [] if found == ["ok"] else found[:limit]


def _lines(connection: apsw.Connection, limit: int) -> Iterator[str]:
    try:
        for (text,) in connection.execute(f"PRAGMA integrity_check({limit})"):
            yield from str(text).splitlines()
    except apsw.CorruptError as error:  # what it could not go on behind; it has told what was before
        yield str(error)

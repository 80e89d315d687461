"""What was read of files, in the tables: readings, and their passages. Jobs on the store; knows no format.

A reading is of one version of one file. It is OPEN while its passages come in, then CURRENT until a newer one is or the
file is taken out of the store, then GONE: nobody finds it, and it is cleared away in small steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import apsw

from ...database import as_list, row, rows, value
from ...search import Index, Source

OPEN, CURRENT, GONE = 0, 1, 2
_FEW = f"state <> {CURRENT}"
"""What the index `readings_by_state` is of: said beside the state that is meant, so that SQLite looks there."""
PORTION = 50
"""Passages that are written or dropped together, so that nobody's writes wait long behind them."""


class Piece(NamedTuple):
    """A passage: `text` is from byte `start` to `end` of what was read, under the heading `title`."""

    start: int
    end: int
    title: str | None
    text: str


class Found(NamedTuple):
    """A passage in the store, and what it is of."""

    scope: int
    file: int
    version: int
    piece: Piece


def source() -> Source:
    return Source("passages", texts, scope="scope")


def texts(connection: apsw.Connection, wanted: Sequence[int]) -> dict[int, str]:
    sql = "SELECT row, title, text FROM passage_texts WHERE row IN (SELECT value FROM json_each(?))"
    found = rows(connection, sql, (as_list(wanted),))
    return {number: worded(title, text) for number, title, text in found}


def worded(title: str | None, text: str) -> str:
    """What a passage is found by."""
    return text if title is None or text.startswith(title) else f"{title}\n{text}"


# ── writing ──


def begin(connection: apsw.Connection, file: int, version: int, num_passages: int) -> int:
    """A reading that will have so many passages."""
    sql = "INSERT INTO readings(file, version, state, num_passages) VALUES (?, ?, ?, ?)"
    connection.execute(sql, (file, version, OPEN, num_passages))
    return connection.last_insert_rowid()


def add(connection: apsw.Connection, index: Index, scope: int, reading: int, pieces: Sequence[Piece]) -> None:
    """Passages of an open reading. One that has gone meanwhile gets no more."""
    if not is_open(connection, reading):
        return
    enter = "INSERT INTO passages(scope, reading, start, stop) VALUES (?, ?, ?, ?)"
    for start, stop, title, text in pieces:
        connection.execute(enter, (scope, reading, start, stop))
        number = connection.last_insert_rowid()
        connection.execute("INSERT INTO passage_texts VALUES (?, ?, ?)", (number, title, text))
        index.put(connection, scope, number, worded(title, text))


def is_open(connection: apsw.Connection, reading: int) -> bool:
    return bool(value(connection, "SELECT state = ? FROM readings WHERE id = ?", (OPEN, reading)))


def finish(connection: apsw.Connection, reading: int, why: str | None, lacks: str | None) -> bool:
    """It is current, instead of any before it: whether there was one. `why` says what of the file was not read; `lacks`
    names the package that it takes to read more."""
    file = value(connection, "SELECT file FROM readings WHERE id = ? AND state = ?", (reading, OPEN))
    if file is None:
        return True
    connection.execute("UPDATE readings SET state = ? WHERE file = ? AND state = ?", (GONE, file, CURRENT))
    has_replaced = bool(connection.changes())
    sql = "UPDATE readings SET state = ?, why = ?, lacks = ? WHERE id = ?"
    connection.execute(sql, (CURRENT, why, lacks, reading))
    return has_replaced


def give_up(connection: apsw.Connection, reading: int) -> None:
    """An open one that will not be finished."""
    connection.execute("UPDATE readings SET state = ? WHERE id = ? AND state = ?", (GONE, reading, OPEN))


def give_up_unfinished(connection: apsw.Connection, has_now: Sequence[str]) -> None:
    """At the start: what an earlier kernel was reading, and what it could not for want of packages that are there
    now."""
    connection.execute(f"UPDATE readings SET state = ? WHERE state = ? AND {_FEW}", (GONE, OPEN))
    for package in has_now:
        connection.execute("UPDATE readings SET state = ? WHERE lacks = ?", (GONE, package))


# ── dropping ──


def drop_some(connection: apsw.Connection, index: Index) -> bool:
    """Clear away some of what has gone, of whomever it was. True if there may be more."""
    gone = row(connection, f"SELECT id FROM readings WHERE state = ? AND {_FEW} LIMIT 1", (GONE,))
    if gone is None:
        return False
    found = rows(connection, "SELECT row FROM passages WHERE reading = ? LIMIT ?", (*gone, PORTION))
    numbers = [number for (number,) in found]
    index.drop(connection, numbers)
    connection.executemany("DELETE FROM passages WHERE row = ?", found)
    connection.executemany("DELETE FROM passage_texts WHERE row = ?", found)
    if len(numbers) < PORTION:
        connection.execute("DELETE FROM readings WHERE id = ?", gone)
    return True


# ── looking ──


def passages(connection: apsw.Connection, wanted: Sequence[int]) -> dict[int, Found]:
    """Those of the rows `wanted` that are there."""
    sql = (
        "SELECT row, scope, file, version, start, stop, title, text FROM passages JOIN passage_texts USING (row)"
        " JOIN readings ON readings.id = reading WHERE row IN (SELECT value FROM json_each(?))"
    )
    found = rows(connection, sql, (as_list(wanted),))
    return {number: Found(scope, file, version, Piece(*piece)) for number, scope, file, version, *piece in found}

"""Whether what was read of files is in order, and the mending of it: what is not is forgotten, and read again when
somebody asks. For a command; no agent calls it."""

from __future__ import annotations

from collections.abc import Iterator

import apsw

from ...database import Fault, rows
from ...search import Index
from .readings import CURRENT, GONE, drop_some

_NO_READING = "SELECT DISTINCT reading FROM passages WHERE reading NOT IN (SELECT id FROM readings)"
_NO_TEXT = "SELECT DISTINCT reading FROM passages WHERE row NOT IN (SELECT row FROM passage_texts)"
_NO_PASSAGE = "SELECT row FROM passage_texts WHERE row NOT IN (SELECT row FROM passages)"
_MISCOUNTED = f"""
    SELECT id FROM readings WHERE state = {CURRENT}
        AND num_passages <> (SELECT count(*) FROM passages WHERE reading = readings.id)"""
_NO_FILE = f"SELECT id FROM readings WHERE state <> {GONE} AND file NOT IN (SELECT id FROM files)"
_TWICE = f"SELECT max(id) FROM readings WHERE state = {CURRENT} GROUP BY file HAVING count(*) > 1"
_OTHERS = f"""
    SELECT DISTINCT reading FROM passages JOIN readings ON readings.id = reading JOIN files ON files.id = file
    WHERE passages.scope <> files.scope AND state <> {GONE}"""
_MEND = "is forgotten, and read again when it is asked about"


def check(connection: apsw.Connection) -> Iterator[Fault]:
    for sql, what in (
        (_NO_READING, "it is missing and has passages"),
        (_NO_TEXT, "a passage of it has no text"),
        (_MISCOUNTED, "it has more passages or fewer than were read"),
        (_NO_FILE, "it is of a file that is not there"),
        (_TWICE, "its file has another one"),
        (_OTHERS, "a passage of it is said to be somebody else's"),
    ):
        for (reading,) in rows(connection, sql):
            yield Fault(f"reading {reading}", what, _MEND)
    for (row,) in rows(connection, _NO_PASSAGE):
        yield Fault(f"text {row}", "it is of no passage", "is removed")


def repair(connection: apsw.Connection, index: Index) -> None:
    connection.execute(
        "INSERT INTO readings(id, file, version, state, num_passages)"
        f" SELECT reading, 0, 0, {GONE}, 0 FROM ({_NO_READING})"
    )
    for sql in (_NO_TEXT, _MISCOUNTED, _NO_FILE, _TWICE, _OTHERS):
        connection.execute(f"UPDATE readings SET state = {GONE} WHERE id IN ({sql})")
    connection.execute(f"DELETE FROM passage_texts WHERE row IN ({_NO_PASSAGE})")
    while drop_some(connection, index):
        pass

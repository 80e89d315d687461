"""Calls without a key: events in a log, one row a group of commits, folded down to the open calls as it grows.

Knows ids and times of calls, and nothing of what they ask or answer.
"""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from ..database import Database, rows
from .records import BEGIN, END, OPEN, Event, OpenRecord

FOLD_AFTER = 50_000
"""Events in the log before it is folded down to the calls that are open."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


class Log:
    """`append` is called on the database's thread, all else on the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._open: dict[str, tuple[Any, ...]] = {}
        """Calls that are open, as the log on disk has them."""
        self._num_events = 0

    def append(self, connection: apsw.Connection, events: list[Event]) -> int:
        """Write the events of a group; the number of its row."""
        connection.execute(
            "INSERT INTO log(events) VALUES (?)", (_pack([(event.kind, event.row) for event in events]),)
        )
        return connection.last_insert_rowid()

    def note(self, kind: str, row: tuple[Any, ...]) -> None:
        """An event is on the disk now."""
        if kind == OPEN:
            self._open[row[0]] = row
        elif kind == END:
            self._open.pop(row[0], None)
        elif kind == BEGIN and row[0] in self._open:
            self._open[row[0]] = (*self._open[row[0]][:4], True)

    def settle(self, num_events: int, seq: int) -> None:
        """A group of so many events, with and without a key, was committed; `seq` is its row, 0 without one."""
        self._num_events += num_events
        if seq and self._num_events > FOLD_AFTER + 2 * len(self._open):
            self._fold(seq)

    def load(self) -> list[OpenRecord]:
        """The calls of the last kernel that have no end. Called once, at boot."""
        for (blob,) in self._database.read(lambda c: rows(c, "SELECT events FROM log ORDER BY seq")):
            for kind, event in _unpack(blob):
                self._num_events += 1
                self.note(kind, tuple(event))
        return [OpenRecord(*event) for event in self._open.values()]

    def _fold(self, seq: int) -> None:
        """Put the calls open after group `seq` in the place of the log up to there: what has ended needs no event."""
        self._num_events = len(self._open)
        blob = _pack([(OPEN, row) for row in self._open.values()])

        def job(connection: apsw.Connection) -> None:
            connection.execute("DELETE FROM log WHERE seq <= ?", (seq,))
            connection.execute("INSERT INTO log VALUES (?, ?)", (seq, blob))

        self._database.submit(job, frees=True)

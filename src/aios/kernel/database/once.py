"""An effect and its result, committed together under a call's id. Knows nothing about what the effect is."""

from __future__ import annotations

from typing import TypeVar

import apsw
import msgspec

from .query import Job, value

T = TypeVar("T")


def exactly_once(call_id: str | None, job: Job[T], kind: type[T]) -> Job[T]:
    """`job`, whose result is kept with its effect under `call_id`: run again after a crash, it answers the same and
    changes nothing. Calls without a key have no `call_id` and are never run again. The journal drops what is kept."""
    if call_id is None:
        return job

    def guarded(connection: apsw.Connection) -> T:
        known = answered(connection, call_id, kind)
        if known is not None:
            return known
        result = job(connection)
        connection.execute("INSERT INTO effects VALUES (?, ?)", (call_id, msgspec.json.encode(result)))
        return result

    return guarded


def answered(connection: apsw.Connection, call_id: str, kind: type[T]) -> T | None:
    """The result that is kept under `call_id`: all its effect is there. None before that. For effects that are not all
    in the database, and must not be tried again then."""
    known = value(connection, "SELECT result FROM effects WHERE call = ?", (call_id,))
    return None if known is None else msgspec.json.decode(known, type=kind)

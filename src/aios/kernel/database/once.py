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
        known = value(connection, "SELECT result FROM effects WHERE call = ?", (call_id,))
        if known is not None:
            return msgspec.json.decode(known, type=kind)
        result = job(connection)
        connection.execute("INSERT INTO effects VALUES (?, ?)", (call_id, msgspec.json.encode(result)))
        return result

    return guarded

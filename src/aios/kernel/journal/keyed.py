"""Calls with a key: a row each, with arguments and answer. Jobs on the store; knows no event loop."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from aios.abi.calls import CALLS
from aios.abi.errors import AiosError, from_dict

from ..database import row, rows, value
from ..syscall import State
from .arguments import encode, join
from .records import BEGIN, END, OPEN, Answer, Event, Keyed, KeyPlace, OpenRecord, Recorded

_INSERT = (
    "INSERT OR REPLACE INTO calls(id, owner, agent, key, name, pid, nice, opened, size, body_hash, tip, args)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_END = "UPDATE calls SET state = ?, ended = ?, size = size + ?, result = ?, error = ? WHERE id = ?"
_FIND = "SELECT id, name, body_hash, state, result, error, opened FROM calls WHERE owner = ? AND agent = ? AND key = ?"
_OPEN = (
    "SELECT id, name, pid, opened, is_begun, owner, agent, nice, key, body_hash, tip, args"
    " FROM calls WHERE state IS NULL"
)


def write(connection: apsw.Connection, event: Event, keyed: Keyed, wall: float) -> None:
    """Carry `event` over into the call's row; its nodes are there already."""
    id = event.row[0]
    if event.kind == OPEN:
        connection.execute(_INSERT, keyed.opening)
    elif event.kind == BEGIN:
        connection.execute("UPDATE calls SET is_begun = 1 WHERE id = ?", (id,))
    elif (answer := keyed.answer or _done_after_all(connection, id)) is None:
        connection.execute("DELETE FROM calls WHERE id = ?", (id,))
    else:
        state, result, error = answer
        size = len(result or b"") + len(error or b"")
        connection.execute(_END, (state, wall, size, result, error, id))
    if event.kind == END:
        connection.execute("DELETE FROM effects WHERE call = ?", (id,))


def _done_after_all(connection: apsw.Connection, id: str) -> Answer | None:
    """The answer of a call that broke off while its write was carried out: whoever asks again is not to write twice."""
    result = value(connection, "SELECT result FROM effects WHERE call = ?", (id,))
    return None if result is None else (State.DONE.value, result, None)


def answer_of(state: State, result: Any, error: AiosError | None) -> Answer:
    """An answer as it is written."""
    if error is None:
        return state.value, encode(result), None
    return state.value, None, encode({**error.to_dict(), "status": error.status})


def find(connection: apsw.Connection, place: KeyPlace) -> Recorded | None:
    """The call under a key, if it is open or its answer is still kept."""
    found = row(connection, _FIND, place)
    if found is None:
        return None
    id, name, body, state, result, error, opened = found
    if state is None:
        return Recorded(id, name, body, opened=opened)
    return Recorded(id, name, body, State(state), _result_of(name, result), _error_of(error), opened)


def find_open(connection: apsw.Connection) -> list[OpenRecord]:
    """Every call under a key that has no end, with its arguments."""
    found = []
    for id, name, pid, opened, begun, owner, agent, nice, key, body, tip, rest in rows(connection, _OPEN):
        args = join(connection, name, tip, rest)
        found.append(OpenRecord(id, name, pid, opened, bool(begun), owner, agent, nice, key, body, args))
    return found


def _result_of(name: str, text: bytes | None) -> Any:
    return None if text is None else msgspec.json.decode(text, type=CALLS[name].result)


def _error_of(text: bytes | None) -> AiosError | None:
    if text is None:
        return None
    body = msgspec.json.decode(text)
    return from_dict(body["status"], body)

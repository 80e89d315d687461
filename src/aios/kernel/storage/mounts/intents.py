"""What is about to be done in a mounted folder, on record before it is, as jobs on the store. Knows no folder.

A rename in a folder and a row in the store cannot be one step. What a kernel died over in between is found here by the
next one (`cut_short.py`): without it a moved file would look like one that others took away, and another that came.
"""

from __future__ import annotations

from typing import Literal

import apsw
import msgspec

from ...database import rows
from ...spaces import Scope
from ..versions import Stamp

What = Literal["write", "make", "move", "clear", "restore"]


class Intent(msgspec.Struct, frozen=True):
    """`inode` is of what will stand at `path`, or for a move at `to`, once it is done. What is cleared is called `to`
    until it leaves. `once` is the call's id if it has a key."""

    what: What
    path: str
    stamp: Stamp
    once: str | None
    to: str = ""
    inode: int = 0


def add(connection: apsw.Connection, scope: Scope, intent: Intent) -> int:
    connection.execute(
        "INSERT INTO intents(owner, agent, mount, intent) VALUES (?, ?, ?, ?)",
        (*scope, msgspec.json.encode(intent).decode()),
    )
    return connection.last_insert_rowid()


def drop(connection: apsw.Connection, id: int) -> None:
    """It was done, or will not be."""
    connection.execute("DELETE FROM intents WHERE id = ?", (id,))


def drop_all(connection: apsw.Connection, scope: Scope) -> None:
    connection.execute("DELETE FROM intents WHERE owner = ? AND agent = ? AND mount = ?", scope)


def of(connection: apsw.Connection, scope: Scope) -> dict[int, Intent]:
    """In their order."""
    sql = "SELECT id, intent FROM intents WHERE owner = ? AND agent = ? AND mount = ? ORDER BY id"
    return {id: msgspec.json.decode(intent, type=Intent) for id, intent in rows(connection, sql, scope)}

"""Contents that came as a stream and wait for the call that names them, as jobs on the store. Knows no stream.

They outlive a restart, as the calls with a key do that will name them.
"""

from __future__ import annotations

import apsw

from aios.abi.errors import NotFound

from ..database import row, rows
from ..process import Place
from . import contents
from .versions import Staged

KEEP = 86_400.0
"""Seconds that one is kept which no call names."""
STEP = 100
"""Uploads that are forgotten together."""


def keep(connection: apsw.Connection, whose: Place, name: str, content: int, now: float) -> bool:
    """In place of an earlier one of the name, which has the same content; whether there was none."""
    is_first = not forget(connection, whose, name)
    connection.execute("INSERT INTO uploads VALUES (?, ?, ?, ?, ?)", (*whose, name, content, now))
    contents.name(connection, content)
    return is_first


def find(connection: apsw.Connection, whose: Place, name: str) -> Staged:
    """What is kept under the name. Raises NotFound."""
    sql = "SELECT id, size, hash FROM uploads JOIN contents ON id = content WHERE owner = ? AND agent = ? AND name = ?"
    found = row(connection, sql, (*whose, name))
    if found is None:
        raise NotFound(
            f"nothing was sent that is called '{name[:100]}', or it was written or forgotten: send it again with PUT "
            "/aios/v1/files/PATH",
            code="no_such_upload",
            param="upload",
        )
    return Staged(*found)


def forget(connection: apsw.Connection, whose: Place, name: str) -> bool:
    """Whether it was there, which it need not be."""
    sql = "DELETE FROM uploads WHERE owner = ? AND agent = ? AND name = ? RETURNING content"
    found = rows(connection, sql, (*whose, name))
    for (content,) in found:
        contents.unname(connection, content)
    return bool(found)


def forget_old(connection: apsw.Connection, now: float) -> int:
    """Some of those that nobody came for: how many went."""
    found = rows(connection, "SELECT owner, agent, name FROM uploads WHERE created < ? LIMIT ?", (now - KEEP, STEP))
    for owner, agent, name in found:
        forget(connection, Place(owner, agent), name)
    return len(found)

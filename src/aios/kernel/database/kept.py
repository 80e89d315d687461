"""How much an agent keeps in a room, counted with each write so that no write has to count. Knows no bound."""

from __future__ import annotations

from typing import NamedTuple

import apsw

from .query import row


class Kept(NamedTuple):
    """What one agent keeps in a room."""

    entries: int
    bytes: int


def kept(connection: apsw.Connection, room: str, owner: str, agent: str) -> Kept:
    sql = "SELECT entries, bytes FROM kept WHERE room = ? AND owner = ? AND agent = ?"
    return Kept(*(row(connection, sql, (room, owner, agent)) or (0, 0)))


def add_kept(connection: apsw.Connection, room: str, owner: str, agent: str, entries: int, num_bytes: int) -> None:
    """Count what a job adds, or takes away."""
    connection.execute(
        "INSERT INTO kept VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
        " SET entries = entries + excluded.entries, bytes = bytes + excluded.bytes",
        (room, owner, agent, entries, num_bytes),
    )

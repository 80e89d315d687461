"""A room's tables in the index: names, scopes, and statements that more than one file needs. Knows no ranking.

A text's key is unique among those of its room and says its scope: `scope << 32 | n`. It gets a new one whenever its
vector changes, so a key stands for one vector for good, and what is new in a scope has higher keys than what was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import apsw

from ..database import row, value
from .base import Source, Where

KEYS = 32
"""Bits of a key below its scope."""


class Scope(NamedTuple):
    """`texts` is how many are in it, `next` the number of the next key."""

    number: int
    texts: int
    next: int


class Tables:
    """Of one room."""

    def __init__(self, room: str, source: Source) -> None:
        self.room = room
        self.source = source
        self.words = f"{room}_words"
        self.vectors = f"{room}_vectors"

    def scope(self, connection: apsw.Connection, number: int) -> Scope | None:
        sql = "SELECT number, texts, next FROM search_scopes WHERE room = ? AND number = ? AND NOT is_gone"
        found = row(connection, sql, (self.room, number))
        return None if found is None else Scope(*found)

    def new_keys(self, connection: apsw.Connection, scope: int, count: int) -> range:
        """`count` keys that were never given before; none where the scope has gone."""
        sql = "UPDATE search_scopes SET next = next + ? WHERE room = ? AND number = ? RETURNING next"
        end = value(connection, sql, (count, self.room, scope))
        return range(0) if end is None else range(first_key(scope) + end - count, first_key(scope) + end)

    def among(self, scopes: Sequence[Scope], where: Where | None) -> Where:
        """What a row of the room's table must fulfil to be found. Nothing else is, whatever the index says."""
        marks = ", ".join("?" * len(scopes))
        own = Where(f"t.{self.source.scope} IN ({marks})", tuple(scope.number for scope in scopes))
        return own if where is None else Where(f"{own.sql} AND ({where.sql})", own.bindings + where.bindings)

    def fulfils(self, row: str, where: Where) -> Where:
        """Whether the row of the room's table whose number is the SQL `row` fulfils `where`."""
        sql = f"EXISTS (SELECT 1 FROM {self.source.table} AS t WHERE t.row = {row} AND ({where.sql}))"
        return Where(sql, where.bindings)


def first_key(scope: int) -> int:
    return scope << KEYS

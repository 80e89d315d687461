"""What a room writes a job with: its type, and short words for short queries. Knows no table and no thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import apsw
import msgspec

T = TypeVar("T")
Job = Callable[[apsw.Connection], T]
"""Reads and writes through the connection it is given. May be run twice (its group was rolled back), so it changes
nothing else; never commits, never waits."""


def rows(connection: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    return connection.execute(sql, bindings).fetchall()


def row(connection: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> tuple[Any, ...] | None:
    """The first row of a query, None without one."""
    return connection.execute(sql, bindings).fetchone()


def value(connection: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> Any:
    """The first column of the first row of a query, None without one."""
    found = connection.execute(sql, bindings).fetchone()
    return found[0] if found else None


def as_list(numbers: Sequence[int]) -> str:
    """For `IN (SELECT value FROM json_each(?))`."""
    return msgspec.json.encode(numbers).decode()

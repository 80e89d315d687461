"""What the index is told of entries, and which of them a search is about. Knows no call's course and no ranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw
import msgspec

from aios.abi.calls import MemSearch
from aios.abi.errors import ModuleFault

from ..database import as_list, rows
from ..search import Source, Where
from .base import Swap

_HAS_ALL = """NOT EXISTS (
    SELECT 1 FROM json_each(?) AS wanted WHERE NOT EXISTS (
        SELECT 1 FROM json_each(CAST(t.metadata AS TEXT)) AS held
        WHERE held.key = wanted.key AND held.value IS wanted.value
            AND replace(held.type, 'integer', 'real') = replace(wanted.type, 'integer', 'real')))"""
"""Values of other types are not the same: 1 is not true, though it is 1.0."""


def entries_in(swap: Swap) -> Source:
    """An entry's scope is its block. What cannot be read any more is not found."""

    def texts(connection: apsw.Connection, numbers: Sequence[int]) -> dict[int, str]:
        sql = "SELECT row, block, tip, tail, seal FROM entries WHERE row IN (SELECT value FROM json_each(?))"
        found = {}
        for number, block, *held in rows(connection, sql, (as_list(numbers),)):
            try:
                found[number] = swap.get(connection, block, (held[0], held[1], held[2])).decode()
            except (ModuleFault, UnicodeDecodeError):
                continue
        return found

    return Source("entries", texts, scope="block", created="created", importance="importance")


def among(args: MemSearch) -> Where | None:
    """What entries must fulfil to be found."""
    conditions: list[tuple[str, tuple[Any, ...]]] = []
    if args.kinds is not None:
        conditions.append((f"t.kind IN ({', '.join('?' * len(args.kinds))})", tuple(args.kinds)))
    if args.since is not None:
        conditions.append(("t.created >= ?", (args.since,)))
    if args.until is not None:
        conditions.append(("t.created < ?", (args.until,)))
    if args.metadata:
        conditions.append((_HAS_ALL, (msgspec.json.encode(args.metadata).decode(),)))
    if not conditions:
        return None
    return Where(" AND ".join(sql for sql, _ in conditions), tuple(each for _, some in conditions for each in some))

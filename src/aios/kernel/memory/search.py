"""Entries of one block, found again by their words. Knows no call.

Every statement is bounded by the block that it is given.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apsw
import msgspec

from aios.abi.errors import ModuleFault

from ..database import rows, value
from .base import Swap, bm25, terms_of

MAX_CANDIDATES = 2000
"""Entries that a search weighs, when more hold a word of the query."""
MAX_SCAN = 2000
"""The newest entries that are looked through as they stand, when none holds a word of the query."""
MAX_SCAN_BYTES = 32 << 20
"""Bytes of theirs after which the looking ends; an entry may be a megabyte."""


def scope_of(block: int) -> str:
    """One word for the full-text index, another for each block. No text can hold it: content is in another column."""
    return f"m{block}"


def index(connection: apsw.Connection, block: int, number: int, content: str) -> None:
    """Have entry `number` found by the words of `content`. Part of a job."""
    connection.execute(
        "INSERT INTO entries_text(rowid, scope, content) VALUES (?, ?, ?)", (number, scope_of(block), content)
    )


def unindex(connection: apsw.Connection, numbers: Iterable[int]) -> None:
    """Have these entries found no more. Part of a job."""
    connection.executemany("DELETE FROM entries_text WHERE rowid = ?", [(number,) for number in numbers])


def search(connection: apsw.Connection, swap: Swap, block: int, query: str, k: int) -> list[tuple[int, float]]:
    """Numbers and scores of the entries that hold any word of `query`, the best first; failing that, of those that hold
    it as it stands."""
    if (terms := terms_of(query)) and (best := _ranked(connection, block, terms)):
        return best[:k]
    text = query.strip().lower()
    return [(number, 0.0) for number in _scan(connection, swap, block, text, k)] if text else []


def _scan(connection: apsw.Connection, swap: Swap, block: int, text: str, k: int) -> list[int]:
    """The first `k` of the newest entries that hold `text`, upper or lower case."""
    sql = "SELECT row, tip, tail, seal FROM entries WHERE block = ? ORDER BY row DESC LIMIT ?"
    found: list[int] = []
    num_bytes = 0
    for number, *held in connection.execute(sql, (block, MAX_SCAN)):
        try:
            content = swap.get(connection, block, (held[0], held[1], held[2]))
        except ModuleFault:  # it is told to those who read it
            continue
        if text in content.decode().lower():
            found.append(number)
        num_bytes += len(content)
        if len(found) >= k or num_bytes >= MAX_SCAN_BYTES:
            break
    return found


def _ranked(connection: apsw.Connection, block: int, terms: list[str]) -> list[tuple[int, float]]:
    """Entries that hold any of `terms` with their scores, the best first and the newer before the older."""
    connection.register_fts5_function("tally", _tally)
    any_term = " OR ".join(f'"{term}"' for term in terms)
    sql = (
        "SELECT rowid, tally(entries_text) FROM entries_text WHERE entries_text MATCH ?"
        " ORDER BY bm25(entries_text, 0.0, 1.0) LIMIT ?"
    )
    match = f'scope : "{scope_of(block)}" AND content : ({any_term})'
    found = {n: msgspec.json.decode(text) for n, text in rows(connection, sql, (match, MAX_CANDIDATES))}
    total = value(connection, "SELECT num_entries FROM blocks WHERE id = ?", (block,))
    scores = bm25(total, list(found.values()))
    return sorted(zip(found, scores, strict=True), key=lambda pair: (pair[1], pair[0]), reverse=True)


def _tally(api: apsw.FTS5ExtensionApi, *_: Any) -> str:
    """Of the row at hand: its number of words, and how often it holds each term. The first phrase is the scope."""
    counts = [len(api.phrase_locations(n)[1]) for n in range(1, api.phrase_count)]
    return f"[{api.column_size(1)},{','.join(map(str, counts))}]"

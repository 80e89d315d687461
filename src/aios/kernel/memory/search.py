"""Entries of one agent, found again by their words. Knows no call.

Every statement is bounded by the owner and agent that it is given.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import apsw
import msgspec

from aios.abi.calls import Entry

from ..database import row, rows, value
from ..process import Place
from .base import bm25, terms_of

MAX_CANDIDATES = 2000
"""Entries that a search weighs, when more hold a word of the query."""
MAX_SCAN = 2000
"""The newest entries that are looked through as they stand, when none holds a word of the query."""
MAX_SCAN_BYTES = 32 << 20
"""Bytes of theirs after which the looking ends; an entry may be a megabyte."""
ENTRY = "id, content, kind, metadata, created"
"""The columns that `entry_of` takes."""


def scope_of(place: Place) -> str:
    """One word for the full-text index, another for each place. No text can hold it: content is in another column."""
    return sha256(msgspec.json.encode(place)).hexdigest()[:32]


def entry_of(found: tuple[Any, ...], score: float | None = None) -> Entry:
    id, content, kind, metadata, created = found
    return Entry(
        id=id, content=content, kind=kind, metadata=msgspec.json.decode(metadata), created=created, score=score
    )


def search(connection: apsw.Connection, place: Place, query: str, k: int) -> list[Entry]:
    """The entries that hold any word of `query`, the best first; failing that, those that hold it as it stands."""
    if (terms := terms_of(query)) and (best := _ranked(connection, place, terms)):
        sql = f"SELECT {ENTRY} FROM entries WHERE row = ? AND owner = ? AND agent = ?"
        found = [(row(connection, sql, (n, *place)), score) for n, score in best[:k]]
        return [entry_of(entry, score) for entry, score in found if entry is not None]
    return [entry_of(entry, 0.0) for entry in _scan(connection, place, query.strip(), k)] if query.strip() else []


def _scan(connection: apsw.Connection, place: Place, text: str, k: int) -> list[tuple[Any, ...]]:
    """The first `k` of the newest entries that hold `text`, upper or lower case."""
    sql = (
        "SELECT row, octet_length(content), instr(lower(content), lower(?)) FROM entries"
        " WHERE owner = ? AND agent = ? ORDER BY id DESC LIMIT ?"
    )
    found: list[tuple[Any, ...]] = []
    num_bytes = 0
    for n, size, at in connection.execute(sql, (text, *place, MAX_SCAN)):
        if at:
            found += rows(connection, f"SELECT {ENTRY} FROM entries WHERE row = ?", (n,))
        num_bytes += size
        if len(found) >= k or num_bytes >= MAX_SCAN_BYTES:
            break
    return found


def _ranked(connection: apsw.Connection, place: Place, terms: list[str]) -> list[tuple[int, float]]:
    """Rows that hold any of `terms` with their scores, the best first and the newer before the older."""
    connection.register_fts5_function("tally", _tally)
    any_term = " OR ".join(f'"{term}"' for term in terms)
    sql = (
        "SELECT rowid, tally(entries_text) FROM entries_text WHERE entries_text MATCH ?"
        " ORDER BY bm25(entries_text, 0.0, 1.0) LIMIT ?"
    )
    match = f'scope : "{scope_of(place)}" AND content : ({any_term})'
    found = {n: msgspec.json.decode(text) for n, text in rows(connection, sql, (match, MAX_CANDIDATES))}
    total = value(connection, "SELECT count(*) FROM entries WHERE owner = ? AND agent = ?", place)
    scores = bm25(total, list(found.values()))
    return sorted(zip(found, scores, strict=True), key=lambda pair: (pair[1], pair[0]), reverse=True)


def _tally(api: apsw.FTS5ExtensionApi, *_: Any) -> str:
    """Of the row at hand: its number of words, and how often it holds each term. The first phrase is the scope."""
    counts = [len(api.phrase_locations(n)[1]) for n in range(1, api.phrase_count)]
    return f"[{api.column_size(1)},{','.join(map(str, counts))}]"

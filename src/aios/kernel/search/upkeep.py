"""The steps that keep an index up to date, as short jobs of the database. Knows no model's inside and no time.

Each looks for what is left to do in the tables, so steps may be left undone at any moment and taken up later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import apsw

from ..database import as_list, rows, value
from .models import Model
from .tables import KEYS, Tables, first_key

SHARES = 4
"""Scopes that have texts in one batch, while others have some too."""
PORTION = 500
"""Rows that one job clears away, or marks to be embedded anew."""
LAST = (1 << 63) - 1
"""Above all keys: the largest number that SQLite has."""


class Todo(NamedTuple):
    """A text without a vector. None where the room has the text no more."""

    key: int
    text: str | None


def next_texts(connection: apsw.Connection, tables: Tables, turn: int, batch: int, max_chars: int) -> list[Todo]:
    """Up to `batch` texts without a vector, of the scope `turn` and those after it, round and round: who has many does
    not make all others wait."""
    keys: list[tuple[int, int]] = []
    at, end = first_key(turn), LAST
    while len(keys) < batch:
        found = _without(connection, tables, at, end, min(-(-batch // SHARES), batch - len(keys)))
        if found:
            scope = found[0][0] >> KEYS
            keys += [pair for pair in found if pair[0] >> KEYS == scope]
            at = first_key(scope + 1)
        elif end > first_key(turn):
            at, end = 0, first_key(turn)
        else:
            break
    if len({key >> KEYS for key, _ in keys}) == 1:
        keys = _without(connection, tables, keys[0][0], first_key((keys[0][0] >> KEYS) + 1), batch)
    return _texts(connection, tables, keys, max_chars)


def _without(connection: apsw.Connection, tables: Tables, at: int, end: int, count: int) -> list[tuple[int, int]]:
    sql = f"SELECT key, row FROM {tables.vectors} WHERE model = 0 AND key >= ? AND key < ? ORDER BY key LIMIT ?"
    return [(key, row) for key, row in rows(connection, sql, (at, end, count))]


def _texts(connection: apsw.Connection, tables: Tables, keys: Sequence[tuple[int, int]], max_chars: int) -> list[Todo]:
    texts = tables.source.texts(connection, [row for _, row in keys])
    return [Todo(key, texts[row][:max_chars] if row in texts else None) for key, row in keys]


def keep_vectors(
    connection: apsw.Connection, tables: Tables, model: Model, made: Iterable[tuple[int, bytes | None]]
) -> None:
    """The vectors of texts by key; None for one that the model has none for. Nothing happens to texts that were
    changed or dropped meanwhile."""
    made = list(made)
    keys = {
        scope: iter(tables.new_keys(connection, scope, count))
        for scope, count in Counter(k >> KEYS for k, _ in made).items()
    }
    sql = f"UPDATE {tables.vectors} SET key = ?, model = ?, vector = ? WHERE key = ?"
    for key, vector in made:
        if (new := next(keys[key >> KEYS], None)) is not None:
            connection.execute(sql, (new, model.number, vector, key))


def model_number(connection: apsw.Connection, tables: Tables) -> int | None:
    """Of the model that all vectors of the room are of; 0 where there never was one, None where there are no texts."""
    if value(connection, f"SELECT 1 FROM {tables.vectors} LIMIT 1") is None:
        return None
    return int(value(connection, "SELECT model FROM search_rooms WHERE room = ?", (tables.room,)) or 0)


def others_after(connection: apsw.Connection, tables: Tables, model: Model, key: int) -> tuple[list[int], int | None]:
    """Keys after `key` whose vectors are of another model, and how far was looked; None when that was all."""
    sql = f"SELECT key, model FROM {tables.vectors} WHERE key > ? ORDER BY key LIMIT ?"
    found = rows(connection, sql, (key, PORTION))
    others = [key for key, number in found if number not in (0, model.number)]
    return others, found[-1][0] if len(found) == PORTION else None


def embed_anew(connection: apsw.Connection, tables: Tables, keys: list[int]) -> None:
    sql = f"UPDATE {tables.vectors} SET model = 0, vector = NULL WHERE key IN (SELECT value FROM json_each(?))"
    connection.execute(sql, (as_list(keys),))


def all_are_of(connection: apsw.Connection, tables: Tables, model: Model) -> None:
    """Note that no vector of the room is of another model."""
    sql = "INSERT INTO search_rooms(room, model) VALUES (?, ?) ON CONFLICT DO UPDATE SET model = excluded.model"
    connection.execute(sql, (tables.room, model.number))


def clear_some(connection: apsw.Connection, tables: Tables) -> bool:
    """Clear away a portion of what was dropped with its scope. Whether there may be more."""
    scope = value(connection, "SELECT number FROM search_scopes WHERE is_gone AND room = ?", (tables.room,))
    if scope is None:
        return False
    sql = (
        f"DELETE FROM {tables.vectors} WHERE key IN"
        f" (SELECT key FROM {tables.vectors} WHERE key >= ? AND key < ? LIMIT ?) RETURNING row"
    )
    found = rows(connection, sql, (first_key(scope), first_key(scope + 1), PORTION))
    for gone in found:
        connection.execute(f"DELETE FROM {tables.words} WHERE rowid = ?", gone)
    if len(found) < PORTION:
        connection.execute("DELETE FROM search_scopes WHERE room = ? AND number = ?", (tables.room, scope))
    return True


def num_without(connection: apsw.Connection, tables: Tables) -> int:
    """Texts of the room whose vector is still to be made."""
    return int(value(connection, f"SELECT count(*) FROM {tables.vectors} WHERE model = 0"))

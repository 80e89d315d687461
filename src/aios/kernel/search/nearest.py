"""Texts of scopes whose vectors are nearest to a query's: all are compared. Knows no word.

The vectors of scopes that were searched stay in memory, up to a bound. A scope's are brought up to date by what was
added since, and what has gone is found out when the nearest are looked up.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import apsw
import numpy as np

from ..database import as_list, rows
from .base import F32, Asked, Meaning
from .tables import Scope, Tables, first_key
from .vectors import I64, Matrix

MAX_CACHE = 128 << 20
"""Bytes of vectors in memory, of all scopes together."""
READ = 2048
"""Vectors that are read at once."""


class Vectors:
    """Those of scopes that were searched last. Any thread may search."""

    def __init__(self, max_bytes: int = MAX_CACHE) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int, int], _Kept] = OrderedDict()
        self._counts = {"hits": 0, "loads": 0, "evictions": 0}

    def of(self, connection: apsw.Connection, tables: Tables, scope: Scope, meaning: Meaning) -> Matrix:
        """Those of `scope` that the model of `meaning` has made, as `connection` sees them or newer."""
        at = (tables.room, scope.number, meaning.model)
        with self._lock:
            kept = self._kept.get(at)
            if kept is None:
                kept = self._kept[at] = _Kept(len(meaning.vector))
            self._kept.move_to_end(at)
        with kept.lock:
            self._counts["loads" if kept.is_outdated(scope) else "hits"] += 1
            matrix = kept.brought_up(connection, tables, scope, meaning.model)
        self._shrink()
        return matrix

    def _shrink(self) -> None:
        with self._lock:
            while self._kept and self.num_bytes > self._max_bytes:
                self._kept.popitem(last=False)
                self._counts["evictions"] += 1

    @property
    def num_bytes(self) -> int:
        return sum(kept.matrix.num_bytes for kept in self._kept.values())

    def statistics(self) -> dict[str, Any]:
        with self._lock:
            return {"scopes": len(self._kept), "bytes": self.num_bytes, **self._counts}


class _Kept:
    """One scope's."""

    def __init__(self, dimension: int) -> None:
        self.lock = threading.Lock()
        self.matrix = Matrix(dimension)

    def is_outdated(self, scope: Scope) -> bool:
        """Whether more of it has gone than is worth being looked up."""
        return self.matrix.last == 0 or self.matrix.count > 1.25 * scope.texts + 256

    def brought_up(self, connection: apsw.Connection, tables: Tables, scope: Scope, model: int) -> Matrix:
        if self.is_outdated(scope):
            self.matrix = Matrix(self.matrix.dimension)
        matrix = self.matrix
        begin = max(matrix.last, first_key(scope.number))
        end = first_key(scope.number) + scope.next  # no vector that is still to be made gets a key below
        if begin < end:
            sql = (
                f"SELECT key, vector FROM {tables.vectors} WHERE key >= ? AND key < ? AND model = ?"
                " AND vector IS NOT NULL"
            )
            found = connection.execute(sql, (begin, end, model))
            while part := list(islice(found, READ)):
                keys, vectors = zip(*part, strict=True)
                matrix.append(keys, vectors)
            matrix.last = end
        return matrix


def by_meaning(
    connection: apsw.Connection, tables: Tables, vectors: Vectors, scopes: Sequence[Scope], asked: Asked, count: int
) -> dict[int, float]:
    """Rows of the `count` nearest texts that may be found, and their cosines."""
    meaning = asked.meaning
    if meaning is None:
        return {}
    compared = [vectors.of(connection, tables, scope, meaning).cosines(meaning.vector) for scope in scopes]
    keys, cosines = (np.concatenate(each) for each in zip(*compared, strict=True))
    where = tables.fulfils("v.row", tables.among(scopes, asked.where))
    sql = (
        f"SELECT v.row, v.key FROM {tables.vectors} AS v"
        f" WHERE v.key IN (SELECT value FROM json_each(?)) AND {where.sql}"
    )
    found: dict[int, float] = {}
    for some_keys, some_cosines in _nearest_first(keys, cosines, meaning.floor, count):
        known = dict(zip(some_keys.tolist(), some_cosines.tolist(), strict=True))
        for row, key in rows(connection, sql, (as_list(list(known)), *where.bindings)):
            found[row] = known[key]
        if len(found) >= count:
            break
    return found


def _nearest_first(keys: I64, cosines: F32, floor: float, count: int) -> Iterator[tuple[I64, F32]]:
    """Some with cosines above `floor`, then more and more of them, those before being nearer than those after."""
    left = np.flatnonzero(cosines > floor)
    while len(left):
        if len(left) > count:
            order = np.argpartition(-cosines[left], count - 1)
            now, left = left[order[:count]], left[order[count:]]
        else:
            now, left = left, left[:0]
        yield keys[now], cosines[now]
        count *= 4

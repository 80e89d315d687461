"""The texts of one room, by row: put, dropped, and found by their words and their meaning. Knows no model.

A room keeps its texts in its own table, and calls `put` and `drop` in the very job that changes them, so that what is
committed is found. Vectors are made later, in the background; until then a text is found by its words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

import apsw

from aios.abi.errors import AiosError

from ..database import as_list, rows, value
from ..database import row as first_row
from .base import Asked, Hit, Meaning, Mode, Where
from .fuse import Ranking, best_first, fused, trust_in
from .keyword import by_looking, by_words
from .nearest import Vectors, by_meaning
from .tables import KEYS, Scope, Tables, first_key
from .words import indexed

CANDIDATES = 100
"""Texts of each ranking that are fused."""
PORTION = 500
"""Texts that one job takes up."""
UNSAID = 0.5
"""The importance of a text that has none."""


class Index:
    """Made by `Search.index`. Methods that take a connection are called in jobs of the database."""

    def __init__(
        self,
        tables: Tables,
        vectors: Vectors,
        meaning_of: Callable[[str], Awaitable[Meaning | None]],
        on_change: Callable[[], None],
    ) -> None:
        self.tables = tables
        self._vectors = vectors
        self._meaning_of = meaning_of
        self._on_change = on_change

    # ── in jobs that write ──

    def put(self, connection: apsw.Connection, scope: int, row: int, text: str) -> None:
        """Let `text` be found as `row`, instead of what that was before. Cheapest when rows only grow. The number of a
        scope, up to two thousand million, is whose the text is; it never becomes somebody else's."""
        vectors, words = self.tables.vectors, self.tables.words
        key = self._new_key(connection, scope)
        enter = f"INSERT OR IGNORE INTO {vectors}(key, row) VALUES (?, ?)"
        connection.execute(enter, (key, row))
        if not connection.changes():
            self.drop(connection, [row])
            connection.execute(enter, (key, row))
        sql = f"INSERT INTO {words}(rowid, words) VALUES (?, ?)"
        connection.execute(sql, (row, indexed(scope, text)))
        self._on_change()

    def _new_key(self, connection: apsw.Connection, scope: int) -> int:
        """Of a text more in `scope`."""
        # Without RETURNING: a statement that has it makes FTS5 write out what it gathers, one tiny piece a text.
        at = (self.tables.room, scope)
        found = value(connection, "SELECT next FROM search_scopes WHERE room = ? AND number = ?", at)
        if found is None:
            connection.execute("INSERT INTO search_scopes(room, number, texts, next) VALUES (?, ?, 1, 1)", at)
            return first_key(scope)
        sql = "UPDATE search_scopes SET texts = texts + 1, next = next + 1 WHERE room = ? AND number = ?"
        connection.execute(sql, at)
        return first_key(scope) + int(found)

    def drop(self, connection: apsw.Connection, dropped: Sequence[int]) -> None:
        """Forget those rows; unknown ones among them do no harm. A few hundred are enough for one job."""
        sql = f"DELETE FROM {self.tables.vectors} WHERE row IN (SELECT value FROM json_each(?)) RETURNING row, key"
        found = rows(connection, sql, (as_list(dropped),))
        for row, _ in found:
            connection.execute(f"DELETE FROM {self.tables.words} WHERE rowid = ?", (row,))
        for number, count in Counter(key >> KEYS for _, key in found).items():
            sql = "UPDATE search_scopes SET texts = texts - ? WHERE room = ? AND number = ?"
            connection.execute(sql, (count, self.tables.room, number))

    def drop_scope(self, connection: apsw.Connection, scope: int) -> None:
        """Forget all that was put under `scope`, for good. Takes no time, however much that is: it is cleared away
        later."""
        sql = "UPDATE search_scopes SET is_gone = 1 WHERE room = ? AND number = ?"
        connection.execute(sql, (self.tables.room, scope))
        self._on_change()

    def is_behind(self, connection: apsw.Connection) -> bool:
        """Whether there are texts to be taken up."""
        return value(connection, "SELECT taken_up FROM search_rooms WHERE room = ?", (self.tables.room,)) is not None

    def take_up(self, connection: apsw.Connection) -> bool:
        """Put some of the texts that the room had before it had an index. Whether there may be more."""
        room, source = self.tables.room, self.tables.source
        last = value(connection, "SELECT taken_up FROM search_rooms WHERE room = ?", (room,))
        if last is None:
            return False
        sql = f"SELECT row, {source.scope} FROM {source.table} WHERE row > ? ORDER BY row LIMIT ?"
        found = rows(connection, sql, (last, PORTION))
        texts = source.texts(connection, [row for row, _ in found])
        for row, scope in found:
            if row in texts:
                self.put(connection, scope, row, texts[row])
        last = found[-1][0] if len(found) == PORTION else None
        connection.execute("UPDATE search_rooms SET taken_up = ? WHERE room = ?", (last, room))
        return last is not None

    def rebuild(self, connection: apsw.Connection) -> None:
        """Forget everything, for `take_up` to put it anew: after damage."""
        tables = self.tables
        connection.execute(f"INSERT INTO {tables.words}({tables.words}) VALUES ('delete-all')")
        connection.execute(f"DELETE FROM {tables.vectors}")
        connection.execute("DELETE FROM search_scopes WHERE room = ?", (tables.room,))
        sql = "INSERT INTO search_rooms(room, taken_up) VALUES (?, 0) ON CONFLICT DO UPDATE SET taken_up = 0"
        connection.execute(sql, (tables.room,))

    # ── searching ──

    async def ask(
        self,
        text: str,
        k: int,
        where: Where | None = None,
        *,
        mode: Mode = "hybrid",
        recency: float = 0.0,
        importance: float = 0.0,
    ) -> Asked:
        """A question for `search`, with the vector that it needs. When that cannot be made now, mode "vector" raises
        why, and mode "hybrid" becomes "keyword"."""
        meaning, why = None, None
        if mode != "keyword":
            try:
                meaning = await self._meaning_of(text)
            except AiosError as error:
                if mode == "vector":
                    raise
                mode, why = "keyword", error.message
        return Asked(text, k, where, mode, recency, importance, meaning, why)

    def search(self, connection: apsw.Connection, scopes: Iterable[int], asked: Asked) -> list[Hit]:
        """What is in those scopes, each named once: the best first; of the same score, the newer before the older. In a
        job that reads aside: it may take some tens of milliseconds."""
        found = [there for scope in scopes if (there := self.tables.scope(connection, scope)) is not None]
        if not found:
            return []
        scores = self._relevance(connection, found, asked)
        if asked.recency or asked.importance:
            scores = fused([Ranking(1.0, scores), *self._weights(connection, scores, asked)])
        return [Hit(row, scores[row]) for row in best_first(scores)[: asked.k]]

    def _relevance(self, connection: apsw.Connection, scopes: Sequence[Scope], asked: Asked) -> dict[int, float]:
        count = max(CANDIDATES, 2 * asked.k)
        if asked.mode == "vector":
            return by_meaning(connection, self.tables, self._vectors, scopes, asked, count)
        words = by_words(connection, self.tables, scopes, asked, count)
        if not words.scores:
            words = by_looking(connection, self.tables, scopes, asked)
        if asked.mode == "keyword":
            return words.scores
        near = by_meaning(connection, self.tables, self._vectors, scopes, asked, count)
        trust = {row: trust_in(share) for row, share in words.shares.items()}
        return fused([Ranking(1.0, words.scores, trust), Ranking(1.0, near)])

    def _weights(self, connection: apsw.Connection, found: Iterable[int], asked: Asked) -> list[Ranking]:
        source = self.tables.source
        sql = (
            f"SELECT row, {source.created}, {source.importance} FROM {source.table}"
            " WHERE row IN (SELECT value FROM json_each(?))"
        )
        facts = rows(connection, sql, (as_list(list(found)),))
        created = {row: float(when) for row, when, _ in facts}
        importance = {row: UNSAID if much is None else float(much) for row, _, much in facts}
        return [Ranking(asked.recency, created), Ranking(asked.importance, importance)]

    # ── looking ──

    def num_unembedded(self, connection: apsw.Connection, scope: int) -> int:
        """Texts of `scope` whose vector is still to be made."""
        sql = f"SELECT count(*) FROM {self.tables.vectors} WHERE model = 0 AND key >= ? AND key < ?"
        return int(value(connection, sql, (first_key(scope), first_key(scope + 1))))

    def check_integrity(self, connection: apsw.Connection) -> list[str]:
        """What is wrong: rows that the room has and the index has not, or the other way round, and miscounts."""
        source, vectors = self.tables.source, self.tables.vectors
        room = self.tables.room  # a word of our own code
        alive = (
            f"SELECT row FROM {vectors} JOIN search_scopes ON room = '{room}' AND number = key >> {KEYS}"
            " AND NOT is_gone"
        )
        wrong = []
        for what, sql in (
            ("not in the index", f"SELECT row FROM {source.table} EXCEPT {alive}"),
            ("in the index only", f"{alive} EXCEPT SELECT row FROM {source.table}"),
            ("without words", f"SELECT row FROM {vectors} EXCEPT SELECT rowid FROM {self.tables.words}"),
            ("whose words are nobody's", f"SELECT rowid FROM {self.tables.words} EXCEPT SELECT row FROM {vectors}"),
        ):
            if found := rows(connection, f"{sql} LIMIT 3"):
                wrong.append(f"{source.table}: rows {what}, such as {', '.join(str(row) for (row,) in found)}")
        sql = (
            f"WITH found AS (SELECT key >> {KEYS} AS number, count(*) AS there FROM {vectors} GROUP BY 1)"
            " SELECT number, texts, coalesce(there, 0) FROM search_scopes LEFT JOIN found USING (number)"
            " WHERE room = ? AND NOT is_gone AND texts <> coalesce(there, 0)"
        )
        if (miscount := first_row(connection, sql, (room,))) is not None:
            wrong.append(f"{source.table}: scope {miscount[0]} counts {miscount[1]} texts and has {miscount[2]}")
        return wrong

"""A room that keeps notes and has them indexed, on a store of its own; embedders that do as they are told."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec
import numpy as np
from numpy.typing import NDArray

from aios.kernel.database import MIGRATIONS, Database, rows
from aios.kernel.search import Embedder, Hit, Search, Source, Where
from aios.testing import MockClock

NOTES = """
    CREATE TABLE notes(
        row INTEGER PRIMARY KEY, scope INTEGER NOT NULL, text TEXT NOT NULL, created REAL NOT NULL DEFAULT 0,
        importance REAL);
    CREATE INDEX notes_by_scope ON notes(scope, row);
"""


def texts(connection: apsw.Connection, numbers: Sequence[int]) -> dict[int, str]:
    sql = "SELECT row, text FROM notes WHERE row IN (SELECT value FROM json_each(?))"
    return dict(rows(connection, sql, (msgspec.json.encode(numbers).decode(),)))


class World:
    """`model` is what the index should know: the text of each row, by scope."""

    def __init__(self, home: Path, embedder: Embedder | None = None) -> None:
        self.home = home
        self.clock = MockClock()
        self.model: dict[int, dict[int, str]] = {}
        self.database = Database.open(home / "aios.db", migrations=(*MIGRATIONS, NOTES))
        self.use(embedder)

    def use(self, embedder: Embedder | None) -> None:
        """As after a restart of the kernel with another model."""
        self.search = Search(self.database, self.clock, embedder)
        source = Source("notes", texts, "scope", "created", "importance")
        self.index = self.search.index("memory", source)
        self.search.take_up()

    async def put(self, scope: int, row: int, text: str, created: float = 0.0, importance: float | None = None) -> None:
        def job(connection: apsw.Connection) -> None:
            sql = "INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?, ?)"
            connection.execute(sql, (row, scope, text, created, importance))
            self.index.put(connection, scope, row, text)

        await self.database.run(job)
        for each in self.model.values():
            each.pop(row, None)
        self.model.setdefault(scope, {})[row] = text

    async def drop(self, *numbers: int) -> None:
        def job(connection: apsw.Connection) -> None:
            for row in numbers:
                connection.execute("DELETE FROM notes WHERE row = ?", (row,))
            self.index.drop(connection, numbers)

        await self.database.run(job)
        for each in self.model.values():
            for row in numbers:
                each.pop(row, None)

    async def drop_scope(self, scope: int) -> None:
        def job(connection: apsw.Connection) -> None:
            connection.execute("DELETE FROM notes WHERE scope = ?", (scope,))
            self.index.drop_scope(connection, scope)

        await self.database.run(job)
        self.model.pop(scope, None)

    async def hits(
        self, scope: int | list[int], text: str, k: int = 10, where: Where | None = None, **more: Any
    ) -> list[Hit]:
        asked = await self.index.ask(text, k, where, **more)
        return await self.database.read_async(
            lambda c: self.index.search(c, [scope] if isinstance(scope, int) else scope, asked)
        )

    async def rows(
        self, scope: int | list[int], text: str, k: int = 10, where: Where | None = None, **more: Any
    ) -> list[int]:
        return [hit.row for hit in await self.hits(scope, text, k, where, **more)]

    def unembedded(self, scope: int) -> int:
        return self.database.read(lambda c: self.index.num_unembedded(c, scope))

    def check(self) -> None:
        assert self.search.check_integrity() == []
        self.database.check_integrity()

    async def close(self) -> None:
        await self.search.close()
        self.check()
        self.database.close()


class Told:
    """An embedder that makes of each text what `make` says: numbers, or an error. Texts with the same first word have
    the same vector unless it says otherwise."""

    floor = -1.0
    max_chars = 1000
    batch = 64

    def __init__(
        self, name: str = "told", dimension: int | None = None, make: Callable[[str], Any] | None = None
    ) -> None:
        self.name = name
        self.dimension = dimension
        self.make = make or (lambda text: by_first_word(text, dimension or 8))
        self.asked: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def embed(self, texts: Sequence[str], *, is_urgent: bool = False) -> Sequence[NDArray[Any]]:
        self.asked.append(list(texts))
        await self.gate.wait()
        made = [self.make(text) for text in texts]
        for each in made:
            if isinstance(each, Exception):
                raise each
        return [np.asarray(each) for each in made]


def by_first_word(text: str, dimension: int = 8) -> NDArray[np.float64]:
    word = (text.split() or [""])[0].lower()
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).standard_normal(dimension)

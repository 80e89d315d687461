"""Searching, for all rooms: their indexes, one embedder, vectors in memory, and what is done in the background."""

from __future__ import annotations

from typing import Any

from ..clock import Clock
from ..database import Database
from .background import Background
from .base import Embedder, Meaning, Source
from .index import Index
from .lexical import Lexical
from .maker import Maker
from .nearest import Vectors
from .tables import Tables


class Search:
    """Rooms get their indexes first, then `take_up`, `open`, and `close` before the database is. Without an `embedder`
    vectors are made of letters and words."""

    def __init__(self, database: Database, clock: Clock, embedder: Embedder | None = None) -> None:
        self._database = database
        self._vectors = Vectors()
        self._maker = Maker(database, clock, embedder or Lexical())
        self._background = Background(database, clock, self._maker)
        self._indexes: list[Index] = []

    def index(self, room: str, source: Source) -> Index:
        """That of the texts which `room` keeps in `source`."""
        found = Index(Tables(room, source), self._vectors, self._meaning, self._background.wake)
        self._background.add(found.tables)
        self._indexes.append(found)
        return found

    async def _meaning(self, query: str) -> Meaning | None:
        before = self._maker.model
        meaning = await self._maker.meaning(query)
        if self._maker.model != before:  # all texts are to be embedded anew
            self._background.wake()
        return meaning

    def take_up(self) -> None:
        """Put texts into the index that their room had before it had one, or whose index is to be made anew."""
        for index in self._indexes:
            # Nothing is written without need: a home on a full disk must open, so that it can be cleared.
            while self._database.read(index.is_behind) and self._database.run_now(index.take_up):
                pass

    async def open(self) -> None:
        """Begin to work in the background."""
        self._maker.open()
        self._background.start()

    async def close(self) -> None:
        await self._background.close()

    async def idle(self) -> None:
        """Until all vectors of what was committed before are made, or the embedder failed and rests."""
        await self._background.idle()

    def check_integrity(self) -> list[str]:
        """What is wrong with the indexes, a line each."""
        return [line for index in self._indexes for line in self._database.read(index.check_integrity)]

    def statistics(self) -> dict[str, Any]:
        return self._background.statistics() | {"cache": self._vectors.statistics()}

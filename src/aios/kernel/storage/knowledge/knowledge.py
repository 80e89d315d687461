"""Files as knowledge: what `sto_retrieve` means. Knows no queue, and no right: it is told which scopes it may look in.

Files are read when somebody asks about them, and kept up to date from then on. What is answered is what their newest
versions hold at one moment, and what is not read by then is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import apsw

from aios.abi.calls import Passage, Passages, StoRetrieve, Where

from ...clock import Clock
from ...database import Database
from ...search import Asked, Index
from ...search import Where as Condition
from ...spaces import Scope
from ..outlet import Outlet
from ..tree import Tree
from . import readings
from .extract import PYPDF, Workshop
from .reader import Reader, Store, View, end, sweep
from .readings import Found
from .survey import File, Part, Survey, survey

PATIENCE = 2.0
"""Seconds that a call waits for files to be read."""
WAITED_FILES, WAITED_BYTES = 200, 16 << 20
"""It waits for no more than so many."""
MAX_SKIPPED = 100
"""Files that an answer tells of, which cannot be read."""
_ASKED = Condition("is_asked_about(t.reading)")


class Knowledge:
    """That in all files. Used on the event loop."""

    def __init__(self, database: Database, outlet: Outlet, index: Index, clock: Clock) -> None:
        self._database = database
        self._index = index
        self._clock = clock
        self._store = Store(database, outlet, index, Workshop(clock))
        self._readers: dict[Scope, Reader] = {}

    def open(self) -> None:
        """Before the first call."""
        has_now = [PYPDF] if self._store.workshop.pdf is not None else []
        self._database.submit(lambda c: readings.give_up_unfinished(c, has_now), frees=True)

    async def close(self) -> None:
        for reader in self._readers.values():
            await reader.close()
        self._store.workshop.close()

    def heard(self, scope: Scope) -> None:
        """Something was written there."""
        if (reader := self._readers.get(scope)) is not None:
            reader.hear()

    async def sweep(self) -> None:
        """Clear away the passages of files that are in the store no more."""
        await sweep(self._store)

    # ── retrieving ──

    async def retrieve(self, parts: Sequence[Part], args: StoRetrieve) -> Passages:
        """Passages of files in `parts`, each of another scope: they are read in the turn of the first. Raises NotFound
        for a path where nothing is."""
        asked = await self._index.ask(args.query, args.k, _ASKED, mode=args.mode or "hybrid")
        whose = parts[0].scope if parts else None
        look = partial(self._look, parts=parts, where=args.where, asked=asked)
        surveys, answer = await self._database.read_async(partial(look, is_final=False), whose)
        waits = []
        for part, found in zip(parts, surveys, strict=True):
            if found.scope is not None:
                reader = self._readers.setdefault(part.scope, Reader(part.scope, self._store))
                some = _some(found.stale)
                if some:
                    waits.append(reader.read(some))
                reader.follow(View.of(part, args.where), is_behind=len(some) < found.num_stale)
        if answer is None:
            await self._wait(waits)
            _, answer = await self._database.read_async(partial(look, is_final=True), whose)
            assert answer is not None
        return answer

    def _look(
        self, connection: apsw.Connection, parts: Sequence[Part], where: Where | None, asked: Asked, is_final: bool
    ) -> tuple[list[Survey], Passages | None]:
        """Without an answer where something is to be read first, unless it `is_final`."""
        with connection:  # what others write meanwhile is not seen
            surveys = [survey(connection, part, where) for part in parts]
            is_answered = is_final or not any(found.stale for found in surveys)
            answer = self._answer(connection, parts, surveys, asked) if is_answered else None
        return surveys, answer

    def _answer(
        self, connection: apsw.Connection, parts: Sequence[Part], surveys: Sequence[Survey], asked: Asked
    ) -> Passages:
        current: set[int] = set().union(*(found.readings for found in surveys))
        connection.create_scalar_function("is_asked_about", lambda *reading: reading[0] in current, 1)
        hits = self._index.search(connection, [found.scope for found in surveys if found.scope is not None], asked)
        found = readings.passages(connection, [hit.row for hit in hits])
        trees = {found.scope: Tree(connection, part.scope) for part, found in zip(parts, surveys, strict=True)}
        skipped = {path: why for each in surveys for path, why in each.skipped.items()}
        return Passages(
            passages=[_passage(trees, found[hit.row], hit.score) for hit in hits],
            pending=sum(each.num_stale for each in surveys),
            skipped=dict(sorted(skipped.items())[:MAX_SKIPPED]),
            note=asked.why,
        )

    async def _wait(self, waits: Sequence[asyncio.Future[None]]) -> None:
        """Until all are done, or for `PATIENCE`. What is under way goes on."""
        late: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(PATIENCE, lambda: end(late))
        try:
            read: asyncio.Future[Any] = asyncio.gather(*waits)
            await asyncio.wait([late, read], return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()


def _some(stale: Sequence[File]) -> list[File]:
    """Of those that are to be read, the newest, as many as a call waits for."""
    some: list[File] = []
    size = 0
    for file in sorted(stale, key=lambda file: -file.id)[:WAITED_FILES]:
        size += file.size
        if some and size > WAITED_BYTES:
            break
        some.append(file)
    return some


def _passage(trees: Mapping[int | None, Tree], found: Found, score: float) -> Passage:
    tree = trees[found.scope]
    start, end, title, text = found.piece
    return Passage(
        path=tree.scope.shown(tree.path_of(found.file) or ""),
        version=found.version,
        start=start,
        end=end,
        text=text,
        score=score,
        title=title,
    )

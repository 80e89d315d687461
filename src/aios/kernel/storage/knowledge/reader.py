"""Reads the files of one scope into passages, one after another: first those that somebody waits for, then what is left
of what was asked about, and what is written there later. Knows no query.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import apsw

from aios.abi.calls import Where
from aios.abi.errors import AiosError, ModuleFault

from ...clock import Timer
from ...database import Database, row
from ...search import Index
from ...spaces import Scope
from .. import versions
from ..outlet import Outlet
from ..tree import Tree
from ..versions import Kept
from . import readings
from .extract import Extract, Extractor, Workshop, too_large
from .formats import HEAD, format_of
from .readings import CURRENT, PORTION
from .survey import File, Part, survey

log = logging.getLogger("aios.storage")

SETTLE = 2.0
"""Seconds after a write until what it left is read, so that a file which is written again and again is not read as
often."""
MAX_VIEWS = 16


@dataclass(frozen=True)
class Store:
    """What reading needs of the storage room."""

    database: Database
    outlet: Outlet
    index: Index
    workshop: Workshop


class View(NamedTuple):
    """Files that were asked about, and are kept up to date from then on."""

    part: Part
    name: str | None
    types: tuple[str, ...] | None

    @classmethod
    def of(cls, part: Part, where: Where | None) -> View:
        if where is None:
            return cls(part, None, None)
        return cls(part, where.name, None if where.types is None else tuple(where.types))

    def stale(self, connection: apsw.Connection) -> list[File]:
        where = Where(name=self.name, types=None if self.types is None else list(self.types))
        return survey(connection, self.part, where).stale


class Reader:
    """Of one scope. Used on the event loop."""

    def __init__(self, scope: Scope, store: Store) -> None:
        self._scope = scope
        self._store = store
        self._views: dict[View, None] = {}
        self._first: dict[int, File] = {}
        self._rest: deque[File] = deque()
        self._is_behind = False
        self._waiting: list[tuple[set[int], asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._timer: Timer | None = None

    # ── asking ──

    def read(self, files: Sequence[File]) -> asyncio.Future[None]:
        """Done when all of `files` were read, or cannot be now."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(({file.id for file in files}, done))
        self._first.update((file.id, file) for file in _in_order(files))
        self._wake()
        return done

    def follow(self, view: View, *, is_behind: bool) -> None:
        """Keep what `view` shows up to date from now on; `is_behind`: some of it is not."""
        self._views.pop(view, None)
        self._views[view] = None
        if len(self._views) > MAX_VIEWS:
            del self._views[next(iter(self._views))]
        if is_behind:
            self.catch_up()

    def hear(self) -> None:
        """Something was written."""
        if self._timer is None:
            self._timer = self._store.workshop.clock.call_later(SETTLE, self.catch_up)

    def catch_up(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_behind = True
        self._wake()

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def is_idle(self) -> bool:
        return self._task is None

    # ── one after another ──

    def _wake(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        extractor = Extractor(self._store.workshop)
        try:
            while (file := await self._next()) is not None:
                await self._read(extractor, file)
                self._tell(file.id)
        except (AiosError, OSError) as error:  # the disk is full, the kernel stops: whoever asks next tries again
            log.warning("files of agent '%s' were not read: %s", self._scope.agent, error)
            self._first.clear()
            self._rest.clear()
        finally:
            self._task = None  # from here on, whoever comes begins anew
            for _, done in self._waiting:
                end(done)
            self._waiting.clear()
            await extractor.close()

    async def _next(self) -> File | None:
        if self._is_behind and not self._first and not self._rest:
            self._is_behind = False
            views = list(self._views)
            found = await self._store.database.read_async(lambda c: [file for view in views for file in view.stale(c)])
            self._rest.extend(_in_order(found))
        if self._first:
            return self._first.pop(next(iter(self._first)))
        return self._rest.popleft() if self._rest else None

    def _tell(self, file: int) -> None:
        for left, done in self._waiting:
            left.discard(file)
            if not left:
                end(done)
        self._waiting = [each for each in self._waiting if each[0]]

    # ── one ──

    async def _read(self, extractor: Extractor, file: File) -> None:
        kept = self._store.database.read(lambda c: _unread(c, self._scope, file.id))
        if kept is None:
            return
        try:
            with self._store.outlet.held(kept.content) as content:
                format = format_of(file.path, await self._store.outlet.part(content, 0, HEAD))
                if (why := too_large(format, kept.size)) is not None:
                    extract = Extract([], why)
                else:
                    async with self._store.workshop.turn(format):
                        pieces = [piece async for piece in self._store.outlet.stream(content, 0, kept.size)]
                        extract = await extractor.extract(file.path, format, pieces)
                await self._keep(kept, extract)
        except ModuleFault as error:
            await self._keep(kept, Extract([], f"its content is damaged: {error.message}"))

    async def _keep(self, kept: Kept, extract: Extract) -> None:
        """A few passages in each job, so that nobody's writes wait long behind them."""
        store, pieces = self._store, extract.pieces
        scope, reading = await store.database.run(partial(_begin, scope=self._scope, kept=kept))
        if reading is None:
            return
        try:
            for at in range(0, len(pieces), PORTION):
                some = pieces[at : at + PORTION]
                await store.database.run(
                    partial(readings.add, index=store.index, scope=scope, reading=reading, pieces=some)
                )
            replaced = await store.database.run(
                partial(readings.finish, reading=reading, why=extract.why, lacks=extract.lacks)
            )
        except AiosError:
            store.database.submit(partial(readings.give_up, reading=reading), frees=True)
            raise
        if replaced:
            await sweep(store)


async def sweep(store: Store) -> None:
    """Clear away what nobody finds any more, in small steps."""
    while await store.database.run(partial(readings.drop_some, index=store.index), frees=True):
        pass


def _unread(connection: apsw.Connection, scope: Scope, file: int) -> Kept | None:
    """The newest version of a file of that scope, if it was not read."""
    found = row(
        connection,
        "SELECT files.version FROM files LEFT JOIN readings"
        " ON file = files.id AND readings.version = files.version AND state = ?"
        " WHERE files.id = ? AND scope = ? AND kind = 'file' AND readings.id IS NULL",
        (CURRENT, file, Tree(connection, scope).id),
    )
    return None if found is None else versions.of(connection, file, *found)


def _begin(connection: apsw.Connection, scope: Scope, kept: Kept) -> tuple[int, int | None]:
    """The scope's number, and a new reading; None if that version is not there any more. Its content was held all the
    while, so what has its number is the same."""
    number = Tree(connection, scope).id
    found = row(
        connection,
        "SELECT 1 FROM files JOIN versions ON file = id"
        " WHERE id = ? AND scope = ? AND versions.version = ? AND content = ?",
        (kept.file, number, kept.version, kept.content),
    )
    if number is None or found is None:
        return 0, None
    return number, readings.begin(connection, kept.file, kept.version)


def _in_order(files: Iterable[File]) -> list[File]:
    """What is read fastest first, and the newest of it."""
    ranks = {"html": 1, "pdf": 2}
    return sorted(files, key=lambda file: (ranks.get(format_of(file.path, b""), 0), -file.id))


def end(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)

"""Reads the files of one scope into passages, one after another: first those that somebody waits for, then what is left
of what was asked about, and what is written there later. Knows no query.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import apsw

from aios.abi.calls import Where
from aios.abi.errors import AiosError, ModuleFault, NotFound

from ...clock import Timer
from ...database import Database, row
from ...search import Index
from ...spaces import Scope
from .. import versions
from ..contents import Content
from ..outlet import Outlet
from ..tree import Tree
from ..versions import Kept
from . import readings
from .extract import Extract, Extractor, Workshop, too_large
from .formats import HEAD, Format, format_of
from .readings import CURRENT, PORTION
from .survey import File, Part, Survey, fitting, stale

log = logging.getLogger("aios.storage")

SETTLE = 2.0
"""Seconds after a write until what it left is read, so that a file which is written again and again is not read as
often."""
PAUSE = 20
"""So many times as long as it takes to look what that was, at least."""
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

    def fits(self) -> Callable[[str], bool]:
        """Whether it shows a path of the scope."""
        top, is_one = self.part.path, fitting(self.part.scope, self.name, self.types)
        return lambda path: _is_below(path, top) and is_one(path)


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
        self._pause = SETTLE

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
            self._timer = self._store.workshop.clock.call_later(self._pause, self.catch_up)

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
        try:
            while self._first or self._rest or self._is_behind:
                await self._read_all()
        finally:
            self._give_up()
            self._task = None

    async def _read_all(self) -> None:
        extractor = Extractor(self._store.workshop)
        try:
            while (file := await self._next()) is not None:
                await self._read(extractor, file)
                self._tell(file.id)
        except (AiosError, OSError) as error:  # the disk is full, the kernel stops: whoever asks next tries again
            log.warning("files of agent '%s' were not read: %s", self._scope.agent, error)
            self._give_up()
        finally:
            await extractor.close()

    def _give_up(self) -> None:
        self._is_behind = False
        self._first.clear()
        self._rest.clear()
        for _, done in self._waiting:
            end(done)
        self._waiting.clear()

    async def _next(self) -> File | None:
        if self._is_behind and not self._first and not self._rest:
            self._is_behind = False
            await self._look()
        if self._first:
            return self._first.pop(next(iter(self._first)))
        return self._rest.popleft() if self._rest else None

    async def _look(self) -> None:
        """See what of the views is to be read."""
        views, clock = list(self._views), self._store.workshop.clock
        began = clock.now()
        surveys = await self._store.database.read_async(lambda c: _stale(c, views))
        self._pause = max(SETTLE, PAUSE * (clock.now() - began))
        self._is_behind |= any(found.num_stale > len(found.stale) for found in surveys)
        self._rest.extend(_in_order(file for found in surveys for file in found.stale))

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
                head = b"".join([piece async for piece in self._store.outlet.stream(content, 0, HEAD)])
                format = format_of(file.path, head)
                async with self._store.workshop.turn(format):  # kept within: what waits to be kept takes memory
                    await self._keep(kept, await self._extracted(extractor, format, content))
        except ModuleFault as error:
            await self._keep(kept, Extract([], f"its content is damaged: {error.message}"))

    async def _extracted(self, extractor: Extractor, format: Format, content: Content) -> Extract:
        if (why := too_large(format, content.size)) is not None:
            return Extract([], why)
        pieces = [piece async for piece in self._store.outlet.stream(content, 0, content.size)]
        return await extractor.extract(format, pieces)

    async def _keep(self, kept: Kept, extract: Extract) -> None:
        """A few passages in each job, so that nobody's writes wait long behind them."""
        store, reading, has_replaced = self._store, None, False
        try:
            for at in range(0, len(extract.pieces) or 1, PORTION):
                some = partial(_keep_some, store.index, self._scope, kept, extract, at, reading)
                reading, has_replaced = await store.database.run(some)
                if reading is None:
                    return
        except AiosError:
            if reading is not None:
                store.database.submit(partial(readings.give_up, reading=reading), frees=True)
            raise
        if has_replaced:
            await sweep(store)


async def sweep(store: Store) -> None:
    """Clear away what nobody finds any more, in small steps."""
    while await store.database.run(partial(readings.drop_some, index=store.index), frees=True):
        pass


def _stale(connection: apsw.Connection, views: Sequence[View]) -> list[Survey]:
    """What any of the views shows, each part of the scope looked through once."""
    tops: list[Part] = []
    for part in sorted({view.part for view in views}, key=lambda part: len(part.path)):
        if not any(_is_below(part.path, top.path) for top in tops):
            tops.append(part)
    shown = [view.fits() for view in views]
    found = []
    for part in tops:
        with contextlib.suppress(NotFound):  # it has moved since it was asked about
            found.append(stale(connection, part, lambda path: any(fits(path) for fits in shown)))
    return found


def _is_below(path: str, top: str) -> bool:
    return not top or path == top or path.startswith(f"{top}/")


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


def _keep_some(
    index: Index, scope: Scope, kept: Kept, extract: Extract, at: int, reading: int | None, connection: apsw.Connection
) -> tuple[int | None, bool]:
    """The reading, which is begun with its first passages and current with its last; and whether it replaced another.
    None if that version is not there any more."""
    number = Tree(connection, scope).id
    if number is None or (at == 0 and not _is_there(connection, number, kept)):
        return None, False
    if reading is None:
        reading = readings.begin(connection, kept.file, kept.version, len(extract.pieces))
    readings.add(connection, index, number, reading, extract.pieces[at : at + PORTION])
    if at + PORTION < len(extract.pieces):
        return reading, False
    return reading, readings.finish(connection, reading, extract.why, extract.lacks)


def _is_there(connection: apsw.Connection, scope: int, kept: Kept) -> bool:
    """Whether it is the version that was read: its content was held all the while, so what has its number is the same,
    though another file may have got the number of the file."""
    sql = (
        "SELECT 1 FROM files JOIN versions ON file = id"
        " WHERE id = ? AND scope = ? AND versions.version = ? AND content = ?"
    )
    return row(connection, sql, (kept.file, scope, kept.version, kept.content)) is not None


def _in_order(files: Iterable[File]) -> list[File]:
    """What is read fastest first, and the newest of it."""
    ranks = {"html": 1, "pdf": 2}
    return sorted(files, key=lambda file: (ranks.get(format_of(file.path, b""), 0), -file.id))


def end(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)

"""What all of the storage room's calls work with: tables, blobs, threads and bounds. Knows no call's meaning."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..config import StorageSection
from ..database import Database, Job, exactly_once
from . import contents, trash, versions
from .ask import Ask
from .blobs import Blobs
from .intake import Intake
from .outlet import Opened, Outlet
from .quota import Quota
from .tree import Tree
from .workers import Workers

NUM_WORKERS = 4
"""Pieces of contents that are hashed, written and read at the same time."""
T = TypeVar("T")
Open = Callable[[Ask, int | None], AbstractAsyncContextManager[Opened]]
"""Opens a version to be read, or the file as it is."""


class Store:
    """One for a home. Used on the event loop."""

    def __init__(self, database: Database, home: Path, settings: StorageSection) -> None:
        self.database = database
        self.quota = Quota(int(settings.limit))
        self.workers = Workers(NUM_WORKERS)
        self.blobs = Blobs(home / "blobs", durable=database.is_durable)
        self.intake = Intake(database, self.blobs, self.workers, int(settings.max_file))
        self.outlet = Outlet(database, self.blobs, self.workers)
        self._left_over = self.blobs.others()
        self.on_drop: Callable[[], Awaitable[None]] = _nothing
        """Takes out what was made of files that are in the store no more."""
        self._sweeping = asyncio.Lock()

    async def run(self, ask: Ask, job: Callable[[Tree], T], kind: type[T], *, frees: bool = False) -> T:
        """What a job makes that writes, once it is committed. It is done once where the call has a key."""
        return await self.database.run(exactly_once(ask.once, self._on_tree(ask, job), kind), frees=frees)

    def look(self, ask: Ask, job: Callable[[Tree], T]) -> T:
        """What a short job sees, at once."""
        return self.database.read(self._on_tree(ask, job))

    async def look_long(self, ask: Ask, job: Callable[[Tree], T]) -> T:
        """What a job sees that may take longer than a millisecond."""
        return await self.database.read_async(self._on_tree(ask, job), ask.scope)

    def _on_tree(self, ask: Ask, job: Callable[[Tree], T]) -> Job[T]:
        return lambda connection: job(Tree(connection, ask.scope, self.quota))

    @asynccontextmanager
    async def opened(self, ask: Ask, version: int | None) -> AsyncIterator[Opened]:
        """A version that is kept, which stays for as long as this is entered. Raises NotFound, BadRequest."""
        kept = self.look(ask, lambda tree: versions.find(tree, ask.path, version))
        with self.outlet.opened(ask.path.rpartition("/")[2], kept) as opened:
            yield opened

    async def drop_leaving(self) -> None:
        """Take out all that is to go for good, in small steps."""
        while await self.database.run(trash.drop_leaving, frees=True):
            pass
        await self.on_drop()
        await self.outlet.sweep()

    async def drop_left_over(self) -> None:
        """Take out files that nothing names, since an earlier kernel died before it could name or drop them. What this
        one writes is not looked at, so once is enough."""
        async with self._sweeping:  # a generator is nobody else's meanwhile
            await self._drop_left_over()

    async def _drop_left_over(self) -> None:
        while (files := await self.workers.run(lambda: next(self._left_over, None))) is not None:
            named = await self.database.read_async(partial(contents.named_files, files=files))
            await self.workers.run(partial(self.blobs.drop_all, files - named))

    def open(self) -> None:
        """Before anything is written: it is the first job."""
        self.database.submit(contents.give_up_unfinished, frees=True)

    def close(self) -> None:
        self.workers.close()


async def _nothing() -> None:
    """Nothing was made."""

"""A content on its way out: read piece by piece, each compared with its hash, in bounded memory. Knows no path.

What is being read is held: though its last version goes meanwhile, it is not dropped before it is read to its end.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import apsw

from ..database import Database
from . import contents
from .blobs import Blobs, File
from .contents import Chunk, Content
from .versions import Kept
from .workers import Workers

STEP = 1 << 20
"""Bytes that are read from the database together."""
AHEAD = 2
"""Pieces that are read before they are asked for."""
MANY = 10_000
"""Characters of a list of chunks that is looked up in a thread."""
DROPS = 100
"""Contents that are dropped together, at most."""
CHANGES = 5000
"""Rows after which no more are."""


class Opened(NamedTuple):
    """A file that is being read: `name` is its last part, `version` 0 and no `hash` if it is none that is kept."""

    name: str
    version: int
    size: int
    hash: bytes | None
    stream: Callable[[int, int], AsyncIterator[bytes]]
    """Bytes from an offset on, so many at most, piece by piece. Raises ModuleFault where one is damaged."""

    async def part(self, offset: int, length: int) -> bytes:
        return b"".join([piece async for piece in self.stream(offset, length)])


class _Group(NamedTuple):
    """Chunks that are read together: one file, or some of the database, and which bytes of them are wanted."""

    chunks: list[Chunk]
    begin: int
    end: int


class Outlet:
    """What is read, and what is dropped when nobody reads it any more. Used on the event loop."""

    def __init__(self, database: Database, blobs: Blobs, workers: Workers) -> None:
        self._database = database
        self._blobs = blobs
        self._workers = workers
        self._held: Counter[int] = Counter()

    @contextmanager
    def held(self, id: int) -> Iterator[Content]:
        """The content that a version was just seen to name. Raises ModuleFault when it is not there."""
        self._held[id] += 1
        try:
            yield self._database.read(lambda c: contents.find(c, id))
        finally:
            self._held[id] -= 1
            if not self._held[id]:
                del self._held[id]

    @contextmanager
    def opened(self, name: str, kept: Kept) -> Iterator[Opened]:
        """As `held`, for a file of that name."""
        with self.held(kept.content) as content:
            yield Opened(name, kept.version, kept.size, content.hash, partial(self.stream, content))

    async def stream(self, content: Content, offset: int, length: int) -> AsyncGenerator[bytes]:
        """Bytes of a held content, piece by piece. Raises ModuleFault at one that is damaged."""
        if content.chunks is None:
            if piece := self._body(content)[offset : offset + length]:
                yield piece
            return
        ahead: deque[asyncio.Task[bytes]] = deque()
        loop = asyncio.get_running_loop()
        try:
            for group in _groups(await self._chunks(content), offset, offset + length):
                ahead.append(loop.create_task(self._fetch(group)))
                if len(ahead) > AHEAD:
                    yield await ahead.popleft()
            while ahead:
                yield await ahead.popleft()
        finally:
            for task in ahead:
                task.cancel()

    async def _chunks(self, content: Content) -> list[Chunk]:
        def job(connection: apsw.Connection) -> list[Chunk]:
            return contents.chunks_of(connection, content)

        assert content.chunks is not None
        if len(content.chunks) < MANY:
            return self._database.read(job)
        return await self._database.read_async(job)

    async def _fetch(self, group: _Group) -> bytes:
        chunk = group.chunks[0]
        if chunk.token is not None:
            data = await self._workers.run(partial(self._blobs.get, chunk.hash, chunk.token))
        else:
            data = await self._database.read_async(partial(_joined, chunks=group.chunks))
        return data[group.begin : group.end]

    def _body(self, content: Content) -> bytes:
        return self._database.read(lambda c: contents.body_of(c, content))

    # ── dropping ──

    async def sweep(self) -> None:
        """Drop all contents that nobody names and nobody reads, in small steps."""
        while ids := self._to_drop():
            files = await self._database.run(lambda c: _drop(c, ids), frees=True)
            if files:
                await self._workers.run(partial(self._blobs.drop_all, files))

    def _to_drop(self) -> list[int]:
        # Decided here, where contents are held: what is seen to have no name can be held by nobody new.
        found = self._database.read(lambda c: contents.unnamed(c, DROPS + len(self._held)))
        return [id for id in found if id not in self._held][:DROPS]


def _joined(connection: apsw.Connection, chunks: list[Chunk]) -> bytes:
    return b"".join(contents.data_of(connection, chunk) for chunk in chunks)


def _drop(connection: apsw.Connection, ids: list[int]) -> list[File]:
    files: list[File] = []
    before = connection.total_changes()
    for id in ids:
        files += contents.drop(connection, id)
        if connection.total_changes() - before > CHANGES:
            break
    return files


def _groups(chunks: list[Chunk], begin: int, end: int) -> Iterator[_Group]:
    """What of `chunks` lies from byte `begin` to `end`, in their order."""
    group: list[Chunk] = []
    at = start = size = 0
    for chunk in chunks:
        if at < end and at + chunk.size > begin:
            if group and (chunk.token is not None or group[0].token is not None or size + chunk.size > STEP):
                yield _Group(group, max(0, begin - start), min(end - start, size))
                group, size = [], 0
            start = at if not group else start
            group.append(chunk)
            size += chunk.size
        at += chunk.size
    if group:
        yield _Group(group, max(0, begin - start), min(end - start, size))

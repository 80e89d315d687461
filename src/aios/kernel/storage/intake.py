"""A content on its way in: cut, hashed and kept while the rest is still coming, in bounded memory. Knows no path.

While one block is cut in a thread, those before it are hashed and written in others; the store learns of them in their
order. What is not finished, whatever the reason, is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from typing import NamedTuple

import apsw

from aios.abi.errors import AiosError, TooLarge

from ..database import Database
from ..spaces import Scope
from . import chunker, contents
from .blobs import Blobs, File
from .chunker import Cutter
from .contents import SMALL, Chunk, Piece
from .quota import Quota
from .tree import Tree
from .versions import Staged
from .workers import Workers

log = logging.getLogger("aios.storage")

BLOCK = 4 << 20
"""Bytes that are cut together."""
DEPTH = 3
"""Blocks that are hashed and written at the same time."""
STEP = 1 << 20
"""Bytes that go into the database together, so that nobody's writes wait long behind them."""


class Part(NamedTuple):
    """A chunk, and its bytes."""

    piece: Piece
    data: chunker.Chunk


class Intake:
    """Contents of any length, as they come. Used on the event loop."""

    def __init__(self, database: Database, blobs: Blobs, workers: Workers, max_file: int) -> None:
        self._database = database
        self._blobs = blobs
        self._workers = workers
        self.max_file = max_file
        self._ending: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def staged(self, scope: Scope, source: AsyncIterable[bytes], quota: Quota) -> AsyncIterator[Staged]:
        """All of `source`, kept for as long as this is entered, and longer if it got a name by then. Raises TooLarge,
        Stopping when the disk is full, and what `source` raises."""
        arrival = _Arrival(self._database, self._blobs, self._workers, scope, quota)
        try:
            async for block in source:
                self.check_size(arrival.size + len(block))
                await arrival.feed(block)
            yield await arrival.finish()
        finally:
            ending = asyncio.get_running_loop().create_task(arrival.end())
            self._ending.add(ending)
            ending.add_done_callback(self._ended)
            await asyncio.wait([ending])  # which a second cancelling does not stop

    def check_size(self, size: int) -> None:
        """Raises TooLarge."""
        if size > self.max_file:
            raise TooLarge(
                f"a file may hold {self.max_file:,} bytes ([storage] max_file), and this is more",
                code="file_too_large",
            )

    def _ended(self, ending: asyncio.Task[None]) -> None:
        self._ending.discard(ending)
        if not ending.cancelled() and isinstance(ending.exception(), AiosError):
            log.warning("what was left of a write is not dropped before the next start: %s", ending.exception())


class _Arrival:
    """One content. `end` drops what has no name by then."""

    def __init__(self, database: Database, blobs: Blobs, workers: Workers, scope: Scope, quota: Quota) -> None:
        self.size = 0
        """Bytes that came."""
        self._database = database
        self._blobs = blobs
        self._workers = workers
        self._scope = scope
        self._quota = quota
        self._cutter = Cutter()
        self._under_way: deque[asyncio.Task[list[Part]]] = deque()
        self._id: int | None = None
        self._scope_id = database.read(lambda c: Tree(c, scope).id)
        self._chunks: list[int] = []
        self._hashes: list[bytes] = []
        self._num_bytes = 0
        """Of the chunks that the store knows."""
        self._loose: set[File] = set()
        """Files that the store does not know."""
        self._committing: asyncio.Future[_Named | None] | None = None

    async def feed(self, block: bytes) -> None:
        self.size += len(block)
        self._cutter.feed(block)
        if self._cutter.num_waiting >= BLOCK:
            await self._cut(is_last=False)

    async def finish(self) -> Staged:
        await self._cut(is_last=True)
        while self._under_way:
            await self._name_next()
        hash = contents.hash_of(self._hashes)
        id = self._id = await self._database.run(partial(_sealed, id=self._id, hash=hash))
        return Staged(id, self.size, hash)

    async def end(self) -> None:
        """Nothing is left of it when this returns, if it has no name by then."""
        kept = await asyncio.gather(*self._under_way, return_exceptions=True)
        self._loose.update(file for parts in kept if not isinstance(parts, BaseException) for file in _files(parts))
        if self._committing is not None:
            await asyncio.wait([self._committing])
        if self._id is not None and self._database.read(partial(contents.is_unfinished, id=self._id)):
            self._loose.update(await self._database.run(partial(contents.drop, id=self._id), frees=True))
        await self._discard(self._loose)

    async def _discard(self, files: Collection[File]) -> None:
        if files:
            await self._workers.run(partial(self._blobs.drop_all, list(files)))

    # ── cutting, hashing, writing ──

    async def _cut(self, *, is_last: bool) -> None:
        chunks = await self._workers.run(partial(self._cutter.cut, is_last=is_last))
        if chunks:
            self._under_way.append(asyncio.get_running_loop().create_task(self._keep(chunks)))
        while len(self._under_way) >= DEPTH:
            await self._name_next()

    async def _keep(self, chunks: list[chunker.Chunk]) -> list[Part]:
        """The chunks by their hash. Large ones that the scope has not yet are files now."""
        hashes = await self._workers.run(lambda: [_hash(data) for data in chunks])
        known = self._database.read(lambda c: contents.known(c, self._scope_id, hashes))
        return await self._workers.run(lambda: self._written(chunks, hashes, known))

    def _written(self, chunks: Iterable[chunker.Chunk], hashes: Iterable[bytes], known: set[bytes]) -> list[Part]:
        parts: list[Part] = []
        try:
            for data, hash in zip(chunks, hashes, strict=True):
                parts.append(Part(self._piece(data, hash, hash in known), data))
            self._blobs.sync(hash for hash, _ in _files(parts))
        except AiosError:
            self._blobs.drop_all(_files(parts))
            raise
        return parts

    def _piece(self, data: chunker.Chunk, hash: bytes, is_known: bool) -> Piece:
        size = sum(map(len, data))
        if size <= SMALL:
            return Piece(hash, size, b"".join(data), None)
        return Piece(hash, size, None, None if is_known else self._blobs.put(hash, data))

    # ── naming ──

    async def _name_next(self) -> None:
        # The wait may be cancelled, the work not: its files have to be found.
        parts = await asyncio.shield(self._under_way[0])
        self._under_way.popleft()
        self._loose.update(_files(parts))
        for step in _steps(parts):
            while not await self._commit([part.piece for part in step]):
                step = await self._again(step)

    async def _again(self, parts: list[Part]) -> list[Part]:
        """What the scope had when it was asked, it may have dropped since: with files for all."""
        bare = {part.piece.hash: part.data for part in parts if _is_bare(part.piece)}
        written = await self._workers.run(lambda: self._written(bare.values(), bare, set()))
        self._loose.update(_files(written))
        known = {part.piece.hash: part for part in written}
        return [known.get(part.piece.hash, part) for part in parts]

    async def _commit(self, pieces: list[Piece]) -> bool:
        """Name `pieces`, the next ones. False if one without bytes is gone from the scope: nothing was done then."""
        committed: asyncio.Future[_Named | None] = asyncio.get_running_loop().create_future()

        def then(named: _Named | None, error: AiosError | None) -> None:
            if error is not None and error.code == "storage_failed":
                self._loose.clear()  # after a failed fsync the next kernel may find them named
            if named is not None:
                self._take(named)
            committed.set_result(named) if error is None else committed.set_exception(error)

        self._committing = committed
        self._database.submit(partial(self._add, pieces), then)
        # The wait may be cancelled, the job not: `end` waits for it.
        named = await asyncio.shield(committed)
        if named is not None:
            await self._discard_surplus(pieces)
        return named is not None

    def _add(self, pieces: list[Piece], connection: apsw.Connection) -> _Named | None:
        bare = [piece.hash for piece in pieces if _is_bare(piece)]
        if len(contents.known(connection, self._scope_id, bare)) < len(set(bare)):
            return None
        size = self._num_bytes + sum(piece.size for piece in pieces)
        self._quota.check(connection, self._scope.payer, 0, size)
        scope = Tree(connection, self._scope).made()
        id = contents.begin(connection) if self._id is None else self._id
        chunks = [contents.add_chunk(connection, scope, piece) for piece in pieces]
        contents.grow(connection, id, self._chunks + [chunk.id for chunk in chunks], size)
        return _Named(id, scope, chunks)

    def _take(self, named: _Named) -> None:
        self._id, self._scope_id = named.id, named.scope
        self._chunks += [chunk.id for chunk in named.chunks]
        self._hashes += [chunk.hash for chunk in named.chunks]
        self._num_bytes += sum(chunk.size for chunk in named.chunks)
        self._loose -= {(chunk.hash, chunk.token) for chunk in named.chunks if chunk.token is not None}

    async def _discard_surplus(self, pieces: list[Piece]) -> None:
        """Files of chunks that somebody else had named first."""
        surplus = self._loose & {(piece.hash, piece.token) for piece in pieces if piece.token is not None}
        await self._discard(surplus)
        self._loose -= surplus


class _Named(NamedTuple):
    """What the store knows now: the content and its scope by their ids, and the chunks that were added."""

    id: int
    scope: int
    chunks: list[Chunk]


def _sealed(connection: apsw.Connection, id: int | None, hash: bytes) -> int:
    id = contents.begin(connection) if id is None else id
    contents.seal(connection, id, hash)
    return id


def _hash(pieces: chunker.Chunk) -> bytes:
    hash = sha256()
    for piece in pieces:
        hash.update(piece)
    return hash.digest()


def _is_bare(piece: Piece) -> bool:
    return piece.data is None and piece.token is None


def _files(parts: Iterable[Part]) -> list[File]:
    return [(part.piece.hash, part.piece.token) for part in parts if part.piece.token is not None]


def _steps(parts: list[Part]) -> Iterator[list[Part]]:
    """So many after one another as bring `STEP` bytes into the database."""
    step: list[Part] = []
    size = 0
    for part in parts:
        step.append(part)
        size += len(part.piece.data or b"")
        if size >= STEP:
            yield step
            step, size = [], 0
    if step:
        yield step

"""What the storage calls mean: an agent's files, their versions and their trash. Knows no queue, no wire.

Every statement is bounded by the owner and agent of the calling process, which no argument can name.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import apsw

from aios.abi.calls import Count, File, StoClear, StoCreate, StoList, StoRead, StoWrite, Version
from aios.abi.errors import BadRequest, Conflict, Stopping, TooLarge

from ..clock import Clock
from ..database import Database, Job, exactly_once, rows
from ..process import Place
from ..syscall import Syscall
from .base import clean_path, folders_of
from .files import SMALL, Blobs, Content, body_of, is_named
from .versions import (
    MINE,
    TRASH_STEP,
    add_version,
    clear,
    drop_leaving,
    find_version,
    kind_of,
    leave_trash,
    list_below,
    make_folders,
    places_with_leaving,
)

MAX_FILE = 16 << 20
"""Bytes of one file that a call may write."""
MAX_READ = 4 << 20
"""Bytes of an agent's files that are read for a tool which looks through all of them."""
MAX_READ_FILES = 10_000
NUM_PUTS = 4
"""Large contents that are written to the disk at the same time."""
T = TypeVar("T")


class StorageManager:
    """The handler of "storage" calls, and what other rooms ask of an agent's files."""

    def __init__(self, database: Database, home: Path, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._blobs = Blobs(home / "blobs", durable=database.is_durable)
        self._threads = ThreadPoolExecutor(NUM_PUTS, "aios_put")

    def check(self, call: Syscall) -> None:
        args = call.args
        clean_path(args.path, root=_may_be_root(args))
        if isinstance(args, StoWrite):
            _encode(args.content)

    async def run(self, call: Syscall) -> Any:
        """The result struct of the call. Writes are committed when this returns, and done once under a call's key."""
        place = Place(call.process.owner, call.process.agent)
        once = call.id if call.key is not None else None
        path = clean_path(call.args.path, root=_may_be_root(call.args))
        match call.args:
            case StoCreate(kind=kind):
                return await self._create(place, path, kind, once)
            case StoWrite(content=content):
                return await self._write(place, path, _encode(content), once)
            case StoRead(version=version):
                return await self._read(place, path, version)
            case StoList():
                return await self._database.read_async(lambda c: list_below(c, place, path))
            case StoClear(trash=True):
                return await asyncio.shield(self._empty_trash(place, path, once))
            case StoClear():
                now = self._clock.wall()
                job = exactly_once(once, lambda c: clear(c, place, path, now), Count)
                return await self._database.run(job, frees=True)
        raise BadRequest(f"storage has no call {call.spec.name}")

    # ── for other rooms ──

    async def paths(self, owner: str, agent: str, limit: int) -> list[str]:
        """Of the newest `limit` files, in order."""
        sql = f"SELECT path FROM files WHERE {MINE} AND kind = 'file' ORDER BY modified DESC, id DESC LIMIT ?"
        found = await self._database.read_async(lambda c: rows(c, sql, (owner, agent, limit)))
        return sorted(path for (path,) in found)

    async def over_texts(self, owner: str, agent: str, use: Callable[[Mapping[str, str], bool], T]) -> T:
        """What `use` makes, in a thread, of the files' newest versions by path, the newest file first, and of whether
        these are all: at most `MAX_READ_FILES` are read, and of these as many as fit into `MAX_READ` bytes."""
        place = Place(owner, agent)
        return await self._database.read_async(lambda c: use(*self._texts(c, place)))

    def _texts(self, connection: apsw.Connection, place: Place) -> tuple[dict[str, str], bool]:
        sql = (
            "SELECT path, hash, versions.size FROM files"
            " JOIN versions ON file = id AND versions.version = files.version"
            f" WHERE {MINE} AND kind = 'file' ORDER BY files.modified DESC, id DESC LIMIT ?"
        )
        found = rows(connection, sql, (*place, MAX_READ_FILES + 1))
        texts: dict[str, str] = {}
        left = MAX_READ
        for path, hash, size in found[:MAX_READ_FILES]:
            if size <= left:
                body = body_of(connection, hash)
                texts[path] = (self._blobs.get(hash) if body is None else body).decode()
                left -= size
        return texts, len(texts) == len(found)

    async def read_text(self, owner: str, agent: str, path: str) -> str:
        """The newest version of one file. Raises NotFound, BadRequest."""
        return (await self._read(Place(owner, agent), clean_path(path), None)).content

    # ── calls ──

    async def _create(self, place: Place, path: str, kind: str, once: str | None) -> Version:
        now = self._clock.wall()
        empty = self._blobs.put(b"")

        def job(connection: apsw.Connection) -> Version:
            there = kind_of(connection, place, path)
            if there is not None:
                raise Conflict(f"'{path}' is there already: it is a {there}", code="path_exists", param="path")
            make_folders(connection, place, folders_of(path), now)
            if kind == "folder":
                make_folders(connection, place, [path], now)
                return Version(path=path, version=1)
            return add_version(connection, place, path, empty, now)

        return await asyncio.shield(self._commit(empty, exactly_once(once, job, Version)))

    async def _write(self, place: Place, path: str, data: bytes, once: str | None) -> Version:
        content = await self._put(data)
        now = self._clock.wall()

        def job(connection: apsw.Connection) -> Version:
            if kind_of(connection, place, path) == "folder":
                raise Conflict(f"'{path}' is a folder; a file needs another name", code="path_exists", param="path")
            make_folders(connection, place, folders_of(path), now)
            return add_version(connection, place, path, content, now)

        return await asyncio.shield(self._commit(content, exactly_once(once, job, Version)))

    async def _put(self, data: bytes) -> Content:
        """Keep `data`, held until `_commit` is through with it."""
        if len(data) <= SMALL:
            return self._blobs.put(data)
        putting = self._threads.submit(self._blobs.put, data)
        try:
            return await asyncio.wrap_future(putting)
        except asyncio.CancelledError:
            putting.add_done_callback(self._abandon)
            raise

    def _abandon(self, putting: Future[Content]) -> None:
        """Whoever wanted to name this content has left, and no bound counts it: it goes from the disk."""
        if not putting.cancelled() and putting.exception() is None:
            content = putting.result()
            self._blobs.let_go(content)
            self._database.submit(partial(self._blobs.drop, content.hash), frees=True)

    async def _commit(self, content: Content, job: Job[Version]) -> Version:
        """Do `job`, which names `content`. Goes to its end though nobody waits any more, so that `content` is let go
        and what was refused leaves the disk."""
        has_name = False
        try:
            version, has_name = await self._database.run(lambda c: (job(c), is_named(c, content.hash)))
            return version
        except Stopping as error:
            has_name = error.code == "storage_failed"  # after a failed fsync the next kernel may find it named
            raise
        finally:
            was_spared = self._blobs.let_go(content)
            if content.body is None and (was_spared or not has_name):
                with contextlib.suppress(Stopping):
                    await self._database.read_async(partial(self._blobs.drop, content.hash))

    async def _empty_trash(self, place: Place, path: str, once: str | None) -> Count:
        """Said in one step, then carried out in small ones, so that nobody's writes wait long behind it."""
        job = exactly_once(once, lambda c: leave_trash(c, place, path), Count)
        count = await self._database.run(job, frees=True)
        await self._drop_leaving(place)
        return count

    async def finish_clearing(self) -> None:
        """Take out what was to go for good and is still there, since a kernel died over it or the disk failed."""
        for place in await self._database.read_async(places_with_leaving):
            await self._drop_leaving(place)

    async def _drop_leaving(self, place: Place) -> None:
        gone = TRASH_STEP
        while gone == TRASH_STEP:
            gone, unnamed = await self._database.run(lambda c: drop_leaving(c, place), frees=True)
            for hash in unnamed:
                await self._database.read_async(partial(self._blobs.drop, hash))

    async def _read(self, place: Place, path: str, version: int | None) -> File:
        hash, number = self._database.read(lambda c: find_version(c, place, path, version))
        body = self._database.read(lambda c: body_of(c, hash))
        if body is None:
            body = await asyncio.to_thread(self._blobs.get, hash)
        return File(path=path, content=body.decode(), version=number)


def _may_be_root(args: Any) -> bool:
    """Whether the call's path may name the top of the agent's files, or of its trash."""
    return isinstance(args, StoList) or (isinstance(args, StoClear) and args.trash)


def _encode(content: str) -> bytes:
    try:
        data = content.encode()
    except UnicodeEncodeError:
        raise BadRequest("the content is not valid Unicode (half a surrogate pair)", param="content") from None
    if len(data) > MAX_FILE:
        raise TooLarge(f"one write holds at most {MAX_FILE:,} bytes, this has {len(data):,}", param="content")
    return data

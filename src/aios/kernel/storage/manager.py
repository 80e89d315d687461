"""What the storage calls mean: an agent's files, their versions and their trash. Knows no queue, no wire.

Every statement is bounded by the owner and agent of the calling process, which no argument can name.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import apsw

from aios.abi.calls import (
    Count,
    File,
    Listing,
    Stat,
    StoClear,
    StoCreate,
    StoList,
    StoRead,
    StoWrite,
    Version,
)
from aios.abi.errors import BadRequest, Conflict, NotFound, Stopping, TooLarge

from ..clock import Clock
from ..database import Database, Job, add_kept, exactly_once, kept, row, rows, value
from ..syscall import Syscall
from .base import Place, clean_path, folders_of, nearest_name, parent_of
from .files import SMALL, Blobs, Content, add, body_of, remove

MAX_FILE = 16 << 20
"""Bytes of one file that a call may write."""
MAX_ENTRIES = 100_000
"""Files and folders of one agent, its trash among them."""
MAX_BYTES = 1 << 30
"""Bytes of all versions of one agent's files, its trash among them. A bound, so that no agent fills everybody's disk:
trash makes room when it is reached, the oldest first; then writes are refused."""
TRASH_STEP = 100
"""Entries that leave the trash together, so that no job holds up the writes of others for long."""
VERSION_BYTES = 100
"""What a version counts beside its content, so that empty ones are not free."""
MAX_SIBLINGS = 200
"""Names in a folder among which the nearest to a missing one is looked for."""
MAX_READ = 4 << 20
"""Bytes of an agent's files that are read for a tool which looks through all of them."""
MAX_READ_FILES = 10_000
T = TypeVar("T")
_MINE = "owner = ? AND agent = ? AND trashed IS NULL"
_STAT = "path, kind, size, version, modified"


class StorageManager:
    """The handler of "storage" calls, and what other rooms ask of an agent's files."""

    def __init__(self, database: Database, home: Path, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._blobs = Blobs(home / "blobs", durable=database.is_durable)

    def check(self, call: Syscall) -> None:
        args = call.args
        clean_path(args.path, root=isinstance(args, StoList))
        if isinstance(args, StoWrite):
            _encode(args.content)

    async def run(self, call: Syscall) -> Any:
        """The result struct of the call. Writes are committed when this returns, and done once under a call's key."""
        place = Place(call.process.owner, call.process.agent)
        once = call.id if call.key is not None else None
        path = clean_path(call.args.path, root=isinstance(call.args, StoList))
        match call.args:
            case StoCreate(kind=kind):
                return await self._create(place, path, kind, once)
            case StoWrite(content=content):
                return await self._write(place, path, _encode(content), once)
            case StoRead(version=version):
                return await self._read(place, path, version)
            case StoList():
                return await self._database.read_async(lambda c: _list(c, place, path))
            case StoClear():
                now = self._clock.wall()
                return await self._database.run(exactly_once(once, lambda c: _clear(c, place, path, now), Count))
        raise BadRequest(f"storage has no call {call.spec.name}")

    # ── for other rooms ──

    async def paths(self, owner: str, agent: str, limit: int) -> list[str]:
        """Of the newest `limit` files, in order."""
        sql = f"SELECT path FROM files WHERE {_MINE} AND kind = 'file' ORDER BY modified DESC, id DESC LIMIT ?"
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
            f" WHERE {_MINE} AND kind = 'file' ORDER BY files.modified DESC, id DESC LIMIT ?"
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
            there = _kind(connection, place, path)
            if there is not None:
                raise Conflict(f"'{path}' is there already: it is a {there}", code="path_exists", param="path")
            _make_folders(connection, place, folders_of(path), now)
            if kind == "folder":
                _make_folders(connection, place, [path], now)
                return Version(path=path, version=1)
            return _add_version(connection, place, path, empty, now)

        return await asyncio.shield(self._commit(place, empty, exactly_once(once, job, Version)))

    async def _write(self, place: Place, path: str, data: bytes, once: str | None) -> Version:
        large = len(data) > SMALL
        content = await asyncio.to_thread(self._blobs.put, data) if large else self._blobs.put(data)
        now = self._clock.wall()

        def job(connection: apsw.Connection) -> Version:
            if _kind(connection, place, path) == "folder":
                raise Conflict(f"'{path}' is a folder; a file needs another name", code="path_exists", param="path")
            _make_folders(connection, place, folders_of(path), now)
            return _add_version(connection, place, path, content, now)

        return await asyncio.shield(self._commit(place, content, exactly_once(once, job, Version)))

    async def _commit(self, place: Place, content: Content, job: Job[Version]) -> Version:
        """Do `job`, which names `content`; the agent's trash makes room for it, the oldest first and no more than it
        takes. Goes to its end though nobody waits any more, so that `content` is let go and trash leaves the disk."""
        try:
            while True:
                try:
                    return await self._database.run(job)
                except TooLarge:
                    if not await self._empty_trash(place):
                        raise
        finally:
            self._blobs.let_go(content)
            if content.body is None:  # what was refused may be a file by now
                with contextlib.suppress(Stopping):
                    await self._database.read_async(partial(self._blobs.drop, content.hash))

    async def _empty_trash(self, place: Place) -> int:
        """Forget some of the trash, the oldest first; how many entries."""
        ids, unnamed = await self._database.run(lambda c: _forget_oldest(c, place))
        for hash in unnamed:
            await self._database.read_async(partial(self._blobs.drop, hash))
        return len(ids)

    async def _read(self, place: Place, path: str, version: int | None) -> File:
        hash, number = self._database.read(lambda c: _find_version(c, place, path, version))
        body = self._database.read(lambda c: body_of(c, hash))
        if body is None:
            body = await asyncio.to_thread(self._blobs.get, hash)
        return File(path=path, content=body.decode(), version=number)


def _encode(content: str) -> bytes:
    try:
        data = content.encode()
    except UnicodeEncodeError:
        raise BadRequest("the content is not valid Unicode (half a surrogate pair)", param="content") from None
    if len(data) > MAX_FILE:
        raise TooLarge(f"one write holds at most {MAX_FILE:,} bytes, this has {len(data):,}", param="content")
    return data


# ── jobs on the store ──


def _kind(connection: apsw.Connection, place: Place, path: str) -> str | None:
    """ "file", "folder", or None when nothing is there."""
    if not path:
        return "folder"
    kind: str | None = value(connection, f"SELECT kind FROM files WHERE {_MINE} AND path = ?", (*place, path))
    return kind


def _make_folders(connection: apsw.Connection, place: Place, paths: list[str], now: float) -> None:
    for path in paths:
        there = _kind(connection, place, path)
        if there == "file":
            raise Conflict(f"'{path}' is a file, so nothing can be below it", code="not_a_folder", param="path")
        if there is None:
            _insert(connection, place, path, "folder", now)


def _insert(connection: apsw.Connection, place: Place, path: str, kind: str, now: float) -> int:
    _keep_one_more(connection, place, 1, 0)
    connection.execute(
        "INSERT INTO files(owner, agent, path, parent, kind, size, version, modified) VALUES (?, ?, ?, ?, ?, 0, ?, ?)",
        (*place, path, parent_of(path), kind, int(kind == "folder"), now),
    )
    return connection.last_insert_rowid()


def _keep_one_more(connection: apsw.Connection, place: Place, entries: int, size: int) -> None:
    """Count a new entry or version. Raises TooLarge."""
    there = kept(connection, "storage", *place)
    if there.entries + entries > MAX_ENTRIES:
        raise TooLarge(f"an agent may keep {MAX_ENTRIES:,} files and folders; clear some first", code="too_many_files")
    if there.bytes + size > MAX_BYTES:
        raise TooLarge(
            f"an agent may keep {MAX_BYTES:,} bytes of files, older versions among them, and this would be "
            f"{there.bytes + size:,}; clear some first: files that are not needed, or that were written often",
            code="storage_of_agent_full",
        )
    add_kept(connection, "storage", *place, entries, size)


def _forget_oldest(connection: apsw.Connection, place: Place) -> tuple[list[int], set[bytes]]:
    """Some entries of the trash, which are gone now; contents that are files which nothing names any more."""
    sql = "SELECT id FROM files WHERE owner = ? AND agent = ? AND trashed IS NOT NULL ORDER BY trashed LIMIT ?"
    ids = [id for (id,) in rows(connection, sql, (*place, TRASH_STEP))]
    return ids, set().union(*(_forget(connection, place, id) for id in ids))


def _forget(connection: apsw.Connection, place: Place, id: int) -> set[bytes]:
    """Take a file and its versions out of the store; contents that are now files without a name."""
    found = rows(connection, "DELETE FROM versions WHERE file = ? RETURNING hash, size", (id,))
    connection.execute("DELETE FROM files WHERE id = ?", (id,))
    add_kept(connection, "storage", *place, -1, -sum(size + VERSION_BYTES for _, size in found))
    return {hash for hash in {bytes(hash) for hash, _ in found} if remove(connection, hash)}


def _add_version(connection: apsw.Connection, place: Place, path: str, content: Content, now: float) -> Version:
    found = row(connection, f"SELECT id, version FROM files WHERE {_MINE} AND path = ?", (*place, path))
    id, newest = found or (_insert(connection, place, path, "file", now), 0)
    _keep_one_more(connection, place, 0, content.size + VERSION_BYTES)
    add(connection, content)
    connection.execute("INSERT INTO versions VALUES (?, ?, ?, ?, ?)", (id, newest + 1, content.hash, content.size, now))
    connection.execute(
        "UPDATE files SET version = ?, size = ?, modified = ? WHERE id = ?", (newest + 1, content.size, now, id)
    )
    return Version(path=path, version=newest + 1)


def _find_version(connection: apsw.Connection, place: Place, path: str, version: int | None) -> tuple[bytes, int]:
    """Hash and number of a version, the newest unless one is named."""
    found = row(connection, f"SELECT id, kind, version FROM files WHERE {_MINE} AND path = ?", (*place, path))
    if found is None:
        raise _no_path(connection, place, path)
    id, kind, newest = found
    if kind == "folder":
        raise BadRequest(f"'{path}' is a folder; sto_list shows what is in it", code="is_a_folder", param="path")
    hash = value(connection, "SELECT hash FROM versions WHERE file = ? AND version = ?", (id, version or newest))
    if hash is None:
        raise NotFound(
            f"'{path}' has no version {version}; the newest is {newest}", code="no_such_version", param="version"
        )
    return bytes(hash), version or newest


def _list(connection: apsw.Connection, place: Place, path: str) -> Listing:
    there = _kind(connection, place, path)
    if there is None:
        raise _no_path(connection, place, path)
    where = "path" if there == "file" else "parent"
    found = rows(connection, f"SELECT {_STAT} FROM files WHERE {_MINE} AND {where} = ? ORDER BY path", (*place, path))
    return Listing(
        entries=[Stat(path=p, kind=k, size=s, version=v, modified=m) for p, k, s, v, m in found],
    )


def _clear(connection: apsw.Connection, place: Place, path: str, now: float) -> Count:
    if _kind(connection, place, path) is None:
        raise _no_path(connection, place, path)
    # "0" is the character after "/": the range holds what is below the path, and is served by the index.
    connection.execute(
        f"UPDATE files SET trashed = ? WHERE {_MINE} AND (path = ? OR (path >= ? AND path < ?))",
        (now, *place, path, f"{path}/", f"{path}0"),
    )
    return Count(count=connection.changes())


def _no_path(connection: apsw.Connection, place: Place, path: str) -> NotFound:
    """With the nearest name in the last folder above `path` that is there."""
    above = ["", *folders_of(path)]
    folder = next(each for each in reversed(above) if _kind(connection, place, each) == "folder")
    start = f"{folder}/" if folder else ""
    sql = f"SELECT path FROM files WHERE {_MINE} AND parent = ? LIMIT ?"
    names = [known[len(start) :] for (known,) in rows(connection, sql, (*place, folder, MAX_SIBLINGS))]
    near = nearest_name(path[len(start) :].partition("/")[0], names)
    hint = f"did you mean '{start}{near}'?" if near else "sto_list shows what is there"
    return NotFound(f"this agent has no file or folder '{path[:200]}'; {hint}", code="no_such_path", param="path")

"""What the memory calls mean: entries of one agent in the store, found again by their words. Knows no queue, no wire.

Every statement is bounded by the owner and agent of the calling process, which no argument can name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import apsw
import msgspec

from aios.abi.calls import Count, Entries, Entry, MemClear, MemList, MemRead, MemSearch, MemWrite, Written
from aios.abi.errors import BadRequest, NotFound, TooLarge

from ..clock import Clock
from ..database import Database, add_kept, exactly_once, kept, row, rows, value
from ..process import Place
from ..syscall import Syscall
from .base import MAX_METADATA
from .search import ENTRY, entry_of, scope_of, search

MAX_ENTRIES = 100_000
"""Entries of one agent. A bound, so that no agent fills the disk of all; far above what one remembers."""
MAX_BYTES = 1 << 30
"""Bytes of content and metadata of one agent's entries."""
MAX_LINES = 1000
MAX_READ = 4 << 20
"""Bytes of an agent's entries that are read for a tool which looks through all of them."""
T = TypeVar("T")


class MemoryManager:
    """The handler of "memory" calls, and what other rooms ask of an agent's memory."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._last_id = 0

    def check(self, call: Syscall) -> None:
        args = call.args
        if isinstance(args, MemClear) and (args.id is None) != args.all:
            raise BadRequest("mem_clear takes either 'id' or 'all': true", code="bad_arguments", param="id")
        if isinstance(args, MemWrite):
            _check_entry(args)

    async def run(self, call: Syscall) -> Any:
        """The result struct of the call. Writes are committed when this returns, and done once under a call's key."""
        place = Place(call.process.owner, call.process.agent)
        once = call.id if call.key is not None else None
        match call.args:
            case MemWrite() as args:
                return await self._write(place, args, once)
            case MemRead(id=id):
                return self._database.read(lambda c: _read(c, place, id))
            case MemSearch(query=query, k=k):
                return await self._database.read_async(lambda c: Entries(entries=search(c, place, query, k)))
            case MemList(limit=limit, after=after):
                return await self._database.read_async(lambda c: Entries(entries=_list(c, place, limit, after)))
            case MemClear(id=one):
                return await self._database.run(exactly_once(once, lambda c: _clear(c, place, one), Count), frees=True)
        raise BadRequest(f"memory has no call {call.spec.name}")

    # ── for other rooms ──

    def remember(self, owner: str, agent: str, content: str) -> Awaitable[str]:
        """Keep a fact; its id, once it is committed. Raises TooLarge, BadRequest."""

        async def write() -> str:
            args = MemWrite(content=content, kind="fact")
            _check_entry(args)
            return (await self._write(Place(owner, agent), args, None)).id

        return write()

    async def over_lines(self, owner: str, agent: str, use: Callable[[Sequence[str], bool], T]) -> T:
        """What `use` makes, in a thread, of the entries' content, oldest first, and of whether these are all: the
        newest `MAX_LINES` are read, and of these no more than fit into `MAX_READ` bytes."""
        place = Place(owner, agent)
        return await self._database.read_async(lambda c: use(*_lines(c, place)))

    async def _write(self, place: Place, args: MemWrite, once: str | None) -> Written:
        created = self._clock.wall()
        metadata = msgspec.json.encode(args.metadata)

        size = len(args.content.encode()) + len(metadata)

        def job(connection: apsw.Connection) -> Written:
            _check_room(connection, place, size)
            add_kept(connection, "memory", *place, 1, size)
            id = self._next_id(connection, created)
            connection.execute(
                "INSERT INTO entries(id, owner, agent, kind, created, content, metadata) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (id, *place, args.kind, created, args.content, metadata),
            )
            connection.execute(
                "INSERT INTO entries_text(rowid, scope, content) VALUES (?, ?, ?)",
                (connection.last_insert_rowid(), scope_of(place), args.content),
            )
            return Written(id=id)

        return await self._database.run(exactly_once(once, job, Written))

    def _next_id(self, connection: apsw.Connection, wall: float) -> str:
        """Ids sort by time and are never given twice. Called on the writer's thread only."""
        if not self._last_id:
            newest = value(connection, "SELECT max(id) FROM entries")
            self._last_id = int(newest[1:], 16) if newest else 0
        self._last_id = max(self._last_id + 1, int(wall * 1e6))
        return f"m{self._last_id:015x}"


def _check_entry(args: MemWrite) -> None:
    try:
        args.content.encode()
        size = len(msgspec.json.encode(args.metadata))
    except UnicodeEncodeError:
        raise BadRequest("the entry holds text that is not valid Unicode (half a surrogate pair)") from None
    if len(args.content) > 1 << 20:
        raise TooLarge(f"an entry holds at most {1 << 20:,} characters, this one has {len(args.content):,}")
    if size > MAX_METADATA:
        raise TooLarge(f"metadata may be {MAX_METADATA:,} bytes of JSON, this is {size:,}", param="metadata")


def _check_room(connection: apsw.Connection, place: Place, size: int) -> None:
    there = kept(connection, "memory", *place)
    if there.entries >= MAX_ENTRIES or there.bytes + size > MAX_BYTES:
        raise TooLarge(
            f"an agent's memory holds {MAX_ENTRIES:,} entries and {MAX_BYTES:,} bytes at most, this one has "
            f"{there.entries:,} and {there.bytes:,}; forget some with mem_clear first",
            code="memory_full",
        )


def _read(connection: apsw.Connection, place: Place, id: str) -> Entry:
    found = row(connection, f"SELECT {ENTRY} FROM entries WHERE owner = ? AND agent = ? AND id = ?", (*place, id))
    if found is None:
        raise _no_entry(id)
    return entry_of(found)


def _list(connection: apsw.Connection, place: Place, limit: int, after: str | None) -> list[Entry]:
    sql = f"SELECT {ENTRY} FROM entries WHERE owner = ? AND agent = ? AND id < ? ORDER BY id DESC LIMIT ?"
    return [entry_of(found) for found in rows(connection, sql, (*place, after or "n", limit))]


def _lines(connection: apsw.Connection, place: Place) -> tuple[list[str], bool]:
    """Content of the newest entries, oldest first; whether it is that of all."""
    sql = "SELECT row, octet_length(content) FROM entries WHERE owner = ? AND agent = ? ORDER BY id DESC LIMIT ?"
    found = rows(connection, sql, (*place, MAX_LINES + 1))
    newest: list[str] = []
    left = MAX_READ
    for n, size in found[:MAX_LINES]:
        left -= size
        if left < 0:
            break
        newest.append(value(connection, "SELECT content FROM entries WHERE row = ?", (n,)))
    return newest[::-1], len(newest) == len(found)


def _clear(connection: apsw.Connection, place: Place, id: str | None) -> Count:
    where, bindings = "owner = ? AND agent = ?", tuple(place)
    if id is not None:
        where, bindings = where + " AND id = ?", (*place, id)
    size = value(
        connection, f"SELECT sum(octet_length(content) + octet_length(metadata)) FROM entries WHERE {where}", bindings
    )
    connection.execute(f"DELETE FROM entries_text WHERE rowid IN (SELECT row FROM entries WHERE {where})", bindings)
    connection.execute(f"DELETE FROM entries WHERE {where}", bindings)
    count = connection.changes()
    if id is not None and not count:
        raise _no_entry(id)
    add_kept(connection, "memory", *place, -count, -(size or 0))
    return Count(count=count)


def _no_entry(id: str) -> NotFound:
    return NotFound(
        f"this agent's memory holds no entry '{id[:80]}'; mem_list lists them", code="no_such_entry", param="id"
    )

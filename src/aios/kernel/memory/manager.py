"""What the memory calls mean. Knows no queue and no wire.

Whose memory a call is about, the calling process says and the spaces resolve; no argument can name anybody.

What is written is on disk before it is acknowledged; what is in memory are copies. They belong to the event loop: jobs
change the disk on the writer's thread, and what they came to is told to the copies as soon as it is committed, in the
order of the commits. What is read back is read on the loop, so that nothing can change before the copy is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import apsw

from aios.abi.calls import (
    BlockStat,
    Count,
    Entries,
    Entry,
    MemAlloc,
    MemClear,
    MemHistory,
    MemList,
    MemRead,
    MemSearch,
    MemStat,
    MemUpdate,
    MemWrite,
    Written,
)
from aios.abi.errors import AiosError, BadRequest, Denied, ModuleFault

from ..clock import Clock
from ..config import MemorySection
from ..database import Database, Job, exactly_once, row
from ..process import Place
from ..search import Hit, Search
from ..spaces import Spaces
from ..syscall import Syscall
from . import entries
from .arguments import check_entry, check_update, number_after
from .base import Swap
from .blocks import BlockRow, find_block
from .changes import Changed, Changes
from .derive import write_distilled
from .distil import DistilledWrite
from .entries import Facts, Record, entry_of, id_of, number_of
from .policies import POLICIES
from .resident import Resident
from .residents import Residents, Whose
from .search import among, entries_in

MAX_LINES = 1000
MAX_READ = 4 << 20
"""Bytes of an agent's entries that are read for a tool which looks through all of them."""
PORTION = 16
"""Entries that are brought back before others have their turn."""
S = TypeVar("S")
T = TypeVar("T")


class MemoryManager:
    """The handler of "memory" calls, and what other rooms ask of an agent's memory."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        swap: Swap,
        search: Search,
        spaces: Spaces | None = None,
        settings: MemorySection | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._swap = swap
        self._spaces = spaces or Spaces()
        self._settings = settings or MemorySection()
        self._index = search.index("memory", entries_in(swap))
        self._changes = Changes(swap, self._index, self._settings.disk)
        self._residents = Residents(self._settings, POLICIES[self._settings.policy])
        self._is_shrinking = False

    def check(self, call: Syscall) -> None:
        match call.args:
            case MemClear(id=id, all=is_all) if (id is None) != is_all:
                raise BadRequest("mem_clear takes either 'id' or 'all': true", code="bad_arguments", param="id")
            case MemWrite(content=content, metadata=metadata, source=source):
                check_entry(content, metadata, source)
            case MemUpdate() as args:
                check_update(args)
            case MemAlloc(limit=limit) if limit is not None:
                self._check_limit(limit, call.principal is not None and call.principal.is_admin)

    async def run(self, call: Syscall) -> Any:
        """The result struct of the call. Writes are committed when this returns, and done once under a call's key."""
        whose = self._spaces.block(Place(call.process.owner, call.process.agent), call.args.block)
        once = call.id if call.key is not None else None
        match call.args:
            case MemRead(id=id):
                return self._read(whose, number_of(id))
            case MemWrite() as args:
                return await self._write(whose, args, once)
            case MemUpdate() as args:
                return await self._update(whose, args, once)
            case MemSearch() as args:
                return await self._search(whose, args)
            case MemList() as args:
                return await self._list(whose, args)
            case MemHistory(id=id):
                return await self._history(whose, number_of(id))
            case MemClear(all=True):
                return await self._empty(whose, once)
            case MemClear(id=str() as id):
                return await self._forget(whose, number_of(id), once)
            case MemAlloc() as args:
                return await self._alloc(whose, args, once)
            case MemStat():
                return self._stat(whose, self._database.read(lambda c: find_block(c, *whose)))
        raise BadRequest(f"memory has no call {call.spec.name}")

    # ── for other rooms ──

    def remember(self, owner: str, agent: str, content: str) -> Awaitable[str]:
        """Keep a fact; its id, once it is committed. Raises TooLarge, BadRequest."""

        async def write() -> str:
            args = MemWrite(content=content, kind="fact")
            check_entry(content, {}, None)
            return (await self._write((Place(owner, agent), ""), args, None)).id

        return write()

    def keep(
        self, place: Place, written: Sequence[MemWrite], once: str | None, then: Callable[[AiosError | None], None]
    ) -> None:
        """Write all or none of `written` to the agent's main block, under `once` not twice; `then` hears of it."""
        now = self._clock.wall()

        def job(connection: apsw.Connection) -> tuple[Count, list[Changed]]:
            facts = [Facts(each.kind, each.metadata, now, each.source, each.importance) for each in written]
            contents = [each.content.encode() for each in written]
            done = [self._changes.write(connection, place, "", *each) for each in zip(contents, facts, strict=True)]
            return Count(count=len(done)), done

        effect, done = _effect(job)

        def tell(_: Count | None, error: AiosError | None) -> None:
            if error is None:
                self._changed((place, ""), done)
            then(error)

        self._database.submit(exactly_once(once, effect, Count), tell)

    async def over_lines(self, owner: str, agent: str, use: Callable[[Sequence[str], bool], T]) -> T:
        """What `use` makes, in a thread, of the entries' content, oldest first, and of whether these are all: the
        newest `MAX_LINES` are read, and of these no more than fit into `MAX_READ` bytes."""
        place = Place(owner, agent)
        return await self._database.read_async(lambda c: use(*self._lines(c, place)), place)

    def _lines(self, connection: apsw.Connection, place: Place) -> tuple[list[str], bool]:
        block = find_block(connection, place, "")
        if block is None:
            return [], True
        found, is_cut = entries.newest(connection, self._swap, block.id, limit=MAX_LINES + 1, most=MAX_READ)
        lines = [record.content.decode() for record in found[:MAX_LINES] if record.fault is None]
        return lines[::-1], len(found) <= MAX_LINES and not is_cut

    async def finish_clearing(self) -> None:
        """Take from the disk what was forgotten and is still there, since a kernel died over it or the disk failed."""
        while await self._database.run(self._changes.purge, frees=True):
            pass

    # ── calls ──

    def _read(self, whose: Whose, number: int) -> Entry:
        record = self._residents.get(whose, number, self._clock.now()) or self._bring_back(whose, number)
        if record is None:
            raise entries.no_entry(id_of(number))
        if record.fault is not None:
            raise ModuleFault(f"entry {id_of(number)} cannot be read: {record.fault}", code="content_damaged")
        return entry_of(record)

    async def _write(self, whose: Whose, args: MemWrite, once: str | None) -> Written:
        now = self._clock.wall()
        content = args.content.encode()
        facts = Facts(args.kind, args.metadata, now, args.source, args.importance)

        def job(connection: apsw.Connection) -> tuple[Written, list[Changed]]:
            if isinstance(args, DistilledWrite):
                return write_distilled(self._changes, connection, *whose, args, now)
            done = self._changes.write(connection, *whose, content, facts)
            return Written(id=id_of(done.number)), [done]

        return await self._change(whose, job, once)

    async def _update(self, whose: Whose, args: MemUpdate, once: str | None) -> Written:
        number = number_of(args.id)
        content = None if args.content is None else args.content.encode()
        given = {name: getattr(args, name) for name in ("kind", "metadata", "importance")}
        changes = {name: each for name, each in given.items() if each is not None} | {"modified": self._clock.wall()}

        def job(connection: apsw.Connection) -> tuple[Written, list[Changed]]:
            done = self._changes.update(connection, *whose, number, content, changes)
            return Written(id=args.id, revision=done.facts.revision), [done]

        return await self._change(whose, job, once)

    async def _change(self, whose: Whose, job: Job[tuple[Written, list[Changed]]], once: str | None) -> Written:
        effect, done = _effect(job)
        return await self._database.run(exactly_once(once, effect, Written), after=lambda _: self._changed(whose, done))

    async def _search(self, whose: Whose, args: MemSearch) -> Entries:
        asked = await self._index.ask(
            args.query,
            args.k,
            among(args),
            mode=args.mode or "hybrid",
            recency=args.recency,
            importance=args.importance,
        )

        def job(connection: apsw.Connection) -> list[Hit]:
            block = find_block(connection, *whose)
            return self._index.search(connection, [block.id], asked) if block is not None else []

        found, is_cut = await self._found(whose, await self._database.read_async(job, whose[0]))
        return Entries(entries=found, is_cut=is_cut, note=asked.why)

    async def _found(self, whose: Whose, hits: Sequence[Hit]) -> tuple[list[Entry], bool]:
        """The entries that were found, as they are now, which is a use of each; whether they end for their length."""
        found: list[Entry] = []
        left = entries.MAX_ANSWER
        for n, (number, score) in enumerate(hits):
            if n % PORTION == PORTION - 1:
                await asyncio.sleep(0)
            record = self._residents.get(whose, number, self._clock.now()) or self._bring_back(whose, number)
            if record is None:  # forgotten meanwhile
                continue
            left -= record.size
            if left < 0 and found:
                return found, True
            found.append(entry_of(record, score))
        return found, False

    async def _list(self, whose: Whose, args: MemList) -> Entries:
        before = None if args.after is None else number_after(args.after)

        def job(connection: apsw.Connection) -> Entries:
            block = find_block(connection, *whose)
            if block is None:
                return Entries(entries=[])
            found, is_cut = entries.newest(
                connection, self._swap, block.id, before=before, limit=args.limit, kinds=args.kinds
            )
            return Entries(entries=[entry_of(record) for record in found], is_cut=is_cut)

        return await self._database.read_async(job, whose[0])

    async def _history(self, whose: Whose, number: int) -> Entries:
        def job(connection: apsw.Connection) -> Entries:
            block = find_block(connection, *whose)
            if block is None:
                raise entries.no_entry(id_of(number))
            found, is_cut = entries.history(connection, self._swap, block.id, number)
            return Entries(entries=[entry_of(record) for record in found], is_cut=is_cut)

        return await self._database.read_async(job, whose[0])

    async def _forget(self, whose: Whose, number: int, once: str | None) -> Count:
        def job(connection: apsw.Connection) -> Count:
            self._changes.forget(connection, *whose, number)
            return Count(count=1)

        return await self._database.run(
            exactly_once(once, job, Count), frees=True, after=lambda _: self._residents.forget(whose, number)
        )

    async def _empty(self, whose: Whose, once: str | None) -> Count:
        """Said in one step, then carried out in small ones, so that nobody's writes wait long behind it."""
        job = exactly_once(once, lambda c: Count(count=self._changes.empty(c, *whose)), Count)
        count = await self._database.run(job, frees=True, after=lambda _: self._residents.drop(whose))
        self._shrink()
        await self.finish_clearing()
        return count

    # ── what is in memory ──

    def _bring_back(self, whose: Whose, number: int) -> Record | None:
        """An entry that is on disk only; it is in memory afterwards, unless it cannot be read."""

        def job(connection: apsw.Connection) -> tuple[BlockRow, Record] | None:
            block = find_block(connection, *whose)
            record = entries.read(connection, self._swap, block.id, number) if block is not None else None
            return (block, record) if block is not None and record is not None else None

        found = self._database.read(job)
        if found is None:
            return None
        block, record = found
        if record.fault is None:
            self._residents.put(whose, block, record, self._clock.now(), is_miss=True)
            self._shrink()
        return record

    def _changed(self, whose: Whose, done: Sequence[Changed]) -> None:
        """These are committed now."""
        for block, number, content, facts in done:
            if content is None:  # it comes back as it is now, when somebody asks for it
                self._residents.forget(whose, number)
            else:
                record = Record(number, content, entries.encode(facts))
                self._residents.put(whose, block, record, self._clock.now())
        self._shrink()

    def _shrink(self) -> None:
        """Let go what must go, a little at a time and others' turns in between."""
        if self._residents.must_shrink and not self._is_shrinking:
            self._is_shrinking = True
            asyncio.get_running_loop().call_soon(self._shrink_on)

    def _shrink_on(self) -> None:
        self._is_shrinking = False
        self._residents.shrink(self._clock.now())
        self._shrink()

    def close(self) -> None:
        self._residents.close()

    def statistics(self) -> dict[str, Any]:
        """`raw` and `swapped` are bytes of contents: of all entries, and of those that are on disk only."""
        sql = "SELECT coalesce(sum(num_entries), 0), coalesce(sum(raw), 0) FROM blocks WHERE owner IS NOT NULL"
        num_entries, raw = self._database.read(lambda c: row(c, sql)) or (0, 0)
        found = self._residents.statistics()
        return found | {"entries": num_entries, "raw": raw, "swapped": max(0, raw - found["resident_raw"])}

    def check_integrity(self) -> None:
        """Raises AssertionError when what is in memory is not sound."""
        self._residents.check_integrity()

    # ── allotments ──

    def _check_limit(self, limit: int, is_admin: bool) -> None:
        most = self._settings.total if is_admin else self._settings.limit
        if limit > most:
            whose = "all agents' together" if is_admin else "any block's that an admin has not raised"
            raise Denied(
                f"a block may take at most {most:,} bytes of memory ({whose}: [memory] in the configuration), and "
                f"{limit:,} are asked for",
                code="limit_too_high",
                param="limit",
            )

    async def _alloc(self, whose: Whose, args: MemAlloc, once: str | None) -> BlockStat:
        def job(connection: apsw.Connection) -> tuple[BlockRow, list[BlockRow]]:
            block = self._changes.allot(connection, *whose, args.limit, args.watermark, args.k)
            return block, [block]

        effect, done = _effect(job)

        def after(_: BlockRow) -> None:
            for block in done:
                self._residents.allot(whose, block)

        block = await self._database.run(exactly_once(once, effect, BlockRow), after=after)
        self._shrink()
        return self._stat(whose, block)

    def _stat(self, whose: Whose, row: BlockRow | None) -> BlockStat:
        row = row or BlockRow(whose[1], 0, None, None, None, 0, 0, 0, 0)
        allotted = Resident(row, self._settings, POLICIES[self._settings.policy])
        found = self._residents.find(whose)
        copies = allotted if found is None else found
        return BlockStat(
            block=row.name,
            limit=int(allotted.bound),
            watermark=allotted.watermark,
            k=row.k or self._settings.k,
            entries=row.num_entries,
            raw=row.raw,
            disk=row.disk,
            resident_entries=len(copies),
            resident_raw=copies.raw,
            resident=copies.size,
            swapped_entries=max(0, row.num_entries - len(copies)),
            swapped=max(0, row.raw - copies.raw),
            hits=copies.hits,
            misses=copies.misses,
            evictions=copies.evictions,
            unembedded=self._database.read(lambda c: self._index.num_unembedded(c, row.id)) if row.id else 0,
        )


def _effect(job: Job[tuple[T, list[S]]]) -> tuple[Job[T], list[S]]:
    """`job` with its first result, and where the second is once it is committed: nothing, when it was not run because
    it had been carried out before."""
    done: list[S] = []

    def effect(connection: apsw.Connection) -> T:
        told, done[:] = job(connection)
        return told

    return effect, done

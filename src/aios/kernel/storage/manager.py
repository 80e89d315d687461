"""What the storage calls mean: an agent's files, their versions and their trash. Knows no queue, no wire.

Every statement is bounded by the scope that `Spaces` says the path is in: the calling agent's own, which no argument
can name, or a mount's, which the access manager has looked at.
"""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import apsw

from aios.abi.calls import (
    Count,
    Diff,
    Effect,
    File,
    History,
    Listing,
    MountInfo,
    MountList,
    Passages,
    StoClear,
    StoCreate,
    StoDiff,
    StoHistory,
    StoList,
    StoMount,
    StoMounts,
    StoMove,
    StorageStat,
    StoRead,
    StoRestore,
    StoRetrieve,
    StoRollback,
    StoStat,
    StoUnmount,
    StoWrite,
    Version,
)
from aios.abi.errors import BadRequest, TooLarge

from ..clock import Clock
from ..config import StorageSection
from ..database import Database, Job, exactly_once
from ..process import Place
from ..search import Search
from ..spaces import Scope, Spaces
from ..syscall import Syscall
from . import contents, moves, trash, versions
from .ask import Ask
from .base import clean_path
from .blobs import Blobs
from .compare import MAX_COMPARED, Side, compared
from .contents import SMALL, Body, Content
from .intake import Intake
from .knowledge import Knowledge, Part, source
from .mount import Room
from .mount_calls import MountCalls, other_mount
from .mounts import Mounts, with_mounts
from .outlet import Outlet
from .quota import Quota
from .stat import stat
from .texts import Texts
from .tree import Tree
from .versions import Staged, Stamp

MAX_CALL = 16 << 20
"""Bytes that one call carries, in or out; longer files go through the gateway as streams, or are read in parts."""
SLICE = 4 << 20
"""Bytes of a call's content that are cut together."""
NUM_THREADS = 4
"""Pieces of contents that are hashed, written and read at the same time."""
UNSIGNED = Stamp(0.0)
"""Of those who only look."""
T = TypeVar("T")
May = Callable[[Place, str, str], bool]
"""Whether an agent may make the call of that name in the shared mount of that name."""


class StorageManager:
    """The handler of "storage" calls, and what other rooms ask of an agent's files."""

    def __init__(
        self,
        database: Database,
        home: Path,
        clock: Clock,
        spaces: Spaces | None = None,
        settings: StorageSection | None = None,
        search: Search | None = None,
        may: May = lambda agent, call, mount: True,
    ) -> None:
        """Without `search` files are found by one that makes no vectors."""
        settings = settings or StorageSection()
        self._database = database
        self._clock = clock
        self._spaces = spaces or Spaces()
        self._quota = Quota(int(settings.limit))
        self._threads = ThreadPoolExecutor(NUM_THREADS, "aios_files")
        self._blobs = Blobs(home / "blobs", durable=database.is_durable)
        self._intake = Intake(database, self._blobs, self._threads, int(settings.max_file))
        self._outlet = Outlet(database, self._blobs, self._threads)
        self._texts = Texts(database, self._blobs)
        self._may = may
        index = (search or Search(database, clock)).index("passages", source())
        self.knowledge = Knowledge(database, self._outlet, index, clock)
        room = Room(database, self._intake, self._outlet, self._quota, clock, self.knowledge.heard, None)
        self.mounts = Mounts(room, home, self._spaces, lambda agent, mount: may(agent, "sto_list", mount))
        self._mounted = MountCalls(self.mounts, self._spaces)
        self._do: dict[type[Any], Callable[[Any, Ask], Awaitable[Any]]] = {
            StoCreate: self._create, StoWrite: self._write, StoRead: self._read, StoList: self._list,
            StoMove: self._move, StoClear: self._clear, StoRestore: self._restore, StoHistory: self._history,
            StoDiff: self._diff, StoRollback: self._roll_back, StoStat: self._stat, StoRetrieve: self._retrieve,
            StoMount: self._mount, StoUnmount: self._unmount, StoMounts: self._list_mounts,
        }  # fmt: skip

    def check(self, call: Syscall) -> None:
        args = call.args
        _path_of(args)
        if isinstance(args, StoMove):
            clean_path(args.to)
        if isinstance(args, StoWrite):
            _decoded(args)

    async def run(self, call: Syscall) -> Any:
        """The result struct of the call. Writes are committed when this returns, and done once under a call's key."""
        args, process = call.args, call.process
        stamp = Stamp(self._clock.wall(), process.agent, f"{call.spec.name} {call.id}")
        once = call.id if call.key is not None else None
        ask = self._ask(Place(process.owner, process.agent), _path_of(args), stamp, once)
        ask = ask._replace(is_admin=call.principal is not None and call.principal.is_admin)
        do = self._do[type(args)]
        result = await (self._mounted.run(args, ask, do) if ask.scope.mount else do(args, ask))
        if call.spec.effect is not Effect.READ:
            self.knowledge.heard(ask.scope)
        return result

    def _ask(self, caller: Place, path: str, stamp: Stamp = UNSIGNED, once: str | None = None) -> Ask:
        scope, inside = self._spaces.scope(caller, path)
        return Ask(caller, scope, inside, stamp, once)

    def close(self) -> None:
        """After `knowledge` was closed."""
        self._threads.shutdown()

    # ── for other rooms ──

    async def paths(self, owner: str, agent: str, limit: int) -> list[str]:
        """Of the newest `limit` files, in order."""
        return await self._texts.paths(Scope(owner, agent), limit)

    async def over_texts(self, owner: str, agent: str, use: Callable[[Mapping[str, str], bool], T]) -> T:
        """What `use` makes, in a thread, of the files' newest versions by path, the newest file first, and of whether
        these are all."""
        return await self._texts.over(Scope(owner, agent), use)

    async def read_text(self, owner: str, agent: str, path: str) -> str:
        """The newest version of one file. Raises NotFound, BadRequest."""
        return (await self._read(StoRead(path=path), self._ask(Place(owner, agent), clean_path(path)))).content

    async def keep_house(self) -> None:
        """Take out what was to go and is still there, since a kernel died over it or the disk failed."""
        await self._drop_leaving()

    def open(self) -> None:
        """Before the first call: it is the first job."""
        self._database.submit(contents.give_up_unfinished, frees=True)
        self.knowledge.open()

    # ── calls that write ──

    async def _create(self, args: StoCreate, ask: Ask) -> Version:
        empty = contents.body(b"")

        def job(connection: apsw.Connection) -> Version:
            tree = self._tree(connection, ask)
            if (there := tree.find(ask.path)) is not None:
                raise tree.taken(ask.path, there)
            if args.kind == "file":
                return versions.write(tree, ask.path, empty, ask.stamp)
            tree.make_folder(ask.path, ask.stamp.at)
            return Version(path=tree.scope.shown(ask.path), version=1)

        return await self._run(ask, job, Version)

    async def _write(self, args: StoWrite, ask: Ask) -> Version:
        data = await self._bytes_of(args)
        if ask.scope.mount:
            return await self._mounted.write(ask, data, args.base)
        if len(data) <= SMALL:
            return await self._name(contents.body(data), ask, args.base)
        async with self._intake.staged(ask.scope, _slices(data), self._quota) as staged:
            return await self._name(staged, ask, args.base)

    async def _name(self, content: Body | Staged, ask: Ask, base: int | None) -> Version:
        return await self._run(
            ask, lambda c: versions.write(self._tree(c, ask), ask.path, content, ask.stamp, base), Version
        )

    async def _bytes_of(self, args: StoWrite) -> bytes:
        if len(args.content) <= SMALL:
            return _decoded(args)
        return await asyncio.get_running_loop().run_in_executor(self._threads, _decoded, args)

    async def _roll_back(self, args: StoRollback, ask: Ask) -> Version:
        return await self._run(
            ask, lambda c: versions.roll_back(self._tree(c, ask), ask.path, args.version, ask.stamp), Version
        )

    async def _move(self, args: StoMove, ask: Ask) -> Version:
        scope, to = self._spaces.scope(ask.caller, clean_path(args.to))
        if scope != ask.scope:
            raise other_mount(args)
        await self._database.read_async(lambda c: moves.check_extent(self._tree(c, ask), ask.path, to))
        return await self._run(ask, lambda c: moves.move(self._tree(c, ask), ask.path, to, ask.stamp.at), Version)

    async def _restore(self, args: StoRestore, ask: Ask) -> Version:
        def job(connection: apsw.Connection) -> Version:
            tree = self._tree(connection, ask)
            node = trash.restore(tree, ask.path, ask.stamp.at)
            return Version(path=tree.scope.shown(ask.path), version=node.version)

        return await self._run(ask, job, Version)

    async def _clear(self, args: StoClear, ask: Ask) -> Count:
        if args.trash:
            return await asyncio.shield(self._empty_trash(ask))
        count = await self._count(ask, lambda tree: [node.id] if (node := tree.find(ask.path)) is not None else [])

        def job(connection: apsw.Connection) -> Count:
            trash.clear(self._tree(connection, ask), ask.path, ask.stamp.at)
            return count

        return await self._run(ask, job, Count, frees=True)

    async def _empty_trash(self, ask: Ask) -> Count:
        """Said in one step, then carried out in small ones, so that nobody's writes wait long behind it."""
        count = await self._count(ask, lambda tree: trash.to_leave(tree, ask.path))

        def job(connection: apsw.Connection) -> Count:
            trash.leave(self._tree(connection, ask), ask.path)
            return count

        count = await self._run(ask, job, Count, frees=True)
        await self._drop_leaving()
        return count

    async def _count(self, ask: Ask, find: Callable[[Tree], list[int]]) -> Count:
        """Entries from those on downwards: counted before they go, since that takes long for a million."""

        def job(connection: apsw.Connection) -> Count:
            tree = self._tree(connection, ask)
            return Count(count=sum(map(tree.num_below, find(tree))))

        return await self._database.read_async(job)

    async def _drop_leaving(self) -> None:
        while await self._database.run(trash.drop_leaving, frees=True):
            pass
        await self.knowledge.sweep()
        await self._outlet.sweep()

    async def _run(self, ask: Ask, job: Job[T], kind: type[T], *, frees: bool = False) -> T:
        return await self._database.run(exactly_once(ask.once, job, kind), frees=frees)

    def _tree(self, connection: apsw.Connection, ask: Ask) -> Tree:
        return Tree(connection, ask.scope, self._quota)

    # ── calls that read ──

    async def _read(self, args: StoRead, ask: Ask) -> File:
        async with self._opened(ask, args.version) as file:
            length = max(0, file.size - args.offset) if args.length is None else args.length
            if length > MAX_CALL:
                raise TooLarge(
                    f"'{args.path[:200]}' holds {file.size:,} bytes, and a call reads {MAX_CALL:,} at once: read it in "
                    "parts (offset, length), or with GET /aios/v1/files/PATH",
                    code="read_too_large",
                    param="length",
                )
            data = await file.part(args.offset, length)
        shown = ask.scope.shown(ask.path)
        if args.encoding == "base64":
            text = b64encode(data).decode()
        else:
            text = _text_of(data, shown)
        return File(path=shown, content=text, version=file.version, encoding=args.encoding, size=file.size)

    @asynccontextmanager
    async def _opened(self, ask: Ask, version: int | None) -> AsyncIterator[Opened]:
        """A version, which stays until it was read. In a mount, without a number, the file as it is."""
        if ask.scope.mount and version is None:
            async with self._mounted.reading(ask) as reading:
                yield reading
            return
        kept = self._database.read(lambda c: versions.find(self._tree(c, ask), ask.path, version))
        with self._outlet.held(kept.content) as content:
            yield Kept(self._outlet, content, kept.version)

    async def _list(self, args: StoList, ask: Ask) -> Listing:
        after = args.after[len(ask.scope.mount) + 1 :] if args.after and ask.scope.mount else args.after or ""

        def job(connection: apsw.Connection) -> Listing:
            tree = self._tree(connection, ask)
            if args.trash:
                return trash.listed(tree, ask.path, args.limit, after)
            return tree.listed(ask.path, args.limit, after)

        listing = await self._database.read_async(job)
        if args.trash or args.path or ask.scope.mount:
            return listing
        return with_mounts(listing, self.mounts.stats(ask.caller, is_admin=ask.is_admin), after, args.limit)

    async def _history(self, args: StoHistory, ask: Ask) -> History:
        return await self._database.read_async(
            lambda c: versions.history(self._tree(c, ask), ask.path, args.limit, args.before)
        )

    async def _diff(self, args: StoDiff, ask: Ask) -> Diff:
        to = self._database.read(lambda c: versions.find(self._tree(c, ask), ask.path, args.to)).version
        since = to - 1 if args.since is None else args.since
        old, new = await self._side(ask, since), await self._side(ask, to)
        text = await asyncio.get_running_loop().run_in_executor(self._threads, compared, old, new)
        return Diff(path=ask.scope.shown(ask.path), since=since, to=to, text=text)

    async def _side(self, ask: Ask, version: int) -> Side:
        """A version to be compared; 0 is what was there before the first one."""
        shown = ask.scope.shown(ask.path)
        if not version:
            return Side(shown, 0, 0, b"")
        async with self._opened(ask, version) as file:
            data = await file.part(0, file.size) if file.size <= MAX_COMPARED else None
        return Side(shown, version, file.size, data)

    async def _retrieve(self, args: StoRetrieve, ask: Ask) -> Passages:
        return await self.knowledge.retrieve(self._parts(ask), args)

    def _parts(self, ask: Ask) -> list[Part]:
        """What the call is about: all that the agent may look into, unless it names a path."""
        if ask.path or ask.scope.mount:
            return [Part(ask.scope, ask.path)]
        scopes = self._spaces.readable(
            ask.caller, lambda mount: ask.is_admin or self._may(ask.caller, "sto_retrieve", mount)
        )
        mounts = frozenset(scope.mount for scope in scopes[1:])
        return [Part(scopes[0], hidden=mounts), *map(Part, scopes[1:])]

    async def _stat(self, args: StoStat, ask: Ask) -> StorageStat:
        return await self._database.read_async(lambda c: stat(c, ask.scope, self._quota))

    # ── mounts ──

    async def _mount(self, args: StoMount, ask: Ask) -> MountInfo:
        return await self.mounts.mount(ask.caller, args)

    async def _unmount(self, args: StoUnmount, ask: Ask) -> Count:
        return await self.mounts.unmount(ask.caller, args)

    async def _list_mounts(self, args: StoMounts, ask: Ask) -> MountList:
        return MountList(mounts=self.mounts.infos(ask.caller, is_admin=ask.is_admin))


class Opened(Protocol):
    """A file that can be read."""

    size: int
    version: int

    async def part(self, offset: int, length: int) -> bytes: ...


class Kept:
    """A version, whose content is held meanwhile."""

    def __init__(self, outlet: Outlet, content: Content, version: int) -> None:
        self.size = content.size
        self.version = version
        self._outlet = outlet
        self._content = content

    async def part(self, offset: int, length: int) -> bytes:
        return await self._outlet.part(self._content, offset, length)


def _path_of(args: Any) -> str:
    """What the call is about, "" being the top of the agent's files, or of its trash. Raises BadRequest."""
    where = args.where if isinstance(args, StoRetrieve) else None
    path = getattr(args, "path", "") if where is None else where.path or ""
    may_be_root = not hasattr(args, "path") or isinstance(args, StoList) or (isinstance(args, StoClear) and args.trash)
    return clean_path(path, root=may_be_root)


async def _slices(data: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(data), SLICE):
        yield data[begin : begin + SLICE]


def _decoded(args: StoWrite) -> bytes:
    """What is to be written. Raises BadRequest, TooLarge."""
    try:
        if args.encoding == "base64":
            data = binascii.a2b_base64(args.content, strict_mode=True)
        else:
            data = args.content.encode()
    except UnicodeEncodeError:
        raise BadRequest("the content is not valid Unicode (half a surrogate pair)", param="content") from None
    except ValueError as error:
        raise BadRequest(f"the content is no base64: {error}", param="content") from None
    if len(data) > MAX_CALL:
        raise TooLarge(
            f"one write holds at most {MAX_CALL:,} bytes, this has {len(data):,}: send it with PUT "
            "/aios/v1/files/PATH, which takes any length",
            param="content",
        )
    return data


def _text_of(data: bytes, shown: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"'{shown[:200]}' is no UTF-8 at byte {error.start} of what was asked for: read it with encoding "
            "'base64', or from where a character begins",
            code="not_text",
            param="encoding",
        ) from None

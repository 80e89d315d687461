"""What the storage calls mean: an agent's files, their versions and their trash. Knows no queue, no wire.

Every statement is bounded by the scope that `Spaces` says the path is in: the calling agent's own, which no argument
can name, or a mount's, which the access manager has looked at.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from aios.abi.calls import (
    Count,
    Effect,
    Listing,
    MountInfo,
    MountList,
    Passages,
    StoClear,
    StoList,
    StoMount,
    StoMounts,
    StoMove,
    StoRead,
    StoRetrieve,
    StoShare,
    StoUnmount,
    StoWrite,
)
from aios.abi.errors import BadRequest

from ..clock import Clock
from ..config import StorageSection
from ..database import Database
from ..process import Place
from ..search import Search
from ..spaces import Scope, Spaces
from ..syscall import Syscall
from . import links, uploads
from .ask import Ask
from .base import clean_path
from .knowledge import Knowledge, Part, source
from .mounts.calls import MountCalls
from .mounts.mount import Room
from .mounts.mounts import Mounts, with_mounts
from .outlet import Opened
from .pruning import Pruning, Rules
from .reading import Reading
from .store import Store
from .streams import Streams
from .texts import Texts
from .versions import Stamp
from .writing import Writing, decoded

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
        self._clock = clock
        self._spaces = spaces or Spaces()
        self._store = store = Store(database, home, settings)
        self._may = may
        index = (search or Search(database, clock)).index("passages", source())
        self.knowledge = Knowledge(database, store.outlet, index, clock)
        store.on_drop = self.knowledge.sweep
        room = Room(database, store.intake, store.outlet, store.quota, clock, self.knowledge.heard, None)
        self.mounts = Mounts(room, home, self._spaces, lambda agent, mount: may(agent, "sto_list", mount))
        self._mounted = MountCalls(self.mounts, self._spaces)
        self.streams = Streams(store, self._spaces, clock, self._opened)
        self._pruning = Pruning(database, Rules(settings.keep_versions, settings.keep_days))
        self._texts = Texts(database, store.blobs)
        self._reading = Reading(store, self._opened)
        self._handlers: dict[type[Any], Callable[[Any, Ask], Awaitable[Any]]] = {
            **Writing(store, self._spaces, self._mounted).handlers, **self._reading.handlers, StoList: self._list,
            StoMount: self._mount, StoUnmount: self._unmount, StoMounts: self._list_mounts,
            StoRetrieve: self._retrieve,
        }  # fmt: skip

    def open(self) -> None:
        """Before the first call."""
        self._store.open()
        self.knowledge.open()

    def close(self) -> None:
        """After `knowledge` was closed."""
        self._store.close()

    # ── calls ──

    def check(self, call: Syscall) -> None:
        args = call.args
        _path_of(args)
        if isinstance(args, StoMove):
            clean_path(args.to)
        if isinstance(args, StoWrite):
            decoded(args)
        if isinstance(args, StoShare) and call.key is not None:
            raise BadRequest(
                "sto_share takes no Idempotency-Key: its link is shown once, and the kernel keeps no copy of it to "
                "repeat; a second link does no harm",
                code="no_key_here",
            )

    async def run(self, call: Syscall) -> Any:
        """The result struct of the call. Writes are committed when this returns, and done once under a call's key."""
        process = call.process
        stamp = Stamp(self._clock.wall(), process.agent, f"{call.spec.name} {call.id}")
        ask = self._ask(
            Place(process.owner, process.agent), call.args, stamp, call.id if call.key is not None else None
        )
        ask = ask._replace(is_admin=call.principal is not None and call.principal.is_admin)
        do = self._handlers[type(call.args)]
        result = await (self._mounted.run(call.args, ask, do) if ask.scope.mount else do(call.args, ask))
        if call.spec.effect is not Effect.READ:
            self.knowledge.heard(ask.scope)
        return result

    def _ask(self, caller: Place, args: Any, stamp: Stamp, once: str | None = None) -> Ask:
        scope, inside = self._spaces.scope(caller, _path_of(args))
        return Ask(caller, scope, inside, stamp, once)

    @asynccontextmanager
    async def _opened(self, ask: Ask, version: int | None) -> AsyncIterator[Opened]:
        """A version that is kept; in a mount, without a number, the file as it is."""
        if ask.scope.mount and version is None:
            async with self._mounted.reading(ask) as file:
                yield Opened(ask.path.rpartition("/")[2], file.version, file.size, None, file.stream)
        else:
            async with self._store.opened(ask, version) as opened:
                yield opened

    async def _list(self, args: StoList, ask: Ask) -> Listing:
        listing = await self._reading.listed(args, ask)
        if args.trash or args.path or ask.scope.mount:
            return listing
        return with_mounts(listing, self.mounts.stats(ask.caller, is_admin=ask.is_admin), args.after or "", args.limit)

    async def _retrieve(self, args: StoRetrieve, ask: Ask) -> Passages:
        return await self.knowledge.retrieve(self._parts(ask), args)

    def _parts(self, ask: Ask) -> list[Part]:
        """What a search is about: all that the agent may look into, unless it names a path."""
        if ask.path or ask.scope.mount:
            return [Part(ask.scope, ask.path)]
        scopes = self._spaces.readable(
            ask.caller, lambda mount: ask.is_admin or self._may(ask.caller, "sto_retrieve", mount)
        )
        mounts = frozenset(scope.mount for scope in scopes[1:])
        return [Part(scopes[0], hidden=mounts), *map(Part, scopes[1:])]

    # ── mounts ──

    async def _mount(self, args: StoMount, ask: Ask) -> MountInfo:
        return await self.mounts.mount(ask.caller, args)

    async def _unmount(self, args: StoUnmount, ask: Ask) -> Count:
        return await self.mounts.unmount(ask.caller, args)

    async def _list_mounts(self, args: StoMounts, ask: Ask) -> MountList:
        return MountList(mounts=self.mounts.infos(ask.caller, is_admin=ask.is_admin))

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
        args = StoRead(path=path)
        return (await self._reading.read(args, self._ask(Place(owner, agent), args, Stamp(self._clock.wall())))).content

    # ── the house ──

    async def keep_house(self) -> None:
        """Take out what nobody came for, versions that are not kept any more, and what was to go and is still there
        since a kernel died over it."""
        now = self._clock.wall()
        for forget_old in (uploads.forget_old, links.forget_old):
            while await self._store.database.run(partial(forget_old, now=now), frees=True):
                pass
        await self._pruning.run(now)
        await self._store.drop_leaving()
        await self._store.drop_left_over()


def _path_of(args: Any) -> str:
    """What the call is about, "" being the top of the agent's files, or of its trash. Raises BadRequest."""
    where = args.where if isinstance(args, StoRetrieve) else None
    path = getattr(args, "path", "") if where is None else where.path or ""
    may_be_root = not hasattr(args, "path") or isinstance(args, StoList) or (isinstance(args, StoClear) and args.trash)
    return clean_path(path, root=may_be_root)

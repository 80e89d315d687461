"""What the storage calls do where a path is in a mount: some go to its folder, some to the store alone."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from aios.abi.calls import (
    Args,
    Count,
    History,
    Listing,
    StoClear,
    StoCreate,
    StoDiff,
    StoHistory,
    StoList,
    StoMove,
    StoRestore,
    StoRollback,
    Version,
)
from aios.abi.errors import BadRequest, NotFound, Stopping

from ...spaces import Spaces
from ..ask import Ask
from ..base import clean_path
from .faults import Gone
from .mount import Mount
from .mounts import Mounts
from .moves import Moves
from .reads import Reading, Reads
from .writes import Writes

WRITES = (StoCreate, StoMove, StoRestore, StoRollback)
Do = Callable[[Any, Ask], Awaitable[Any]]


class MountCalls:
    """The calls on what is in mounts. `store` is what a call does in the store."""

    def __init__(self, mounts: Mounts, spaces: Spaces) -> None:
        self._mounts = mounts
        self._spaces = spaces
        self._do: dict[type[Args], Callable[[Any, Ask, Mount, Do], Awaitable[Any]]] = {
            StoCreate: self._create, StoList: self._list, StoMove: self._move, StoClear: self._clear,
            StoRestore: self._restore, StoRollback: self._roll_back, StoHistory: self._history, StoDiff: self._diff,
        }  # fmt: skip

    async def run(self, args: Args, ask: Ask, store: Do) -> Any:
        do = self._do.get(type(args), _in_store)
        writes = isinstance(args, WRITES) or (isinstance(args, StoClear) and not args.trash)
        async with self._at(ask, writes=writes) as mount:
            return await do(args, ask, mount, store)

    async def write(self, ask: Ask, source: bytes | AsyncIterable[bytes], base: int | None) -> Version:
        async with self._at(ask, writes=True) as mount:
            await mount.present()
            return await Writes(mount).write(ask.path, source, ask.stamp, base=base, once=ask.once)

    @asynccontextmanager
    async def reading(self, ask: Ask) -> AsyncIterator[Reading]:
        """The file as it is in its folder now."""
        async with self._at(ask, writes=False) as mount:
            await mount.present()
            async with Reads(mount).reading(ask.path) as reading:
                yield reading

    @asynccontextmanager
    async def _at(self, ask: Ask, *, writes: bool) -> AsyncIterator[Mount]:
        mount = self._mounts.find(ask.scope)
        mount.check(ask.path, writes=writes)
        with mount.entered():
            try:
                yield mount
            except Gone as error:
                mount.lose(error)
                raise mount.gone() from None

    # ── one by one ──

    async def _create(self, args: StoCreate, ask: Ask, mount: Mount, store: Do) -> Version:
        await mount.present()
        return await Writes(mount).create(ask.path, args.kind, ask.stamp, ask.once)

    async def _roll_back(self, args: StoRollback, ask: Ask, mount: Mount, store: Do) -> Version:
        await mount.present()
        return await Writes(mount).roll_back(ask.path, args.version, ask.stamp, ask.once)

    async def _list(self, args: StoList, ask: Ask, mount: Mount, store: Do) -> Listing:
        if args.trash:
            listing: Listing = await store(args, ask)
            return listing
        await mount.present()
        after = (args.after or "").removeprefix(f"{mount.shown(ask.path)}/")
        return await Reads(mount).listed(ask.path, args.limit, after)

    async def _move(self, args: StoMove, ask: Ask, mount: Mount, store: Do) -> Version:
        scope, to = self._spaces.scope(ask.caller, clean_path(args.to))
        if scope != ask.scope:
            raise other_mount(args)
        mount.check(to, writes=True)
        await mount.present()
        return await Moves(mount).move(ask.path, to, ask.stamp, ask.once)

    async def _clear(self, args: StoClear, ask: Ask, mount: Mount, store: Do) -> Count:
        if args.trash:
            count: Count = await store(args, ask)
            return count
        await mount.present()
        return await Moves(mount).clear(ask.path, ask.stamp, ask.once)

    async def _restore(self, args: StoRestore, ask: Ask, mount: Mount, store: Do) -> Version:
        await mount.present()
        return await Moves(mount).restore(ask.path, ask.stamp, ask.once)

    async def _history(self, args: StoHistory, ask: Ask, mount: Mount, store: Do) -> History:
        why = await self._noted(ask, mount)
        try:
            history: History = await store(args, ask)
        except NotFound:
            if why is None:
                raise
            history = History(path=mount.shown(ask.path), revisions=[])
        return msgspec.structs.replace(history, not_kept=why)

    async def _diff(self, args: StoDiff, ask: Ask, mount: Mount, store: Do) -> Any:
        await self._noted(ask, mount)
        return await store(args, ask)

    async def _noted(self, ask: Ask, mount: Mount) -> str | None:
        """Tell the store what is there now, as far as that can be seen; why what is there is no version, if so."""
        try:
            await mount.present()
            now = await Reads(mount).note(ask.path)
        except Gone as error:
            mount.lose(error)
            return mount.gone().message
        except Stopping as error:
            return error.message
        if now.entry is None or now.is_kept:
            return None
        return mount.not_kept(ask.path, now.entry.signature.size).message


async def _in_store(args: Any, ask: Ask, mount: Mount, store: Do) -> Any:
    return await store(args, ask)


def other_mount(args: StoMove) -> BadRequest:
    return BadRequest(
        f"'{args.path[:200]}' and '{args.to[:200]}' are not in the same mount, or not both outside of any: read the "
        "file, and write it there",
        code="other_mount",
        param="to",
    )

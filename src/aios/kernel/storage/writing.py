"""Calls that change the kernel's own files: write, move, clear, bring back, share; and writes to mounted folders."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aios.abi.calls import (
    Count,
    Link,
    StoClear,
    StoCreate,
    StoMove,
    StoRestore,
    StoRollback,
    StoShare,
    StoWrite,
    Version,
)
from aios.abi.errors import AiosError, BadRequest, NotFound, TooLarge

from ..database import answered
from ..spaces import Spaces
from . import contents, links, moves, trash, uploads, versions
from .ask import Ask
from .base import clean_path
from .contents import SMALL, Body
from .mounts.calls import MountCalls, other_mount
from .store import Store
from .tree import Tree
from .versions import Staged

MAX_CALL = 16 << 20
"""Bytes that one call carries, in or out; longer files go through the gateway as streams, or are read in parts."""
SLICE = 4 << 20
"""Bytes of a call's content that are cut together."""


class Writing:
    """One handler a call, by its arguments' struct. Writes are committed when they return."""

    def __init__(self, store: Store, spaces: Spaces, mounted: MountCalls) -> None:
        self._store = store
        self._mounted = mounted
        self._spaces = spaces
        self.handlers: dict[type[Any], Callable[[Any, Ask], Awaitable[Any]]] = {
            StoCreate: self._create, StoWrite: self._write, StoMove: self._move, StoClear: self._clear,
            StoRestore: self._restore, StoRollback: self._roll_back, StoShare: self._share,
        }  # fmt: skip

    async def _create(self, args: StoCreate, ask: Ask) -> Version:
        empty = contents.body(b"")

        def job(tree: Tree) -> Version:
            if (there := tree.find(ask.path)) is not None:
                raise tree.taken(ask.path, there)
            if args.kind == "file":
                return versions.write(tree, ask.path, empty, ask.stamp)
            tree.make_folder(ask.path, ask.stamp.at)
            return Version(path=ask.shown, version=1)

        return await self._store.run(ask, job, Version)

    async def _write(self, args: StoWrite, ask: Ask) -> Version:
        if args.upload is not None:
            return await self._name_upload(args.upload, ask, args.base)
        data = await self._bytes_of(args)
        if ask.scope.mount:
            return await self._mounted.write(ask, data, args.base)
        if len(data) <= SMALL:
            return await self._name(contents.body(data), ask, args.base)
        async with self._store.intake.staged(ask.scope, _slices(data), self._store.quota) as staged:
            return await self._name(staged, ask, args.base)

    async def _name(self, content: Body | Staged, ask: Ask, base: int | None) -> Version:
        return await self._store.run(
            ask, lambda tree: versions.write(tree, ask.path, content, ask.stamp, base), Version
        )

    async def _name_upload(self, name: str, ask: Ask, base: int | None) -> Version:
        if ask.scope.mount:
            return await self._place_upload(name, ask, base)

        def job(tree: Tree) -> Version:
            staged = uploads.find(tree.connection, ask.caller, name)
            version = versions.write(tree, ask.path, staged, ask.stamp, base)
            uploads.forget(tree.connection, ask.caller, name)
            return version

        return await self._store.run(ask, job, Version)

    async def _place_upload(self, name: str, ask: Ask, base: int | None) -> Version:
        """Into the mounted folder. Done once more under a call's key, it may find that it was done."""
        try:
            staged = self._store.look(ask, lambda tree: uploads.find(tree.connection, ask.caller, name))
        except NotFound:
            done = ask.once and self._store.look(ask, lambda tree: answered(tree.connection, ask.once or "", Version))
            if not done:
                raise
            return done
        with self._store.outlet.held(staged.id) as content:
            source = self._store.outlet.stream(content, 0, content.size)
            version = await self._mounted.write(ask, source, base)
        await self._store.database.run(lambda c: uploads.forget(c, ask.caller, name), frees=True)
        return version

    async def _bytes_of(self, args: StoWrite) -> bytes:
        if len(args.content) <= SMALL:
            return decoded(args)
        return await self._store.workers.run(lambda: decoded(args))

    async def _roll_back(self, args: StoRollback, ask: Ask) -> Version:
        return await self._store.run(
            ask, lambda tree: versions.roll_back(tree, ask.path, args.version, ask.stamp), Version
        )

    async def _move(self, args: StoMove, ask: Ask) -> Version:
        scope, to = self._spaces.scope(ask.caller, clean_path(args.to))
        if scope != ask.scope:
            raise other_mount(args)
        await self._store.look_long(ask, lambda tree: moves.check_extent(tree, ask.path, to))
        return await self._store.run(ask, lambda tree: moves.move(tree, ask.path, to, ask.stamp.at), Version)

    async def _restore(self, args: StoRestore, ask: Ask) -> Version:
        def job(tree: Tree) -> Version:
            node = trash.restore(tree, ask.path, ask.stamp.at)
            return Version(path=ask.shown, version=node.version)

        return await self._store.run(ask, job, Version)

    async def _share(self, args: StoShare, ask: Ask) -> Link:
        def job(tree: Tree) -> Link:
            if not args.ttl:
                return links.end(tree, ask.path)
            return links.share(tree, ask.path, args.version, args.ttl, ask.stamp)

        return await self._store.run(ask, job, Link)

    async def _clear(self, args: StoClear, ask: Ask) -> Count:
        if args.trash:
            return await asyncio.shield(self._empty_trash(ask))
        count = await self._count(ask, lambda tree: [node.id] if (node := tree.find(ask.path)) is not None else [])

        def job(tree: Tree) -> Count:
            trash.clear(tree, ask.path, ask.stamp.at)
            return count

        return await self._store.run(ask, job, Count, frees=True)

    async def _empty_trash(self, ask: Ask) -> Count:
        """Said in one step, then carried out in small ones, so that nobody's writes wait long behind it. Once it is
        said nothing brings it back: steps that the disk fails are done with the next ones, or at the next start."""
        count = await self._count(ask, lambda tree: trash.to_leave(tree, ask.path))

        def job(tree: Tree) -> Count:
            trash.leave(tree, ask.path)
            return count

        count = await self._store.run(ask, job, Count, frees=True)
        try:
            await self._store.drop_leaving()
        except AiosError as error:
            if error.code not in ("storage_full", "storage_failed"):
                raise
        return count

    async def _count(self, ask: Ask, find: Callable[[Tree], list[int]]) -> Count:
        """Entries from those on downwards: counted before they go, since that takes long for a million."""

        def job(tree: Tree) -> Count:
            return Count(count=sum(map(tree.num_below, find(tree))))

        return await self._store.look_long(ask, job)


async def _slices(data: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(data), SLICE):
        yield data[begin : begin + SLICE]


def decoded(args: StoWrite) -> bytes:
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
    if data and args.upload is not None:
        raise BadRequest("a write has content, or an upload, not both", param="upload")
    if len(data) > MAX_CALL:
        raise TooLarge(
            f"one write holds at most {MAX_CALL:,} bytes, this has {len(data):,}: send it with PUT "
            "/aios/v1/files/PATH, which takes any length",
            param="content",
        )
    return data

"""Looking at files of a mount: as they are in its folder now, and which version that is. Paths are inside the mount."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import apsw

from aios.abi.calls import Listing, Stat

from ..base import parent_of
from . import seen
from .beneath import Entry
from .mount import Current, Mount
from .notice import BLOCK
from .staged import Signature

INLINE = 16 << 20
"""Bytes of a changed file that a reader waits for until they are a version."""


class Reading:
    """A file that is open: `size` bytes, and its version, 0 if it is none as it is."""

    def __init__(self, mount: Mount, descriptor: int, size: int, version: int) -> None:
        self._mount = mount
        self._descriptor = descriptor
        self.size = size
        self.version = version

    async def stream(self, offset: int, length: int) -> AsyncIterator[bytes]:
        end = min(self.size, offset + length)
        while offset < end:
            block = await self._mount.run(os.pread, self._descriptor, min(BLOCK, end - offset), offset)
            if not block:
                return
            offset += len(block)
            yield block

    async def part(self, offset: int, length: int) -> bytes:
        return b"".join([block async for block in self.stream(offset, length)])


class Reads:
    """Of one mount."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount

    async def listed(self, path: str, limit: int, after: str) -> Listing:
        """What is in the folder, those whose names come after `after`."""
        beneath = self._mount.beneath
        entry = await self._mount.run(beneath.stat, path)
        if not entry.is_folder:
            return Listing(entries=await self._stats(parent_of(path), [entry]))
        entries, has_more = await self._mount.run(partial(beneath.list, path, after=after, limit=limit))
        return Listing(entries=await self._stats(path, entries), has_more=has_more)

    async def _stats(self, folder: str, entries: list[Entry]) -> list[Stat]:
        names = [entry.path.rpartition("/")[2] for entry in entries]

        def job(connection: apsw.Connection) -> list[Stat]:
            known = seen.known_in(self._mount.tree(connection), folder, names)
            return [self._stat(*each) for each in zip(entries, map(Current, entries, known), strict=True)]

        return await self._mount.room.database.read_async(job)

    def _stat(self, entry: Entry, now: Current) -> Stat:
        return Stat(
            path=self._mount.shown(entry.path),
            kind="folder" if entry.is_folder else "file",
            size=0 if entry.is_folder else entry.signature.size,
            version=now.version,
            modified=entry.signature.modified / 1e9,
        )

    @asynccontextmanager
    async def reading(self, path: str) -> AsyncIterator[Reading]:
        """The file, after the store was told of it, unless that takes long: then it is told meanwhile."""
        mount = self._mount
        descriptor, signature = await self._open(path)
        try:
            now = self._current(path, signature)
            if not now.is_settled and signature.size <= INLINE:
                await self.note(path)
                before, (descriptor, signature) = descriptor, await self._open(path)
                mount.disk.later(os.close, before)
                now = self._current(path, signature)
            elif not now.is_settled:
                mount.follower.hear(path)
            yield Reading(mount, descriptor, signature.size, now.version)
        finally:
            mount.disk.later(os.close, descriptor)

    async def _open(self, path: str) -> tuple[int, Signature]:
        return await self._mount.disk.open(self._mount.beneath.open, path, undo=lambda found: os.close(found[0]))

    def _current(self, path: str, signature: Signature) -> Current:
        return Current(Entry(path, False, signature), self._mount.find(path))

    async def note(self, path: str) -> Current:
        """What is at `path`, which the store has been told of."""
        async with self._mount.locks.hold(path):
            return await self._mount.current(path)

"""Writing files of a mount: into its folder, and into the store, which keeps every version. Paths are inside the mount.

The folder comes first: what is written is in its place before the store records it, and what a crash leaves is found
there. Nothing is replaced that the store does not have.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import apsw

from aios.abi.calls import Version
from aios.abi.errors import AiosError, TooLarge

from ...database import Job, exactly_once
from ...unbroken import unbroken
from .. import contents, versions
from ..contents import SMALL, Body
from ..quota import VERSION_BYTES
from ..tree import Tree
from ..versions import Staged, Stamp
from . import intents, seen
from .faults import Changed
from .intents import Intent
from .mount import Mount
from .notice import BLOCK
from .staged import Signature
from .staged import Staged as Stage

TRIES = 5
"""So often a file is looked at again that others change in just this moment."""
Check = Callable[[Tree], object]


class Arrived(NamedTuple):
    """A content that is beside its place in the folder, and in the store without a name."""

    stage: Stage
    content: Body | Staged

    @property
    def size(self) -> int:
        return len(self.content.data) if isinstance(self.content, Body) else self.content.size


class Wanted(NamedTuple):
    """What is to be recorded of a content once that is in its place, unless `check` refuses it before."""

    path: str
    stamp: Stamp
    once: str | None
    record: Callable[[Tree], Version]
    check: Check | None = None


class Writes:
    """Of one mount. `once` is the call's id if it has a key."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._database = mount.room.database

    async def write(
        self,
        path: str,
        source: bytes | AsyncIterable[bytes],
        stamp: Stamp,
        *,
        base: int | None = None,
        once: str | None = None,
    ) -> Version:
        """A new content. Raises Conflict, TooLarge."""
        check = partial(versions.check_base, path=path, base=base)
        async with self._mount.locks.hold(path):
            if (done := self._mount.answered(once, Version)) is not None:
                return done
            await self._expected(path, 0, check)
        # What comes may take its time: nobody else waits for that.
        async with self._arriving(path, source) as arrived, self._mount.locks.hold(path):
            record = partial(versions.write, path=path, content=arrived.content, stamp=stamp)
            return await self._place(arrived, Wanted(path, stamp, once, record, check))

    async def create(self, path: str, kind: str, stamp: Stamp, once: str | None = None) -> Version:
        """An empty file, or a folder. Raises Conflict when something is there."""
        async with self._mount.locks.hold(path):
            if (done := self._mount.answered(once, Version)) is not None:
                return done
            if (await self._mount.current(path)).entry is not None:
                raise self._mount.is_there(path)
            if kind == "folder":
                return await unbroken(self._create_folder(Intent("make", path, stamp, once)))
            async with self._arriving(path, b"") as arrived:
                record = partial(versions.write, path=path, content=arrived.content, stamp=stamp)
                check = partial(versions.check_base, path=path, base=0)
                return await self._place(arrived, Wanted(path, stamp, once, record, check))

    async def _create_folder(self, intent: Intent) -> Version:
        async with self._mount.intending(intent) as id:
            await self._mount.run(self._mount.beneath.make_folder, intent.path)

            def job(connection: apsw.Connection) -> Version:
                intents.drop(connection, id)
                self._mount.tree(connection).make_folder(intent.path, intent.stamp.at)
                return Version(path=self._mount.shown(intent.path), version=1)

            return await self._recorded(intent.path, exactly_once(intent.once, job, Version))

    async def roll_back(self, path: str, number: int, stamp: Stamp, once: str | None = None) -> Version:
        """The content of version `number` once more, as the newest."""
        async with self._mount.locks.hold(path):
            if (done := self._mount.answered(once, Version)) is not None:
                return done
            await self._mount.current(path)
            kept = self._database.read(lambda c: versions.find(self._mount.tree(c), path, number))
            with self._mount.room.outlet.held(kept.content) as content:
                async with self._staging(path) as stage:
                    async for block in self._mount.room.outlet.stream(content, 0, content.size):
                        await self._mount.run(stage.write, block)
                    record = partial(versions.roll_back, path=path, number=number, stamp=stamp)
                    arrived = Arrived(stage, Staged(kept.content, kept.size))
                    return await self._place(arrived, Wanted(path, stamp, once, record))

    # ── arriving ──

    @asynccontextmanager
    async def _arriving(self, path: str, source: bytes | AsyncIterable[bytes]) -> AsyncIterator[Arrived]:
        room = self._mount.room
        async with self._staging(path) as stage:
            if isinstance(source, bytes) and len(source) <= SMALL:
                await self._mount.run(stage.write, source)
                yield Arrived(stage, contents.body(source))
            else:
                blocks = _blocks(source) if isinstance(source, bytes) else source
                async with room.intake.staged(self._mount.scope, self._tee(stage, blocks), room.quota) as content:
                    yield Arrived(stage, content)

    @asynccontextmanager
    async def _staging(self, path: str) -> AsyncIterator[Stage]:
        stage = await self._mount.disk.open(self._mount.beneath.stage, path, undo=Stage.discard)
        try:
            yield stage
        finally:
            await self._mount.discard(stage)

    async def _tee(self, stage: Stage, blocks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        async for block in blocks:
            await self._mount.run(stage.write, block)
            yield block

    # ── being placed ──

    async def _place(self, arrived: Arrived, wanted: Wanted) -> Version:
        """Put what has arrived into its place and have it recorded. The caller holds the path."""
        for _ in range(TRIES):
            try:
                expected = await self._expected(wanted.path, arrived.size, wanted.check)
                return await unbroken(self._commit(arrived.stage, expected, wanted))
            except Changed:
                continue
        raise self._mount.is_busy(wanted.path)

    async def _expected(self, path: str, size: int, check: Check | None) -> Signature | None:
        """What the file looks like that is to be replaced by one of `size` bytes, None if there is none. Raises what
        would refuse that, and Conflict if others change it each time that it is looked at."""
        for _ in range(TRIES):
            now = await self._mount.current(path)
            if now.entry is not None and now.entry.is_folder:
                raise self._mount.is_there(path)
            if now.is_kept:
                self._database.read(partial(self._check_store, path, size, check))
                return now.entry.signature if now.entry is not None else None
            assert now.entry is not None
            refusal = self._mount.not_kept(path, now.entry.signature.size)
            if isinstance(refusal, TooLarge):
                break
        raise refusal

    def _check_store(self, path: str, size: int, check: Check | None, connection: apsw.Connection) -> None:
        """Raises what the store would refuse, before the folder is changed."""
        tree = self._mount.tree(connection)
        if check is not None:
            check(tree)
        tree.quota.check(connection, tree.scope.payer, path.count("/") + 1, size + VERSION_BYTES)

    async def _commit(self, stage: Stage, expected: Signature | None, wanted: Wanted) -> Version:
        if wanted.once is None:  # nobody asks again: what is in its place when the kernel dies is noted like any change
            return await self._put(stage, expected, wanted, 0)
        inode = await self._mount.run(stage.inode)
        intent = Intent("write", wanted.path, wanted.stamp, wanted.once, inode=inode)
        async with self._mount.intending(intent) as id:
            return await self._put(stage, expected, wanted, id)

    async def _put(self, stage: Stage, expected: Signature | None, wanted: Wanted, intent: int) -> Version:
        signature = await self._mount.run(stage.commit, expected)
        checked = time.time_ns()

        def job(connection: apsw.Connection) -> Version:
            intents.drop(connection, intent)
            tree = self._mount.tree(connection)
            version = wanted.record(tree)
            seen.see(tree, tree.need(wanted.path).id, signature, checked, is_ours=True)
            return version

        return await self._recorded(wanted.path, exactly_once(wanted.once, job, Version))

    async def _recorded(self, path: str, job: Job[Version]) -> Version:
        """Of what is in the folder by now, which a refusal has to say."""
        try:
            return await self._database.run(job)
        except AiosError as error:
            raise type(error)(
                f"'{self._mount.shown(path)}' is in its folder as you asked, and no version yet: the store cannot be "
                "written, since its disk is full or fails. It is noted when that is well again, as if others had "
                "written it",
                code=error.code,
                retry_after=error.retry_after,
            ) from None


async def _blocks(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), BLOCK):
        yield data[at : at + BLOCK]

"""Finishing what a kernel died over in a mounted folder, before anybody looks at it: with its `intents`.

What is in its place already is recorded as what it was meant to be, under the key of its call. What was only set aside
goes back, and its call does it again. All else was not begun. Knows no call and no watch.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import apsw

from aios.abi.calls import Version
from aios.abi.errors import AiosError, Conflict, ModuleFault, NotFound, Stopping

from ...database import Database, Job, exactly_once
from ...spaces import Scope
from .. import moves, trash, versions
from ..intake import Intake
from ..quota import Quota
from ..tree import Node, Tree
from ..versions import Staged
from . import intents, seen
from .beneath import Beneath
from .disk import Disk
from .faults import Gone
from .intents import Intent
from .locks import PathLocks
from .staged import Signature

log = logging.getLogger("aios.storage")

BLOCK = 1 << 20
UNFINISHED = "a call was cut short there, and the disk fails what is left to do"


class CutShort:
    """Of one mount."""

    def __init__(
        self, scope: Scope, beneath: Beneath, disk: Disk, database: Database, intake: Intake, quota: Quota,
        locks: PathLocks,
    ) -> None:  # fmt: skip
        self._scope = scope
        self._beneath = beneath
        self._disk = disk
        self._database = database
        self._intake = intake
        self._quota = quota
        self._locks = locks

    async def finish(self) -> None:
        """All that is on record and nobody is at. Raises Gone while the disk fails that: nobody may look before.
        What cannot be recorded for another reason is said in the log, and is then an outside change."""
        left = self._left()
        if left:
            await self._check_store()
        for id, intent in left.items():
            paths = (intent.path, intent.to) if intent.what == "move" else (intent.path,)
            async with self._locks.hold(*paths):
                if id not in self._left():  # a call was at it, and has ended
                    continue
                try:
                    await self._finish(id, intent)
                except AiosError as error:
                    if isinstance(error, Stopping | ModuleFault):
                        raise Gone.because(UNFINISHED) from None
                    log.warning("'%s' of '%s' was cut short and stays so: %s", intent.what, intent.path, error)

    async def _check_store(self) -> None:
        """After a failed sync it is the next kernel that finds what is on record."""
        try:
            await self._database.run(lambda c: None, frees=True)
        except (Stopping, ModuleFault):
            raise Gone.because(UNFINISHED) from None

    def _left(self) -> dict[int, Intent]:
        return self._database.read(lambda c: intents.of(c, self._scope))

    async def _finish(self, id: int, intent: Intent) -> None:
        if intent.what == "clear":
            await put_back(self._beneath, self._disk, intent.to, intent.path)
        elif not await self._is_done(intent):
            pass
        elif (node := self._noted_since(intent)) is not None:
            return await self._record(id, intent, lambda tree: node.version)
        elif intent.what == "write":
            return await self._record_file(id, intent)
        elif (job := self._job(intent)) is not None:
            return await self._record(id, intent, job)
        await self._database.run(partial(intents.drop, id=id), frees=True)

    async def _is_done(self, intent: Intent) -> bool:
        """Whether what was to come into its place is there."""
        entry = await self._disk.run(self._beneath.find, intent.to if intent.what == "move" else intent.path)
        if entry is None or intent.what == "make":
            return entry is not None and entry.is_folder
        return entry.signature.inode == intent.inode

    def _noted_since(self, intent: Intent) -> Node | None:
        """What the same kernel took for an outside change, when it could not record the call and lived on."""
        node = self._database.read(lambda c: self._tree(c).find(intent.path))
        is_new = node is not None and node.modified > intent.stamp.at and intent.what in ("write", "make")
        return node if is_new else None

    def _job(self, intent: Intent) -> Callable[[Tree], int] | None:
        """What is to be recorded, if it can be; it says which version that is. What files look like is found out by a
        look, which finds their contents as they are known."""
        path, to, at = intent.path, intent.to, intent.stamp.at
        found = self._database.read(lambda c: [self._tree(c).find(each) for each in (path, to) if each])
        if intent.what == "move" and found[0] is not None and found[1] is None:
            return lambda tree: moves.move(tree, path, to, at).version
        if intent.what == "restore" and found[0] is None:
            return lambda tree: trash.restore(tree, path, at).version
        if intent.what == "make" and found[0] is None:
            return lambda tree: (tree.make_folder(path, at), 1)[1]
        return None

    async def _record(self, id: int, intent: Intent, record: Callable[[Tree], int]) -> None:
        shown = self._scope.shown(intent.to or intent.path)

        def job(connection: apsw.Connection) -> Version:
            intents.drop(connection, id)
            return Version(path=shown, version=record(self._tree(connection)))

        await self._run(intent, job)

    async def _record_file(self, id: int, intent: Intent) -> None:
        descriptor, signature = await self._disk.open(
            self._beneath.open, intent.path, undo=lambda found: os.close(found[0])
        )
        try:
            async with self._intake.staged(self._scope, self._blocks(descriptor), self._quota) as content:
                await self._run(intent, partial(self._write, id, intent, content, signature))
        finally:
            self._disk.later(os.close, descriptor)

    def _write(
        self, id: int, intent: Intent, content: Staged, signature: Signature, connection: apsw.Connection
    ) -> Version:
        intents.drop(connection, id)
        tree = self._tree(connection)
        version = versions.write(tree, intent.path, content, intent.stamp)
        seen.see(tree, tree.need(intent.path).id, signature, 0, is_ours=False)
        return version

    async def _blocks(self, descriptor: int) -> AsyncIterator[bytes]:
        while block := await self._disk.run(os.read, descriptor, BLOCK):
            yield block

    async def _run(self, intent: Intent, job: Job[Version]) -> None:
        await self._database.run(exactly_once(intent.once, job, Version))

    def _tree(self, connection: apsw.Connection) -> Tree:
        return Tree(connection, self._scope, self._quota)


async def undone(why: AiosError, undo: Coroutine[Any, Any, object]) -> None:
    """Undo a change of the folder after `why`, if it came to that. Raises Gone when that fails too: what is left to do
    is on record. After a sync of the store that failed nobody knows what that has, and the next kernel will."""
    if why.code == "storage_failed" or isinstance(why, Gone):
        undo.close()
        return
    try:
        await undo
    except NotFound:
        pass
    except AiosError:
        raise Gone.because(UNFINISHED) from None


async def put_back(beneath: Beneath, disk: Disk, aside: str, path: str) -> None:
    """What stays after all, if it is there. If others have made something at its place meanwhile, beside that."""
    try:
        await disk.run(beneath.put_back, aside, path)
    except Conflict:
        with suppress(NotFound):
            await disk.run(beneath.put_back, aside, f"{path}.{secrets.token_hex(4)}.kept")
    except NotFound:
        pass

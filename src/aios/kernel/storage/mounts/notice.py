"""Bringing the store up to what is in a mounted folder: what others changed there becomes versions by "outside".

Called with paths that the caller holds (`locks.py`); looks at each anew, so that nothing here trusts what it was told.
Knows no call and no watch.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import NamedTuple

import apsw

from aios.abi.errors import BadRequest, Conflict, Denied, NotFound, TooLarge

from ...clock import Clock
from ...database import Database, Job
from ...spaces import Scope
from .. import contents, trash, versions
from ..base import parent_of
from ..contents import SMALL, Body
from ..intake import Intake
from ..quota import VERSION_BYTES, Quota
from ..tree import Tree
from ..versions import Staged, Stamp
from . import seen
from .beneath import Beneath, Entry
from .disk import Disk
from .seen import Known
from .staged import Signature

OUTSIDE = "outside"
STEP = 1 << 20
"""Bytes that are read together and go into the database together."""
BLOCK = 1 << 20
TRIES = 3
"""A file that is being written meanwhile is read so often, and then kept as it was read."""


class Look(NamedTuple):
    """What was found at a path. `checked` is 0 for what may have changed since it was read."""

    path: str
    entry: Entry | None
    body: Body | None = None
    checked: int = 0


class Noted(NamedTuple):
    """How many files and folders got a version, or lost their place, and how many could not for want of room."""

    num_kept: int = 0
    num_unkept: int = 0

    def __add__(self, other: object) -> Noted:
        assert isinstance(other, Noted)
        return Noted(self.num_kept + other.num_kept, self.num_unkept + other.num_unkept)


class Notice:
    """Of one mount."""

    def __init__(
        self,
        scope: Scope,
        beneath: Beneath,
        disk: Disk,
        database: Database,
        intake: Intake,
        quota: Quota,
        clock: Clock,
        heard: Callable[[Scope], None],
    ) -> None:
        self._scope = scope
        self._beneath = beneath
        self._disk = disk
        self._database = database
        self._intake = intake
        self._quota = quota
        self._clock = clock
        self._heard = heard

    async def note(self, paths: Sequence[str], *, thorough: bool = False) -> Noted:
        """See to it that the store has what is at `paths` now, as far as there is room. Raises Gone, and what keeps the
        store from being written."""
        noted, large = await self.note_small(paths, thorough=thorough)
        for path in large:
            noted += await self.note_large(path)
        return noted

    async def note_small(self, paths: Sequence[str], *, thorough: bool = False) -> tuple[Noted, list[str]]:
        """As `note`, but for large files, which take their time: those are for `note_large`."""
        known = await self._known(paths)
        rest, noted, large = list(paths), Noted(), list[str]()
        while rest:
            looks, rest = await self._disk.run(self._look, rest, known, thorough)
            large += [look.path for look in looks if _is_large(look)]
            small = [look for look in looks if not _is_large(look)]
            if small:
                noted += await self._record(partial(self._apply_all, small))
        return noted, large

    async def _record(self, job: Job[Noted]) -> Noted:
        noted = await self._database.run(job)
        if noted.num_kept:
            self._heard(self._scope)
        return noted

    async def _known(self, paths: Sequence[str]) -> dict[str, Known | None]:
        def job(connection: apsw.Connection) -> dict[str, Known | None]:
            tree = Tree(connection, self._scope)
            return {path: seen.known(tree, path) for path in paths}

        return self._database.read(job) if len(paths) == 1 else await self._database.read_async(job)

    # ── looking, in a thread ──

    def _look(self, paths: list[str], known: dict[str, Known | None], thorough: bool) -> tuple[list[Look], list[str]]:
        """What differs from what is known, and the paths that were not looked at: until `STEP` bytes were read."""
        looks: list[Look] = []
        size = 0
        for number, path in enumerate(paths):
            if size > STEP:
                return looks, paths[number:]
            look = self._look_at(path, known[path], thorough)
            if look is not None:
                looks.append(look)
                size += len(look.body.data) if look.body else 0
        return looks, []

    def _look_at(self, path: str, known: Known | None, thorough: bool) -> Look | None:
        """None when nothing is to be recorded."""
        gone = None if known is None else Look(path, None)
        try:
            entry = self._beneath.find(path)
            if entry is None:
                return None if known is None else Look(self._topmost_missing(path), None)
            if known is not None and known.is_surely(entry, thorough=thorough):
                return None
            return Look(path, entry) if entry.is_folder else self._read(path, entry)
        except Denied as error:
            return gone if error.code == "is_a_link" else None  # what may not be looked at is not gone
        except (NotFound, BadRequest, Conflict):  # it went just now, or something that we do not keep has its name
            return gone

    def _topmost_missing(self, path: str) -> str:
        """A folder that was taken away goes into the trash as one, not file by file."""
        while (above := parent_of(path)) and self._beneath.find(above) is None:
            path = above
        return path

    def _read(self, path: str, entry: Entry) -> Look:
        """With the content of a small file, read as often as it takes until nobody changed it meanwhile."""
        for _ in range(TRIES):
            descriptor, before = self._beneath.open(path)
            try:
                entry = Entry(path, False, before)
                if before.size > SMALL:
                    return Look(path, entry)
                data = _read_up_to(descriptor, SMALL)
                checked = time.time_ns()
                after = Signature.of(os.fstat(descriptor))
            finally:
                os.close(descriptor)
            if after == before and len(data) == before.size:
                return Look(path, entry, contents.body(data), checked)
        return Look(path, entry, contents.body(data))

    # ── keeping ──

    def _apply_all(self, looks: list[Look], connection: apsw.Connection) -> Noted:
        tree = Tree(connection, self._scope, self._quota)
        return sum((self._apply(tree, look, look.body) for look in looks), Noted())

    def _apply(self, tree: Tree, look: Look, content: Body | Staged | None) -> Noted:
        """Record what was found, if there is room for it."""
        now = self._clock.wall()
        if look.entry is not None:
            for folder in seen.files_above(tree, look.path):  # it is a folder by now
                trash.clear(tree, folder, now)
        known = seen.known(tree, look.path)
        if known is not None and (look.entry is None or look.entry.is_folder != (known.node.kind == "folder")):
            trash.clear(tree, look.path, now)
            known = None
        if look.entry is None:
            return Noted(num_kept=1)
        try:
            self._check_room(tree, look.path, look.entry)
        except TooLarge:
            return Noted(num_unkept=1)
        if look.entry.is_folder:
            tree.make_folder(look.path, now)
        else:
            self._keep(tree, look, content, known or self._revived(tree, look.path, now), now)
        return Noted(num_kept=1)

    def _check_room(self, tree: Tree, path: str, entry: Entry) -> None:
        """Raises TooLarge before anything is done: a job that fails half-way would have done half."""
        size = 0 if entry.is_folder else entry.signature.size + VERSION_BYTES
        self._quota.check(tree.connection, tree.scope.payer, path.count("/") + 1, size)

    def _revived(self, tree: Tree, path: str, now: float) -> Known | None:
        """What was at `path` when others took it away, and is there again: its history goes on."""
        node = trash.find(tree, path)
        if node is None or node.kind != "file" or not seen.was_seen(tree, node.id):
            return None
        with contextlib.suppress(Conflict):  # a file stands where its folder was
            trash.restore(tree, path, now)
            return seen.known(tree, path)
        return None

    def _keep(self, tree: Tree, look: Look, content: Body | Staged | None, known: Known | None, now: float) -> None:
        assert look.entry is not None
        assert content is not None
        is_new = known is None or not _is_newest(tree, known, content)
        if is_new:
            versions.write(tree, look.path, content, Stamp(now, OUTSIDE))
        is_ours = not is_new and known is not None and known.sight is not None and known.sight.is_ours
        seen.see(tree, tree.need(look.path).id, look.entry.signature, look.checked, is_ours=is_ours)

    # ── large files, which are read and kept as streams ──

    async def note_large(self, path: str) -> Noted:
        for number in range(TRIES):
            try:
                descriptor, before = await self._disk.open(
                    self._beneath.open, path, undo=lambda found: os.close(found[0])
                )
            except (NotFound, BadRequest, Conflict, Denied):  # it has just gone; that is heard of
                break
            try:
                if not self._has_room(path, before.size):
                    return Noted(num_unkept=1)
                noted = await self._keep_large(path, descriptor, before, is_last=number == TRIES - 1)
            except TooLarge:
                return Noted(num_unkept=1)
            finally:
                self._disk.later(os.close, descriptor)
            if noted is not None:
                return noted
        return Noted()

    def _has_room(self, path: str, size: int) -> bool:
        if size > self._intake.max_file:
            return False
        try:
            depth = path.count("/") + 1
            self._database.read(lambda c: self._quota.check(c, self._scope.payer, depth, size + VERSION_BYTES))
        except TooLarge:
            return False
        return True

    async def _keep_large(self, path: str, descriptor: int, before: Signature, *, is_last: bool) -> Noted | None:
        """None if somebody changed it meanwhile, so that it is to be read again."""
        async with self._intake.staged(self._scope, self._blocks(descriptor, before.size), self._quota) as staged:
            checked = time.time_ns()
            after = Signature.of(await self._disk.run(os.fstat, descriptor))
            is_whole = after == before and staged.size == before.size
            if not is_whole and not is_last:
                return None
            look = Look(path, Entry(path, False, before), None, checked if is_whole else 0)
            return await self._record(lambda c: self._apply(Tree(c, self._scope, self._quota), look, staged))

    async def _blocks(self, descriptor: int, size: int) -> AsyncIterator[bytes]:
        """As much as the file had when it was opened: one that grows for ever ends all the same."""
        while size > 0 and (block := await self._disk.run(os.read, descriptor, min(BLOCK, size))):
            size -= len(block)
            yield block


def _is_large(look: Look) -> bool:
    return look.entry is not None and not look.entry.is_folder and look.body is None


def _is_newest(tree: Tree, known: Known, content: Body | Staged) -> bool:
    """Whether the newest version is just that."""
    kept = versions.of(tree.connection, known.node.id, known.node.version)
    return kept is not None and contents.find(tree.connection, kept.content).hash == content.hash


def _read_up_to(descriptor: int, limit: int) -> bytes:
    blocks: list[bytes] = []
    size = 0
    while size <= limit and (block := os.read(descriptor, limit + 1 - size)):
        blocks.append(block)
        size += len(block)
    return b"".join(blocks)

"""Files and folders of a mount that go as a whole: to another name, into the trash, and back.

What goes into the trash leaves the folder, and its content and history stay in the store: nothing goes that the store
does not have. Paths are inside the mount.
"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import NamedTuple

import apsw

from aios.abi.calls import Count, Version
from aios.abi.errors import AiosError, BadRequest, Conflict, NotFound

from ...database import exactly_once, rows
from ...unbroken import unbroken
from .. import moves, trash, versions
from ..tree import BELOW, Node, Tree
from ..versions import Stamp
from . import intents, seen
from .beneath import Batch, Entry, fresh_aside
from .cut_short import put_back, undone
from .faults import Changed
from .intents import Intent
from .mount import Mount
from .seen import Known
from .staged import Signature, Staged


class Below(NamedTuple):
    """An entry of the trash that comes back: `path` is from what comes back on, "" being that itself."""

    path: str
    id: int
    kind: str
    version: int


class Moves:
    """Of one mount. `once` is the call's id if it has a key."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._beneath = mount.beneath
        self._database = mount.room.database

    # ── to another name ──

    async def move(self, path: str, to: str, stamp: Stamp, once: str | None = None) -> Version:
        """Raises NotFound, Conflict, BadRequest for a place below itself."""
        if to == path or to.startswith(f"{path}/"):
            raise BadRequest(
                f"'{self._mount.shown(path)}' cannot be moved to below itself", code="into_itself", param="to"
            )
        async with self._mount.locks.hold(path, to):
            if (done := self._mount.answered(once, Version)) is not None:
                return done
            now, there = await self._mount.current(path), await self._mount.current(to)
            if now.entry is None:
                raise self._mount.missing(path)
            if there.entry is not None:
                raise self._mount.is_there(to, "to")
            if now.known is None or not now.is_kept:
                return await unbroken(self._move_unkept(path, to))
            await self._database.read_async(lambda c: moves.check_extent(self._mount.tree(c), path, to))
            intent = Intent("move", path, stamp, once, to, now.entry.signature.inode)
            return await unbroken(self._move(intent))

    async def _move(self, intent: Intent) -> Version:
        async with self._mount.intending(intent) as id:
            try:
                await self._mount.run(self._beneath.move, intent.path, intent.to)
                return await self._record_move(intent, id)
            except Conflict:  # something else is there
                raise
            except AiosError as error:
                await undone(error, self._mount.run(self._beneath.move, intent.to, intent.path))
                raise

    async def _record_move(self, intent: Intent, id: int) -> Version:
        path, to = intent.path, intent.to
        entry = await self._mount.run(self._beneath.stat, to)
        checked = time.time_ns()

        def job(connection: apsw.Connection) -> Version:
            intents.drop(connection, id)
            tree = self._mount.tree(connection)
            version = moves.move(tree, path, to, intent.stamp.at)
            if not entry.is_folder:  # the name is part of what a file looks like
                seen.see(tree, tree.need(to).id, entry.signature, checked, is_ours=True)
            return version

        return await self._database.run(exactly_once(intent.once, job, Version))

    async def _move_unkept(self, path: str, to: str) -> Version:
        """What the store has no room for moves in the folder only."""
        await self._mount.run(self._beneath.move, path, to)
        now = await self._mount.current(to)
        return Version(path=self._mount.shown(to), version=now.version)

    # ── into the trash ──

    async def clear(self, path: str, stamp: Stamp, once: str | None = None) -> Count:
        """How many files and folders went. Raises NotFound; Conflict, TooLarge for what would be lost."""
        async with self._mount.locks.hold(path):
            if (done := self._mount.answered(once, Count)) is not None:
                return done
            now = await self._mount.current(path)
            if now.entry is None:
                raise self._mount.missing(path)
            if now.entry.is_folder:
                await self._mount.follower.look(path, is_held=True)
            intent = Intent("clear", path, stamp, once, _beside(path))
            return await unbroken(self._clear(intent, now.entry))

    async def _clear(self, intent: Intent, entry: Entry) -> Count:
        path, aside = intent.path, intent.to
        async with self._mount.intending(intent, frees=True) as id:
            try:
                await self._mount.run(self._beneath.set_aside, path, aside.rpartition("/")[2])
                if entry.is_folder:
                    await self._check_folder(path, aside)
                else:
                    await self._check_file(path, aside)
                count = await self._record_clear(intent, id)
            except AiosError as error:
                await undone(error, put_back(self._beneath, self._mount.disk, aside, path))
                raise
        await self._mount.disk.run_long(self._beneath.remove, aside)
        return count

    async def _record_clear(self, intent: Intent, id: int) -> Count:
        def job(connection: apsw.Connection) -> Count:
            intents.drop(connection, id)
            tree = self._mount.tree(connection)
            node = tree.need(intent.path)
            count = Count(count=tree.num_below(node.id))
            seen.unsee_below(tree, node.id)
            trash.clear(tree, intent.path, intent.stamp.at)
            return count

        return await self._database.run(exactly_once(intent.once, job, Count), frees=True)

    async def _check_file(self, path: str, aside: str) -> None:
        """Whether what is set aside is what the store has. Its name has changed, and with it when it was changed."""
        entry, known = await self._mount.run(self._beneath.stat, aside), self._mount.find(path)
        sight = known.sight if known is not None else None
        if sight is None or sight.signature._replace(changed=0) != entry.signature._replace(changed=0):
            raise self._mount.not_kept(path, entry.signature.size)

    async def _check_folder(self, path: str, aside: str) -> None:
        odd = await self._mount.disk.run_long(self._beneath.odd, aside)
        if odd is not None:
            shown = self._mount.shown(f"{path}{odd[len(aside) :]}")
            raise Conflict(
                f"{shown!r} could not be brought back: it is a link, a pipe, a socket or a device, or no path can hold "
                "its name; whoever put it there can take it away",
                code="not_kept",
                param="path",
            )
        walk = self._beneath.walk(aside)
        while (batch := await self._mount.disk.run_long(next, walk, None)) is not None:
            folder = f"{path}{batch.folder[len(aside) :]}"
            if batch.is_last is None:
                raise Conflict(f"'{self._mount.shown(folder)}' cannot be read: it stays", code="not_kept", param="path")
            for entry, known in zip(batch.entries, await self._known(folder, batch), strict=True):
                if known is None or not known.looks_like(entry):
                    inside = f"{path}{entry.path[len(aside) :]}"
                    raise self._mount.not_kept(inside, entry.signature.size)

    async def _known(self, folder: str, batch: Batch) -> list[Known | None]:
        names = [entry.path.rpartition("/")[2] for entry in batch.entries]
        return await self._database.read_async(lambda c: seen.known_in(self._mount.tree(c), folder, names))

    # ── and back ──

    async def restore(self, path: str, stamp: Stamp, once: str | None = None) -> Version:
        """Raises NotFound when nothing in the trash was called that, Conflict when something is there by now."""
        async with self._mount.locks.hold(path):
            if (done := self._mount.answered(once, Version)) is not None:
                return done
            if (await self._mount.current(path)).entry is not None:
                raise self._mount.is_there(path)
            below = await self._database.read_async(partial(self._below_trashed, path))
            return await unbroken(self._restore(path, below, stamp, once))

    def _below_trashed(self, path: str, connection: apsw.Connection) -> list[Below]:
        """What comes back, folders before what is in them."""
        tree = self._mount.tree(connection)
        return _below(tree, trash.need(tree, path))

    async def _restore(self, path: str, below: list[Below], stamp: Stamp, once: str | None) -> Version:
        """Built beside its place and then renamed into it, so that half of it is never seen."""
        aside = _beside(path)
        signatures: dict[int, Signature] = {}
        try:
            for each in below:
                place = f"{aside}/{each.path}" if each.path else aside
                if each.kind == "folder":
                    await self._mount.run(self._beneath.make_folder, place)
                else:
                    signatures[each.id] = await self._write(place, each)
            inode = (await self._mount.run(self._beneath.stat, aside)).signature.inode
            intent = Intent("restore", path, stamp, once, inode=inode)
            async with self._mount.intending(intent) as id:
                try:
                    await self._mount.run(self._beneath.put_back, aside, path)
                    return await self._record_restore(intent, id, below[0].id, signatures)
                except Conflict:  # something else is there
                    raise
                except AiosError as error:
                    name = aside.rpartition("/")[2]
                    await undone(error, self._mount.run(self._beneath.set_aside, path, name))
                    raise
        except BaseException as error:
            with contextlib.suppress(AiosError):  # it was never made, or the disk is away
                await self._mount.disk.run_long(self._beneath.remove, aside)
            if isinstance(error, Changed):  # others took the folder away that it was built in
                raise self._mount.is_busy(path) from None
            raise

    async def _record_restore(self, intent: Intent, id: int, top: int, signatures: dict[int, Signature]) -> Version:
        path = intent.path
        entry = await self._mount.run(self._beneath.stat, path)
        if not entry.is_folder:  # its name has changed
            signatures[top] = entry.signature
        checked = time.time_ns()

        def job(connection: apsw.Connection) -> Version:
            intents.drop(connection, id)
            tree = self._mount.tree(connection)
            node = trash.restore(tree, path, intent.stamp.at)
            for file, signature in signatures.items():
                seen.see(tree, file, signature, checked, is_ours=True)
            return Version(path=self._mount.shown(path), version=node.version)

        return await self._database.run(exactly_once(intent.once, job, Version))

    async def _write(self, place: str, file: Below) -> Signature:
        outlet = self._mount.room.outlet
        kept = self._database.read(lambda c: versions.of(c, file.id, file.version))
        if kept is None:
            raise NotFound(
                f"'{self._mount.shown(place)}' has left the trash for good", code="not_in_trash", param="path"
            )
        with outlet.held(kept.content) as content:
            stage = await self._mount.disk.open(self._beneath.stage, place, undo=Staged.discard)
            try:
                async for block in outlet.stream(content, 0, content.size):
                    await self._mount.run(stage.write, block)
                return await self._mount.run(stage.commit, None)
            finally:
                await self._mount.discard(stage)


def _beside(path: str) -> str:
    """A name of ours in the folder that `path` is in."""
    return f"{path[: path.rfind('/') + 1]}{fresh_aside()}"


def _below(tree: Tree, node: Node) -> list[Below]:
    sql = f"{BELOW} SELECT files.id, parent, name, files.kind, version FROM below JOIN files USING (id) ORDER BY depth"
    paths = {node.id: ""}
    found = [Below("", node.id, node.kind, node.version)]
    for id, parent, name, kind, version in rows(tree.connection, sql, (node.id, tree.id)):
        if id != node.id:
            paths[id] = f"{paths[parent]}/{name}" if paths[parent] else name
            found.append(Below(paths[id], id, kind, version))
    return found

"""The mounted folders of a home: which there are, whose, and the calls on what is in them. Knows no queue, no wire."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

import apsw

from aios.abi.calls import Count, Listing, MountInfo, Stat, StoMount, StoUnmount
from aios.abi.errors import AiosError, Conflict

from ...config import ConfigError, MountSection
from ...process import Place
from ...spaces import NOBODY, Scope, Spaces
from ..base import clean_path
from . import table as mount_table
from .faults import told
from .mount import Mount, Room
from .table import MountRow
from .watch import open_watch

OPEN = 5.0
"""Seconds that a start waits for the disks of mounted folders."""
SHARED = Place(NOBODY, "")
MayUse = Callable[[Place, str], bool]
"""Whether an agent may look into the shared mount of that name."""


class Mounts:
    """All of them. Those of the configuration are there from `open` on, with those that were mounted before."""

    def __init__(self, room: Room, home: Path, spaces: Spaces, may_use: MayUse) -> None:
        self._room = room
        self._home = home
        self._spaces = spaces
        self._may_use = may_use
        self._mounts: dict[Scope, Mount] = {}
        self._late: set[asyncio.Future[Mount]] = set()

    async def open(self, sections: Iterable[MountSection] = ()) -> None:
        """Before the first call. A folder that is not there is no reason not to start; one that may not be mounted is:
        raises ConfigError."""
        rows = {row.scope: row for row in self._room.database.read(mount_table.all_rows)}
        wanted = dict(await asyncio.to_thread(lambda: [self._wanted(section, rows) for section in sections]))
        gone = [scope for scope, row in rows.items() if row.is_configured and scope not in wanted]
        changed = [row for scope, row in wanted.items() if rows.get(scope) != row]
        rows = {scope: row for scope, row in (rows | wanted).items() if scope not in gone}

        def job(connection: apsw.Connection) -> None:
            for scope in gone:
                mount_table.remove(connection, scope)
            for row in changed:
                mount_table.put(connection, row)

        if gone or changed:  # a home on a full disk is opened too, so that it can be cleared
            await self._room.database.run(job)
        looking = [asyncio.ensure_future(self._begin(row)) for row in rows.values()]
        if looking:
            _, late = await asyncio.wait(looking, timeout=OPEN)
            self._late.update(late)

    def _wanted(self, section: MountSection, rows: dict[Scope, MountRow]) -> tuple[Scope, MountRow]:
        """What the configuration asks for, taking on what is known of it."""
        owner, _, agent = (section.agent or ":").partition(":")
        scope = Scope(owner, agent, section.name)
        known = rows.get(scope)
        if section.folder is None:
            folder = known.folder if known is not None else self._fresh(section.name)
        else:
            folder = str(Path(section.folder).expanduser())
            try:
                folder = mount_table.real_folder(folder, self._home, must_be_there=False)
            except AiosError as error:
                raise ConfigError(f"[[mount]] '{section.name}': {error.message}") from None
        same = known is not None and known.folder == folder
        return scope, MountRow(scope, folder, known.identity if same and known else None, section.read_only, True,
                               known.created if known else self._room.clock.wall())  # fmt: skip

    def _fresh(self, name: str) -> str:
        """A folder of the kernel's own. Blocks shortly."""
        folder = self._home / "mounts" / f"{name}-{secrets.token_hex(4)}"
        with told(name):
            folder.mkdir(mode=0o700, parents=True)
        return str(folder.relative_to(self._home))

    def _place(self, row: MountRow) -> str:
        """Where the folder is: one of the kernel's own, in its home, wherever that is now."""
        return row.folder if row.folder.startswith("/") else str(self._home.resolve() / row.folder)

    async def _begin(self, row: MountRow) -> Mount:
        if self._room.watch is None:
            self._room = self._room._replace(watch=open_watch())
        mount = self._mounts[row.scope] = Mount(row, self._room, self._place(row))
        self._spaces.add_mount(Place(*row.scope[:2]), row.scope.mount)
        await mount.open()
        return mount

    async def close(self) -> None:
        for late in self._late:
            late.cancel()
        for mount in self._mounts.values():
            await mount.close()
        if self._room.watch is not None:
            self._room.watch.close()

    # ── calls ──

    async def mount(self, caller: Place, args: StoMount) -> MountInfo:
        """Raises Conflict, Denied, BadRequest, NotFound."""
        scope = _scope(caller, args)
        known = self._mounts.get(scope)
        if args.folder is not None:
            folder = await asyncio.to_thread(mount_table.real_folder, args.folder, self._home)
        elif known is not None and not known.row.folder.startswith("/"):
            folder = known.row.folder
        else:
            folder = await asyncio.to_thread(self._fresh, args.name)
        row = MountRow(scope, folder, None, args.is_read_only, False, self._room.clock.wall())
        if known is not None and known.row._replace(identity=None, created=row.created) == row:
            return self._info(known, with_folder=True)  # it was done before, by this call or another

        def job(connection: apsw.Connection) -> None:
            mount_table.check_free(connection, scope)
            mount_table.put(connection, row)

        await self._room.database.run(job)
        return self._info(await self._begin(row), with_folder=True)

    async def unmount(self, caller: Place, args: StoUnmount) -> Count:
        scope = _scope(caller, args)
        mount = self._mounts.get(scope)
        if mount is None:
            raise mount_table.no_such_mount(scope)
        if mount.row.is_configured:
            raise Conflict(
                f"the mount '{args.name}' is one of the configuration: take its [[mount]] out of it, and start again",
                code="mount_is_configured",
                param="name",
            )
        async with mount.locks.hold(""):
            await self._room.database.run(lambda c: mount_table.remove(c, scope))
            self._spaces.drop_mount(Place(*scope[:2]), scope.mount)
            del self._mounts[scope]
            await mount.close()
        return Count(count=1)

    def find(self, scope: Scope) -> Mount:
        """Raises NotFound for one that was unmounted meanwhile."""
        mount = self._mounts.get(scope)
        if mount is None:
            raise mount_table.no_such_mount(scope)
        return mount

    # ── looking ──

    def infos(self, caller: Place, *, is_admin: bool) -> list[MountInfo]:
        """All of them for an admin, those that an agent may look into for others, who are not told where they are."""
        seen = self._mounts.values() if is_admin else self._of(caller)
        return [self._info(mount, with_folder=is_admin) for mount in sorted(seen, key=lambda mount: mount.scope.mount)]

    def stats(self, caller: Place, *, is_admin: bool = False) -> list[Stat]:
        """What stands at the top of the caller's paths, beside its own files."""
        seen = {mount.scope.mount: mount for mount in self._of(caller, is_admin=is_admin)}
        return [
            Stat(path=name, kind="mount", size=0, version=0, modified=seen[name].row.created) for name in sorted(seen)
        ]

    def _of(self, caller: Place, *, is_admin: bool = False) -> list[Mount]:
        """Those whose names lead an agent into them."""
        own = {mount.scope.mount: mount for mount in self._mounts.values() if mount.scope[:2] == caller}
        shared = {
            mount.scope.mount: mount
            for mount in self._mounts.values()
            if mount.scope.owner == NOBODY and (is_admin or self._may_use(caller, mount.scope.mount))
        }
        return list((shared | own).values())

    def _info(self, mount: Mount, *, with_folder: bool) -> MountInfo:
        progress, row = mount.follower.progress, mount.row
        return MountInfo(
            name=row.scope.mount,
            agent=row.scope.agent or None,
            folder=mount.folder if with_folder else None,
            is_read_only=row.is_read_only,
            is_configured=row.is_configured,
            why_gone=mount.why_gone,
            is_looking=progress.is_looking,
            seen=progress.num_seen,
            not_kept=progress.num_unkept,
            is_watched=progress.is_watched,
        )


def with_mounts(own: Listing, mounts: list[Stat], after: str, limit: int) -> Listing:
    """A page of the top of an agent's paths: its own files that come after `after`, and mounts among them."""
    shown = [each for each in mounts if each.path > after]
    if own.has_more and own.entries:
        shown = [each for each in shown if each.path < own.entries[-1].path]
    entries = sorted([*own.entries, *shown], key=lambda each: each.path)
    return Listing(entries=entries[:limit], has_more=own.has_more or len(entries) > limit)


def _scope(caller: Place, args: StoMount | StoUnmount) -> Scope:
    clean_path(args.name)
    return Scope(*SHARED, args.name) if args.agent is None else Scope(caller.owner, args.agent, args.name)

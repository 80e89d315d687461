"""One mounted folder, while it is mounted: whether it is there, what of it the store has, and who is at what.

What calls do there is in `reads.py`, `writes.py` and `moves.py`. Used on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import NamedTuple, TypeVar

import apsw

from aios.abi.errors import AiosError, BadRequest, Conflict, Denied, Full, NotFound, Stopping, TooLarge

from ...clock import Clock, Timer
from ...database import Database, answered
from ...spaces import Scope
from ..intake import Intake
from ..outlet import Outlet
from ..quota import VERSION_BYTES, Quota
from ..tree import Tree
from . import intents, seen
from . import table as mount_table
from .beneath import Beneath, Entry
from .cut_short import UNFINISHED, CutShort
from .disk import Disk
from .faults import Gone
from .follow import Follower
from .intents import Intent
from .locks import PathLocks
from .naming import check_names, is_ours
from .notice import Notice
from .seen import Known
from .staged import Staged
from .table import MountRow
from .watch import Watch

log = logging.getLogger("aios.storage")

LOOK = 10.0
"""Seconds after which it is looked whether the folder is there, is gone, or is back."""
MAX_CALLS = 128
"""Calls at one mount: a slow disk must not hold up all others' files."""
T = TypeVar("T")


class Room(NamedTuple):
    """What the mounts have of the storage room. `heard` is told where others have changed something."""

    database: Database
    intake: Intake
    outlet: Outlet
    quota: Quota
    clock: Clock
    heard: Callable[[Scope], None]
    watch: Watch | None


class Current(NamedTuple):
    """What is at a path: in the folder, and in the store. `is_kept`: they are the same, so that nothing is lost when it
    is replaced."""

    entry: Entry | None
    known: Known | None

    @property
    def is_kept(self) -> bool:
        if self.entry is None or self.known is None:
            return self.entry is None
        return self.known.looks_like(self.entry)

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to tell the store."""
        if self.entry is None or self.known is None:
            return self.entry is None and self.known is None
        return self.known.is_surely(self.entry)

    @property
    def version(self) -> int:
        """Of what is in the folder; 0 when that is none."""
        return self.known.node.version if self.known is not None and self.is_kept else 0


class Mount:
    """Made when it is mounted, or at the start. `open` begins to follow the folder."""

    def __init__(self, row: MountRow, room: Room, folder: str) -> None:
        self.row = row
        self.folder = folder
        self.scope = row.scope
        self.room = room
        self.locks = PathLocks()
        self.disk = Disk()
        self.beneath = Beneath(folder, row.scope.mount, durable=room.database.is_durable)
        self.beneath.identity = row.identity
        self.notice = Notice(
            self.scope, self.beneath, self.disk, room.database, room.intake, room.quota, room.clock, room.heard
        )
        self.follower = Follower(
            self.scope, self.beneath, self.disk, room.database, self.notice, self.locks, room.clock, room.watch,
            self.lose,
        )  # fmt: skip
        self._cut_short = CutShort(
            self.scope, self.beneath, self.disk, room.database, room.intake, room.quota, self.locks
        )
        self.why_gone: str | None = "it was not looked for yet"
        self._num_calls = 0
        self._timer: Timer | None = None
        self._looking: asyncio.Task[None] | None = None

    # ── being there ──

    async def open(self) -> None:
        """Look for the folder, and follow it if it is there."""
        try:
            await self.present()
        except Stopping as error:
            log.warning("%s", error)
        self._timer = self.room.clock.call_later(LOOK, self._tick)

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
        await self.follower.close()
        self.disk.close()

    async def present(self) -> None:
        """Return if the folder is there, as far as is known. Raises Stopping that says why not."""
        if self.why_gone is not None:
            try:
                await self._look()
            except Gone as error:
                self.lose(error)
                raise self.gone() from None

    async def _look(self) -> None:
        """See whether the folder is there, and is the one that is meant. Raises Gone."""
        found = await self.disk.run(self.beneath.look)
        if found != self.beneath.identity:
            if self.beneath.identity is not None:
                await self._check_new()
            self.beneath.identity = found
            self.row = self.row._replace(identity=found)
            await self.room.database.run(lambda c: mount_table.put(c, self.row))
        elif self.why_gone is None:
            return
        await self._cut_short.finish()
        self.why_gone = None
        self.follower.look_whole()

    async def _check_new(self) -> None:
        """Another folder than before is there. One that is empty is most likely where a disk is to be mounted, and to
        take it for the folder would be to take all its files for deleted. Raises Gone."""
        is_used = self.room.database.read(lambda c: mount_table.is_used(c, self.scope))
        if is_used and await self.disk.run(self.beneath.is_empty):
            raise Gone.because("an empty folder is in its place; if that is meant, unmount it and mount it again")

    def lose(self, error: Gone) -> None:
        """The folder is not there. Nothing of it is deleted by that."""
        if self.why_gone is None:
            log.warning("the folder %s of the mount '%s' is gone: %s", self.folder, self.scope.mount, error.why)
        self.why_gone = error.why
        self.follower.rest()

    def gone(self) -> Stopping:
        """What calls are told, without a path of the machine."""
        return Stopping(
            f"the folder of the mount '{self.scope.mount}' is not there ({self.why_gone}): none of its files are "
            "deleted by that, older versions can be read, and it is used again when it is back",
            code="mount_gone",
            retry_after=30,
        )

    def _tick(self) -> None:
        self._timer = self.room.clock.call_later(LOOK, self._tick)
        if self._looking is None or self._looking.done():  # a disk may not answer
            self._looking = asyncio.get_running_loop().create_task(self._look_again())
        if self.why_gone is None:
            self.follower.look_whole_if_due()

    async def _look_again(self) -> None:
        try:
            await self._look()
        except Gone as error:
            self.lose(error)
        except AiosError as error:
            log.warning("the mount '%s': %s", self.scope.mount, error)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """A call is at the mount. Raises Full when too many are."""
        if self._num_calls >= MAX_CALLS:
            raise Full(
                f"{MAX_CALLS} calls are at the mount '{self.scope.mount}'; try again",
                code="mount_is_busy",
                retry_after=1.0,
            )
        self._num_calls += 1
        try:
            yield
        finally:
            self._num_calls -= 1

    # ── what is where ──

    async def run(self, work: Callable[..., T], *args: object) -> T:
        """Something that may block, in a thread of this mount."""
        return await self.disk.run(work, *args)

    @contextlib.asynccontextmanager
    async def intending(self, intent: Intent, *, frees: bool = False) -> AsyncIterator[int]:
        """On record while the folder is changed. Who records the change drops it in the same job, by this number. Who
        fails has undone it, unless the folder was lost: then that is for when it is back."""
        id = await self.room.database.run(lambda c: intents.add(c, self.scope, intent), frees=frees)
        try:
            yield id
        except Gone:
            raise
        except BaseException:
            try:
                await self.room.database.run(lambda c: intents.drop(c, id), frees=True)
            except AiosError:  # and who knows whether it could be undone: that is found out before anything is noted
                self.lose(Gone.because(UNFINISHED))
            raise

    async def discard(self, stage: Staged) -> None:
        """Leave nothing of it behind, at once if the disk answers."""
        try:
            await self.run(stage.discard)
        except Gone:
            self.disk.later(stage.discard)

    def tree(self, connection: apsw.Connection) -> Tree:
        return Tree(connection, self.scope, self.room.quota)

    def find(self, path: str) -> Known | None:
        """What the store has at `path`."""
        return self.room.database.read(lambda c: seen.known(self.tree(c), path))

    async def current(self, path: str) -> Current:
        """What is at `path` now, after the store has been told. The caller holds it."""
        now = Current(await self.run(self.beneath.find, path), self.find(path))
        stale = self._files_above(path) if now.known is None else []
        if now.is_settled and not stale:
            return now
        await self.notice.note([*stale, path])
        return Current(await self.run(self.beneath.find, path), self.find(path))

    def _files_above(self, path: str) -> list[str]:
        return self.room.database.read(lambda c: seen.files_above(self.tree(c), path))

    def answered(self, once: str | None, kind: type[T]) -> T | None:
        """What a call said before a crash, if all that it did was done."""
        return None if once is None else self.room.database.read(lambda c: answered(c, once, kind))

    def why_no_room(self, entries: int, size: int) -> str | None:
        """Why a file of `size` bytes could not have one more version, in so many new entries; None if it could."""
        most = self.room.intake.max_file
        if size > most:
            return f"files of more than {most:,} bytes have no versions ([storage] max_file)"
        try:
            self.room.database.read(lambda c: self.room.quota.check(c, self.scope.payer, entries, size + VERSION_BYTES))
        except TooLarge as error:
            return error.message
        return None

    # ── refusing ──

    def shown(self, path: str) -> str:
        return self.scope.shown(path)

    def check(self, path: str, *, writes: bool) -> None:
        """Raises BadRequest, or Denied for a change of what may only be read."""
        check_names(path)
        if is_ours(path):
            raise BadRequest(
                f"'{self.shown(path)[:200]}' has a name that the kernel keeps for itself: choose another",
                code="bad_path",
                param="path",
            )
        if writes and self.row.is_read_only:
            raise Denied(f"the mount '{self.scope.mount}' can only be read", code="mount_is_read_only", param="path")
        if writes and not path:
            raise BadRequest(
                f"'{self.scope.mount}' is a mount, which stays as it is: name something in it", code="is_a_mount",
                param="path",
            )  # fmt: skip

    def missing(self, path: str) -> NotFound:
        return NotFound(
            f"there is no file or folder '{self.shown(path)[:200]}'; sto_list shows what is there",
            code="no_such_path",
            param="path",
        )

    def is_there(self, path: str, param: str = "path") -> Conflict:
        return Conflict(f"something is at '{self.shown(path)}' already", code="path_exists", param=param)

    def not_kept(self, path: str, size: int) -> TooLarge | Conflict:
        """Why what is at `path` stays as it is: the store does not have it."""
        why = self.why_no_room(1, size)
        if why is None:
            return self.is_busy(path)
        return TooLarge(
            f"'{self.shown(path)}' was written by others and is no version, so that this could not be undone: {why}",
            code="not_kept",
            param="path",
        )

    def is_busy(self, path: str) -> Conflict:
        return Conflict(
            f"'{self.shown(path)}' is being changed by others in this moment: try again",
            code="changed_meanwhile",
            param="path",
        )

"""What the rooms use: write in groups, read at once or aside, open and close a home. Knows no table.

A write that makes room says so (`frees`): it is carried out on a full disk too.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar, cast

import apsw

from aios.abi.errors import AiosError, KernelFault

from .answers import running_loop, tell
from .fault import page_faults
from .fold import FOLD_PAGES, Folder
from .health import FULL, SPOILS_GROUP, Health, closed
from .home import HomeError, HomeLock, make_home
from .query import Job
from .readers import SlowReads
from .reserve import Reserve
from .schema import MIGRATIONS, migrate
from .writer import Item, Writer, rewrite_first_page

T = TypeVar("T")


class Database:
    """Made by `open`. `submit`, `run`, `read` and `close` may be called from any thread."""

    def __init__(self, path: Path, lock: HomeLock, *, durable: bool, vfs: str | None) -> None:
        self.path = path
        self.is_durable = durable
        self._lock = lock
        self._vfs = vfs
        self._health = Health(path, is_durable=durable)
        self._reserve = Reserve(path.with_name("reserve"))
        self._closing = threading.Lock()
        self._slow_reads = SlowReads(lambda: self._connection("OFF", writes=False))

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        durable: bool = False,
        migrations: Sequence[str] = MIGRATIONS,
        vfs: str | None = None,
    ) -> Database:
        """Lock the home of `path`, bring its file to the newest version and start the writer. Raises HomeError."""
        make_home(path)
        if (path.parent / "restoring").exists():
            raise HomeError(
                f"{path.parent} is half restored: 'aios fs restore' was cut off there; run it again, or move back what "
                "lies in its folder before-restore-… and remove the file 'restoring'",
                code="home_half_restored",
            )
        with contextlib.ExitStack() as undo:
            lock = HomeLock.take(path.parent)
            undo.callback(lock.free)
            self = cls(path, lock, durable=durable, vfs=vfs)
            try:
                self._connect(migrations)
            except (apsw.Error, OSError) as error:
                raise _not_opened(path, error) from None
            undo.pop_all()
        return self

    def _connect(self, migrations: Sequence[str]) -> None:
        synchronous = "FULL" if self.is_durable else "NORMAL"
        self._reserve.take()
        try:
            writing = self._migrated(synchronous, migrations)
        except FULL:
            # A home must open on a full disk too, or nothing could be cleared.
            self._reserve.release()
            writing = self._migrated(synchronous, migrations)
        self._health.is_full = not self._reserve.is_held
        self._writer = Writer(writing, self._health, self._reserve)
        self._folder = Folder(self._connection(synchronous), self._health)
        writing.set_wal_hook(self._folder.watch)
        self._reader = self._connection("OFF", writes=False)
        self._writer.start()
        self._folder.start()

    def _migrated(self, synchronous: str, migrations: Sequence[str]) -> apsw.Connection:
        connection = self._connection(synchronous)
        migrate(connection, self.path, migrations)
        return connection

    def _connection(self, synchronous: str, *, writes: bool = True) -> apsw.Connection:
        connection = apsw.Connection(os.fspath(self.path), vfs=self._vfs)
        connection.set_busy_timeout(60_000)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-8000")
        connection.execute(f"PRAGMA wal_autocheckpoint=0; PRAGMA journal_size_limit={FOLD_PAGES * 4096}")
        if not writes:
            connection.execute("PRAGMA query_only=1")
        return connection

    # ── for the rooms ──

    def submit(
        self, job: Job[T], then: Callable[[T | None, AiosError | None], None] | None = None, *, frees: bool = False
    ) -> None:
        """Queue `job` for the next group. `then(value, error)` is called on the running event loop once the group is
        committed, in the order of the submits; without a running loop it is called on the writer's thread. After
        `close` it hears that at once."""
        item = Item(job, then, None if then is None else running_loop(), frees)
        if not self._writer.put(item):
            tell(item.loop, [(then, None, closed())])

    async def run(self, job: Job[T], *, frees: bool = False, after: Callable[[T], None] | None = None) -> T:
        """`job`'s value, once it is committed. A cancelled wait does not undo the job; `after` hears of its value
        before anybody else, in the order of the commits, though nobody waits any more."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def then(value: T | None, error: AiosError | None) -> None:
            if not future.done():
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(cast("T", value))
            if error is None and after is not None:
                after(cast("T", value))

        self.submit(job, then, frees=frees)
        return await future

    def run_now(self, job: Job[T]) -> T:
        """`job`'s value, once it is committed; blocks the thread. For boot, shut-down and commands."""
        answers: SimpleQueue[tuple[T | None, AiosError | None]] = SimpleQueue()
        if not self._writer.put(Item(job, lambda value, error: answers.put((value, error)), None)):
            raise closed()
        value, error = answers.get()
        if error is not None:
            raise error
        return cast("T", value)

    def read(self, job: Job[T]) -> T:
        """`job`'s value, at once, in this thread. Sees what is committed. For short reads on the event loop."""
        return self._read(self._reader, job)

    async def read_async(self, job: Job[T], whose: Hashable = None) -> T:
        """As `read`, in one of a few threads, which those for whom it is done have in turn: the kernel itself is one.
        For reads that may take longer than a millisecond. When the wait is cancelled, what SQLite is doing for it is
        interrupted."""
        return await self._slow_reads.run(lambda connection: self._read(connection, job), whose)

    def _read(self, connection: apsw.Connection, job: Job[T]) -> T:
        try:
            return job(connection)
        except (apsw.ConnectionClosedError, apsw.InterruptError):
            raise closed() from None
        except SPOILS_GROUP as error:
            raise self._health.unusable(error) from None

    def close(self) -> None:
        """Commit what waits, fold the log, free the home. Later jobs are refused. A second call waits for the first."""
        with self._closing:
            if not self._health.is_closed:
                self._health.is_closed = True
                self._close()

    def _close(self) -> None:
        self._writer.stop()
        self._folder.stop()
        self._slow_reads.close()
        self._reader.close()
        self._writer.close()
        self._lock.free()

    # ── looking ──

    @property
    def can_write(self) -> bool:
        """Whether a write would be taken now: False while the disk is full, and for good after a failed fsync."""
        return self._health.can_write

    async def try_write(self) -> None:
        """Write something, though it changes nothing. Raises what keeps the store from being written."""
        await self.run(rewrite_first_page)

    def check_integrity(self) -> None:
        """Raises KernelFault with what SQLite finds wrong."""
        if found := self.read(lambda c: page_faults(c, 10)):
            raise KernelFault(f"{self.path} is damaged: {'; '.join(found)}")

    def statistics(self) -> dict[str, Any]:
        return {
            "mode": "durable" if self.is_durable else "fast",
            "can_write": self.can_write,
            "groups": self._writer.num_groups,
            "jobs": self._writer.num_jobs,
            "waiting": self._writer.num_waiting(),
            "log_pages": self._folder.num_pages,
            "is_full": self._health.is_full,
            "is_poisoned": self._health.poison is not None,
        }


def _not_opened(path: Path, error: apsw.Error | OSError) -> HomeError:
    if isinstance(error, apsw.FullError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return HomeError(f"{path} cannot be opened: the disk that holds it is full; free some space there first")
    if isinstance(error, OSError):
        return HomeError(
            f"{path} cannot be opened ({error.strerror or error}): make {error.filename or path.parent} writable, or "
            "name another home"
        )
    how = "'aios fs restore' puts a backup in its place; or move it away, or name another home"
    return HomeError(f"{path} cannot be opened: {error}; {how}")

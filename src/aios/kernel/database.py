"""The one SQLite file of a home: one writer thread, group commit, readers beside it. Knows no table but by its script.

    submit(job, then) ──▶ [jobs waiting] ──▶ writer thread: BEGIN · all of them · COMMIT ──▶ every `then`, one wake-up

A group is what came while the last one was committed, so nobody waits for a timer and a busy kernel commits seldom.
In `fast` mode a commit reaches the operating system (kill -9 loses nothing) and waits for no fsync; the log is folded
into the file by a thread of its own, which is also where fast mode syncs. In `durable` mode each group is one fsync.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

import apsw
import msgspec

from aios.abi.errors import AiosError, KernelFault, Stopping

log = logging.getLogger("aios.database")

T = TypeVar("T")
Job = Callable[[apsw.Connection], T]
"""Reads and writes through the connection it is given. May be run twice (its group was rolled back), so it changes
nothing else; never commits, never waits."""
Then = Callable[[Any, AiosError | None], None]

MAX_GROUP = 4096
NUM_SLOW_READERS = 3
"""Reads that take long at the same time; one that scans must not hold up all others."""
CHECKPOINT_PAGES = 4_000
"""Pages in the log before it is folded into the file (16 MiB)."""
TRUNCATE_PAGES = 32_000
"""Pages after which writers wait for the folding to catch up, so that the log stays bounded."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE effects(call TEXT PRIMARY KEY, result BLOB NOT NULL) WITHOUT ROWID;

    CREATE TABLE log(seq INTEGER PRIMARY KEY, events BLOB NOT NULL);
    CREATE TABLE calls(
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, agent TEXT NOT NULL, key TEXT NOT NULL, name TEXT NOT NULL,
        pid INTEGER NOT NULL, nice INTEGER NOT NULL, opened REAL NOT NULL, is_begun INTEGER NOT NULL DEFAULT 0,
        state TEXT, ended REAL, size INTEGER NOT NULL, body_hash BLOB NOT NULL, tip BLOB,
        args BLOB NOT NULL, result BLOB, error BLOB) WITHOUT ROWID;
    CREATE UNIQUE INDEX calls_by_key ON calls(owner, agent, key);
    CREATE INDEX calls_by_age ON calls(ended, size);
    CREATE TABLE nodes(
        hash BLOB PRIMARY KEY, parent BLOB, used REAL NOT NULL, size INTEGER NOT NULL, body BLOB NOT NULL);
    CREATE INDEX nodes_by_age ON nodes(used, size);
    CREATE TABLE processes(
        pid INTEGER PRIMARY KEY, agent TEXT NOT NULL, owner TEXT NOT NULL, parent INTEGER, nice INTEGER NOT NULL,
        command TEXT, started REAL NOT NULL);

    CREATE TABLE keys(
        hash BLOB PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, agent TEXT NOT NULL, pid INTEGER,
        is_admin INTEGER NOT NULL, name TEXT NOT NULL, created REAL NOT NULL) WITHOUT ROWID;

    CREATE TABLE entries(
        row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, agent TEXT NOT NULL, kind TEXT NOT NULL,
        created REAL NOT NULL, content TEXT NOT NULL, metadata BLOB NOT NULL);
    CREATE INDEX entries_by_agent ON entries(owner, agent, id);
    CREATE VIRTUAL TABLE entries_text USING fts5(
        scope, content, content='', contentless_delete=1, tokenize='porter unicode61 remove_diacritics 2');

    CREATE TABLE files(
        id INTEGER PRIMARY KEY, owner TEXT NOT NULL, agent TEXT NOT NULL, path TEXT NOT NULL, parent TEXT NOT NULL,
        kind TEXT NOT NULL, size INTEGER NOT NULL, version INTEGER NOT NULL, modified REAL NOT NULL, trashed REAL);
    CREATE UNIQUE INDEX files_by_path ON files(owner, agent, path) WHERE trashed IS NULL;
    CREATE INDEX files_by_parent ON files(owner, agent, parent) WHERE trashed IS NULL;
    CREATE TABLE versions(
        file INTEGER NOT NULL, version INTEGER NOT NULL, hash BLOB NOT NULL, size INTEGER NOT NULL,
        created REAL NOT NULL, PRIMARY KEY(file, version)) WITHOUT ROWID;
    CREATE TABLE contents(hash BLOB PRIMARY KEY, size INTEGER NOT NULL, body BLOB);
    """,
    """
    CREATE TABLE kept(
        room TEXT NOT NULL, owner TEXT NOT NULL, agent TEXT NOT NULL, entries INTEGER NOT NULL, bytes INTEGER NOT NULL,
        PRIMARY KEY(room, owner, agent)) WITHOUT ROWID;
    INSERT INTO kept SELECT 'memory', owner, agent, count(*), sum(octet_length(content) + octet_length(metadata))
        FROM entries GROUP BY owner, agent;
    INSERT INTO kept SELECT 'storage', owner, agent, count(DISTINCT id), coalesce(sum(versions.size + 100), 0)
        FROM files LEFT JOIN versions ON file = id GROUP BY owner, agent;
    CREATE INDEX versions_by_hash ON versions(hash);
    CREATE INDEX files_in_trash ON files(owner, agent, trashed) WHERE trashed IS NOT NULL;
    """,
)
"""Script n brings a home of version n to n + 1. Never edit one that was released: add the next."""


class HomeError(AiosError):
    """The home cannot be used: one sentence that says why and what to do."""

    status, fault, type, default_code = 500, "kernel", "server_error", "home_unusable"


class _Item(NamedTuple):
    job: Job[Any]
    then: Then | None
    loop: asyncio.AbstractEventLoop | None


_SPOILS_GROUP = (
    apsw.FullError, apsw.IOError, apsw.CorruptError, apsw.NotADBError, apsw.ReadOnlyError, apsw.CantOpenError,
    apsw.NoMemError, apsw.BusyError, apsw.LockedError, apsw.ProtocolError, apsw.PermissionsError,
)  # fmt: skip
"""Faults of the store, not of a job: nothing of the group was written."""

_BUGS = (
    apsw.Error, ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError,
    ValueError, msgspec.MsgspecError,
)  # fmt: skip
"""What a faulty job may raise. It becomes that job's KernelFault; the others of its group are committed."""


class Database:
    """Made by `open`. `submit`, `run`, `read` and `close` may be called from any thread."""

    def __init__(self, path: Path, lock: HomeLock, *, durable: bool, vfs: str | None) -> None:
        self.path = path
        self.is_durable = durable
        self.num_groups = self.num_jobs = 0
        self._lock = lock
        self._vfs = vfs
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._poison: str | None = None
        self._is_full = False
        self._is_closed = False
        self._wal_pages = 0
        self._slow_reads = _SlowReads(lambda: self._connection("OFF", writes=False))
        self._fold = threading.Event()
        self._threads: list[threading.Thread] = []

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
        _make_home(path)
        lock = HomeLock.take(path.parent)
        try:
            self = cls(path, lock, durable=durable, vfs=vfs)
            self._connect(migrations)
        except apsw.Error as error:
            lock.free()
            raise HomeError(f"{path} cannot be opened: {error}; move it away, or name another home") from None
        except HomeError:
            lock.free()
            raise
        return self

    def _connect(self, migrations: Sequence[str]) -> None:
        self._writer = self._connection("FULL" if self.is_durable else "NORMAL")
        migrate(self._writer, self.path, migrations)
        self._writer.set_wal_hook(self._on_commit)
        self._folder = self._connection("FULL" if self.is_durable else "NORMAL")
        self._reader = self._connection("OFF", writes=False)
        for target in (self._write, self._fold_log):
            thread = threading.Thread(target=target, name=f"aios{target.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _connection(self, synchronous: str, *, writes: bool = True) -> apsw.Connection:
        connection = apsw.Connection(os.fspath(self.path), vfs=self._vfs)
        connection.set_busy_timeout(60_000)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-8000")
        connection.execute(f"PRAGMA wal_autocheckpoint=0; PRAGMA journal_size_limit={CHECKPOINT_PAGES * 4096}")
        if not writes:
            connection.execute("PRAGMA query_only=1")
        return connection

    # ── for the rooms ──

    def submit(self, job: Job[T], then: Callable[[T | None, AiosError | None], None] | None = None) -> None:
        """Queue `job` for the next group. `then(value, error)` is called on the running event loop once the group is
        committed, in the order of the submits; without a running loop it is called on the writer's thread."""
        loop = None
        if then is not None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                loop = None
        if self._is_closed:
            _answer(loop, [(then, None, _closed())])
        else:
            self._queue.put(_Item(job, then, loop))

    async def run(self, job: Job[T]) -> T:
        """`job`'s value, once it is committed. A cancelled wait does not undo the job."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def then(value: T | None, error: AiosError | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)  # type: ignore[arg-type]

        self.submit(job, then)
        return await future

    def run_now(self, job: Job[T]) -> T:
        """`job`'s value, once it is committed; blocks the thread. For boot, shut-down and commands."""
        if self._is_closed:
            raise _closed()
        answers: SimpleQueue[tuple[T | None, AiosError | None]] = SimpleQueue()
        self._queue.put(_Item(job, lambda value, error: answers.put((value, error)), None))
        value, error = answers.get()
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def read(self, job: Job[T]) -> T:
        """`job`'s value, at once, in this thread. Sees what is committed. For short reads on the event loop."""
        return self._read(self._reader, job)

    async def read_async(self, job: Job[T]) -> T:
        """As `read`, in one of a few threads. For reads that may take longer than a millisecond. When the wait is
        cancelled, what SQLite is doing for it is interrupted."""
        return await self._slow_reads.run(lambda connection: self._read(connection, job))

    def _read(self, connection: apsw.Connection, job: Job[T]) -> T:
        try:
            return job(connection)
        except (apsw.ConnectionClosedError, apsw.InterruptError):
            raise _closed() from None
        except _SPOILS_GROUP as error:
            raise self._refusal(error) from None

    def close(self) -> None:
        """Commit what waits, fold the log, free the home. Later jobs are refused."""
        if self._is_closed:
            return
        self._is_closed = True
        self._queue.put(None)
        self._threads[0].join()
        self._fold.set()
        self._threads[1].join()
        self._slow_reads.close()
        for connection in (self._reader, self._folder, self._writer):
            connection.close()
        self._lock.free()

    def check_integrity(self) -> None:
        """Raises KernelFault with what SQLite finds wrong."""
        found = [str(text) for (text,) in self.read(lambda c: rows(c, "PRAGMA integrity_check(10)"))]
        if found != ["ok"]:
            raise KernelFault(f"{self.path} is damaged: {'; '.join(found)}")

    @property
    def can_write(self) -> bool:
        """Whether a write would be taken now: False while the disk is full, and for good after a failed fsync."""
        return not (self._is_full or self._is_closed or self._poison is not None)

    def statistics(self) -> dict[str, Any]:
        return {
            "mode": "durable" if self.is_durable else "fast",
            "can_write": self.can_write,
            "groups": self.num_groups,
            "jobs": self.num_jobs,
            "waiting": self._queue.qsize(),
            "log_pages": self._wal_pages,
            "is_full": self._is_full,
            "is_poisoned": self._poison is not None,
        }

    # ── the writer's thread ──

    def _write(self) -> None:
        """Until `close`. However it ends, nobody is left without an answer."""
        group: list[_Item] = []
        is_last = False
        try:
            while not is_last:
                group, is_last = self._next_group()
                outcomes = self._commit(group) if group else []
                told, group = group, []
                self._tell(told, outcomes)
        finally:
            if (error := sys.exc_info()[1]) is not None:
                log.critical("the writer of %s ended", self.path, exc_info=True)
                self._poison = f"the writer of the kernel's store ended ({type(error).__name__}: {error})"
                self._refuse(group, is_last)

    def _next_group(self) -> tuple[list[_Item], bool]:
        """Waits for an item; it and what else waits. True when the store was closed after them."""
        group: list[_Item] = []
        while not group or (len(group) < MAX_GROUP and self._queue.qsize()):
            item = self._queue.get()
            if item is None:
                return group, True
            group.append(item)
        return group, False

    def _refuse(self, group: list[_Item], is_last: bool) -> None:
        """Answer `group`, and all that comes until `close`, with what poisoned the store."""
        while True:
            self._tell(group, [(None, self._poisoned())] * len(group))
            if is_last:
                return
            group, is_last = self._next_group()

    def _commit(self, group: list[_Item]) -> list[tuple[Any, AiosError | None]]:
        if self._poison is not None:
            return [(None, self._poisoned())] * len(group)
        try:
            outcomes = self._transaction(group)
        except _SPOILS_GROUP as error:
            refusal = self._refusal(error)
            return [(None, refusal)] * len(group)
        except MemoryError:
            log.exception("no memory to write %s", self.path)
            refusal = Stopping(
                "the kernel has no memory left to record this: nothing was recorded; try again with less",
                code="storage_failed",
                retry_after=5.0,
            )
            return [(None, refusal)] * len(group)
        self._is_full = False
        self.num_groups += 1
        self.num_jobs += len(group)
        return outcomes

    def _transaction(self, group: list[_Item]) -> list[tuple[Any, AiosError | None]]:
        connection = self._writer
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = self._together(group)
            if outcomes is None:
                connection.execute("ROLLBACK; BEGIN IMMEDIATE")
                outcomes = [self._apart(item.job) for item in group]
            connection.execute("COMMIT")
            return outcomes
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _together(self, group: list[_Item]) -> list[tuple[Any, AiosError | None]] | None:
        """Each job's outcome; None when one failed after it had written, so that all must be done again."""
        outcomes: list[tuple[Any, AiosError | None]] = []
        for item in group:
            before = self._writer.total_changes()
            try:
                outcomes.append((item.job(self._writer), None))
            except AiosError as error:
                if self._writer.total_changes() != before:
                    return None
                outcomes.append((None, error))
            except _SPOILS_GROUP:
                raise
            except _BUGS:
                return None
        return outcomes

    def _apart(self, job: Job[Any]) -> tuple[Any, AiosError | None]:
        """The outcome of a job inside a savepoint of its own."""
        self._writer.execute("SAVEPOINT job")
        try:
            value, fault = job(self._writer), None
        except AiosError as error:
            value, fault = None, error
        except _SPOILS_GROUP:
            raise
        except _BUGS as error:
            log.exception("a job of the store failed")
            value, fault = None, KernelFault(f"the store could not carry this out: {type(error).__name__}: {error}")
        self._writer.execute("RELEASE job" if fault is None else "ROLLBACK TO job; RELEASE job")
        return value, fault

    def _tell(self, group: list[_Item], outcomes: list[tuple[Any, AiosError | None]]) -> None:
        """One wake-up of each loop for all answers of the group."""
        answers: dict[asyncio.AbstractEventLoop | None, list[_Answer]] = {}
        for item, (value, error) in zip(group, outcomes, strict=True):
            if item.then is not None:
                answers.setdefault(item.loop, []).append((item.then, value, error))
        for loop, batch in answers.items():
            _answer(loop, batch)

    def _refusal(self, error: apsw.Error) -> AiosError:
        if _is_failed_sync(error) and self.is_durable:
            # What the disk holds is unknown from now on: a second fsync may report success for pages it dropped.
            self._poison = _failed_sync(error)
            log.critical("an fsync of %s failed: nothing more is acknowledged", self.path)
            return self._poisoned()
        if isinstance(error, apsw.FullError | apsw.IOError):
            self._is_full = True
            log.error("%s cannot be written: %s", self.path, error)
            return Stopping(
                f"the disk that holds {self.path.parent} is full or fails ({error}): nothing was recorded; free some "
                "space and try again",
                code="storage_full",
                retry_after=5.0,
            )
        log.error("%s cannot be used: %s", self.path, error)
        return Stopping(f"the kernel's store cannot be used ({error}): nothing was recorded", code="storage_failed")

    def _poisoned(self) -> AiosError:
        return Stopping(
            f"{self._poison}: nothing more is accepted until the kernel is restarted on a disk that works",
            code="storage_failed",
        )

    # ── the folder's thread: moves the log into the file, off the way of calls ──

    def _on_commit(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self._wal_pages = pages
        if pages >= CHECKPOINT_PAGES and not self._fold.is_set():
            self._fold.set()
        return apsw.SQLITE_OK

    def _fold_log(self) -> None:
        while not self._is_closed:
            self._fold.wait()
            must_catch_up = self._is_closed or self._wal_pages >= TRUNCATE_PAGES
            self._fold_once(apsw.SQLITE_CHECKPOINT_PASSIVE)
            if must_catch_up:
                self._fold_once(apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self._fold.clear()

    def _fold_once(self, how: int) -> None:
        try:
            self._folder.wal_checkpoint(mode=how)
        except apsw.Error as error:
            # The log keeps what could not be folded; writers notice a full disk by themselves.
            log.error("the log of %s could not be folded: %s", self.path, error)
            if _is_failed_sync(error) and self.is_durable:
                self._poison = _failed_sync(error)


class _SlowReads:
    """Threads that do nothing else, each with a connection of its own that is opened when first needed."""

    def __init__(self, connect: Callable[[], apsw.Connection]) -> None:
        self._connect = connect
        self._own = threading.local()
        self._opened: list[apsw.Connection] = []
        self._running: set[_SlowRead[Any]] = set()
        self._is_closed = False
        self._threads = ThreadPoolExecutor(NUM_SLOW_READERS, "aios_read")

    async def run(self, job: Job[T]) -> T:
        read = _SlowRead(job)
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, self._run, read)
        except RuntimeError:  # its threads have ended
            raise _closed() from None
        try:
            return await future
        except asyncio.CancelledError:
            read.give_up()
            raise

    def _run(self, read: _SlowRead[T]) -> T:
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = self._connect()
            self._opened.append(connection)
        self._running.add(read)
        try:
            if self._is_closed:
                raise _closed()
            return read.run(connection)
        finally:
            self._running.discard(read)

    def close(self) -> None:
        """Interrupt what runs, refuse what waits, end the threads."""
        self._is_closed = True
        for read in list(self._running):
            read.give_up()
        self._threads.shutdown()
        for connection in self._opened:
            connection.close()


class _SlowRead(Generic[T]):
    """A read under way. `give_up` interrupts it, and never another that has its connection by then."""

    def __init__(self, job: Job[T]) -> None:
        self._job = job
        self._lock = threading.Lock()
        self._connection: apsw.Connection | None = None
        self._is_given_up = False

    def run(self, connection: apsw.Connection) -> T:
        with self._lock:
            self._connection = connection
        # SQLite forgets an interrupt that comes between two statements: the second one asks.
        connection.set_progress_handler(lambda: self._is_given_up, 5000)
        try:
            return self._job(connection)
        finally:
            with self._lock:
                self._connection = None

    def give_up(self) -> None:
        self._is_given_up = True
        with self._lock:
            if self._connection is not None:
                self._connection.interrupt()


_Answer = tuple[Then | None, Any, AiosError | None]


def _answer(loop: asyncio.AbstractEventLoop | None, answers: list[_Answer]) -> None:
    if loop is None:
        for answer in answers:
            _deliver_here(*answer)
        return
    try:
        loop.call_soon_threadsafe(_deliver, loop, answers)
    except RuntimeError:
        log.debug("the event loop was closed before %d answers came", len(answers))


def _deliver_here(then: Then | None, value: Any, error: AiosError | None) -> None:
    """On the writer's thread, which must outlive whatever a listener raises."""
    try:
        if then is not None:
            then(value, error)
    except (AiosError, MemoryError, *_BUGS):
        log.exception("a listener of the store failed")


def _deliver(loop: asyncio.AbstractEventLoop, answers: list[_Answer]) -> None:
    for n, (then, value, error) in enumerate(answers):
        is_told = False
        try:
            if then is not None:
                then(value, error)
            is_told = True
        finally:
            # One listener's bug must not keep the others of its group waiting.
            if not is_told:
                loop.call_soon(_deliver, loop, answers[n + 1 :])


def _closed() -> AiosError:
    return Stopping("the kernel's store is closed: the kernel is stopping")


def _is_failed_sync(error: apsw.Error) -> bool:
    return getattr(error, "extendedresult", 0) in (apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC)


def _failed_sync(error: apsw.Error) -> str:
    return f"an fsync of the kernel's store failed ({error})"


def rows(connection: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    return connection.execute(sql, bindings).fetchall()


def row(connection: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> tuple[Any, ...] | None:
    """The first row of a query, None without one."""
    return connection.execute(sql, bindings).fetchone()


def value(connection: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> Any:
    """The first column of the first row of a query, None without one."""
    found = connection.execute(sql, bindings).fetchone()
    return found[0] if found else None


def exactly_once(call_id: str | None, job: Job[T], kind: type[T]) -> Job[T]:
    """`job`, whose result is kept with its effect under `call_id`: run again after a crash, it answers the same and
    changes nothing. Calls without a key have no `call_id` and are never run again. The journal drops what is kept."""
    if call_id is None:
        return job

    def guarded(connection: apsw.Connection) -> T:
        known = value(connection, "SELECT result FROM effects WHERE call = ?", (call_id,))
        if known is not None:
            return msgspec.json.decode(known, type=kind)
        result = job(connection)
        connection.execute("INSERT INTO effects VALUES (?, ?)", (call_id, msgspec.json.encode(result)))
        return result

    return guarded


class Kept(NamedTuple):
    """What one agent keeps in a room, which is bounded. Counted with each write, so that no write has to count."""

    entries: int
    bytes: int


def kept(connection: apsw.Connection, room: str, owner: str, agent: str) -> Kept:
    sql = "SELECT entries, bytes FROM kept WHERE room = ? AND owner = ? AND agent = ?"
    return Kept(*(row(connection, sql, (room, owner, agent)) or (0, 0)))


def add_kept(connection: apsw.Connection, room: str, owner: str, agent: str, entries: int, num_bytes: int) -> None:
    """Count what a job adds, or takes away."""
    connection.execute(
        "INSERT INTO kept VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
        " SET entries = entries + excluded.entries, bytes = bytes + excluded.bytes",
        (room, owner, agent, entries, num_bytes),
    )


# ── opening a home ──


def migrate(connection: apsw.Connection, path: Path, migrations: Sequence[str]) -> None:
    """Bring the file to version `len(migrations)`, keeping a copy of an older one. Raises HomeError for a newer one."""
    version = connection.pragma("user_version")
    if version > len(migrations):
        raise HomeError(
            f"{path.parent} was written by a newer kernel (version {version}, this one knows {len(migrations)}): "
            "install that kernel, or name another home",
            code="home_too_new",
        )
    if version == len(migrations):
        return
    if version:
        _keep_copy(connection, path.with_name(f"{path.name}.v{version}"))
    with connection:
        for script in migrations[version:]:
            connection.execute(script)
        connection.pragma("user_version", len(migrations))


def _keep_copy(connection: apsw.Connection, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    connection.execute("VACUUM INTO ?", (os.fspath(part),))
    part.chmod(0o600)
    part.rename(target)


def _make_home(path: Path) -> None:
    home = path.parent
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise HomeError(
            f"the home {home} cannot be written ({error.strerror}): make it writable, or set AIOS_HOME to a folder "
            "that is",
            code="home_not_writable",
        ) from None


_taken: set[Path] = set()


class HomeLock:
    """Says that one kernel runs on this home. A lock of the process: children do not inherit it, kill -9 frees it."""

    def __init__(self, home: Path, descriptor: int) -> None:
        self._home = home
        self._descriptor = descriptor

    @classmethod
    def take(cls, home: Path) -> HomeLock:
        """Raises HomeError that names the process which holds it."""
        home = home.resolve()
        if home in _taken:
            # Not opened again: closing any descriptor of the file would free this process's lock.
            raise _is_taken(home, os.getpid())
        try:
            descriptor = os.open(home / "kernel.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HomeError(
                f"the home {home} cannot be locked ({error.strerror}): make it writable, or set AIOS_HOME to a "
                "folder that is",
                code="home_not_writable",
            ) from None
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise _is_taken(home, int(holder) if holder.isdigit() else 0) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        _taken.add(home)
        return cls(home, descriptor)

    def free(self) -> None:
        if self._home in _taken:
            _taken.discard(self._home)
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)


def _is_taken(home: Path, pid: int) -> HomeError:
    return HomeError(
        f"another kernel (process {pid or 'unknown'}) already runs on {home}: use that one, stop it with 'aios down', "
        "or set AIOS_HOME to another folder",
        code="home_in_use",
    )

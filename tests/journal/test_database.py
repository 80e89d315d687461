"""The store: one home a kernel, groups that commit together, faults that cost nobody else, homes of other versions."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from journal_world import opened

from aios.abi.errors import AiosError, KernelFault, NotFound, Stopping
from aios.kernel.database import (
    MIGRATIONS,
    NUM_SLOW_READERS,
    Database,
    HomeError,
    exactly_once,
    kept,
    rows,
    value,
    writer,
)
from aios.kernel.database import database as database_module

pytestmark = pytest.mark.anyio


def insert(text: str) -> Any:
    return lambda c: c.execute("INSERT INTO log(events) VALUES (?)", (text,)) and None


def texts(database: Database) -> list[str]:
    return database.read(lambda c: [text for (text,) in rows(c, "SELECT events FROM log ORDER BY seq")])


# ── groups ──


async def test_what_waits_is_committed_together_and_told_in_order(tmp_path: Path) -> None:
    with opened(tmp_path) as database:
        heard: list[int] = []
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for n in range(200):
            database.submit(insert(str(n)), lambda _, error, n=n: heard.append(n) if error is None else None)
        database.submit(lambda c: None, lambda *_: gate.set_result(None))
        await gate
        assert heard == list(range(200))
        assert texts(database) == [str(n) for n in range(200)]
        assert database.statistics()["groups"] < 100


async def test_what_was_told_is_seen_by_readers(tmp_path: Path) -> None:
    with opened(tmp_path) as database:
        for n in range(20):
            await database.run(insert(str(n)))
            assert len(texts(database)) == n + 1


async def test_a_job_that_fails_after_writing_leaves_nothing_and_spoils_nobody(tmp_path: Path) -> None:
    def half(connection: apsw.Connection) -> None:
        insert("half")(connection)
        raise NotFound("the other half")

    with opened(tmp_path) as database:
        outcomes = await asyncio.gather(
            database.run(insert("a")), database.run(half), database.run(insert("b")), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [type(None), NotFound, type(None)]
        assert texts(database) == ["a", "b"]


@pytest.mark.parametrize("bug", ["SELECT nonsense FROM nowhere", "INSERT INTO log(seq, events) VALUES (1, NULL)"])
async def test_a_faulty_job_is_the_kernels_fault_and_the_others_go_on(tmp_path: Path, bug: str) -> None:
    with opened(tmp_path) as database:
        good, bad = database.run(insert("good")), database.run(lambda c: c.execute(bug) and None)
        outcomes = await asyncio.gather(bad, good, return_exceptions=True)
        assert isinstance(outcomes[0], KernelFault)
        assert texts(database) == ["good"]
        await database.run(insert("later"))


async def test_a_listener_that_raises_does_not_silence_the_others(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    complaints: list[Any] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context["exception"]))
    with opened(tmp_path) as database:
        heard: asyncio.Future[str] = loop.create_future()

        def broken(_: Any, __: Any) -> None:
            raise ValueError("a bug")

        database.submit(insert("a"), broken)
        database.submit(insert("b"), lambda *_: heard.set_result("heard"))
        assert await heard == "heard"
        assert [str(error) for error in complaints] == ["a bug"]


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


async def test_a_read_that_takes_long_holds_up_no_other_and_is_interrupted_when_nobody_waits(tmp_path: Path) -> None:
    ended = threading.Event()
    begun = threading.Semaphore(0)

    def endless(connection: apsw.Connection) -> Any:
        begun.release()
        try:
            return value(connection, ENDLESS)
        finally:
            ended.set()

    with opened(tmp_path) as database:
        slow = [asyncio.create_task(database.read_async(endless)) for _ in range(NUM_SLOW_READERS - 1)]
        for _ in slow:
            await asyncio.to_thread(begun.acquire)
        assert await asyncio.wait_for(database.read_async(lambda c: value(c, "SELECT 1")), 60) == 1
        slow[0].cancel()
        assert await asyncio.to_thread(ended.wait, 60)
        assert await asyncio.wait_for(database.read_async(lambda c: value(c, "SELECT 2")), 60) == 2
    with pytest.raises(Stopping):
        await slow[1]
    with pytest.raises(Stopping):
        await database.read_async(lambda c: value(c, "SELECT 3"))


async def test_close_commits_what_waits_and_refuses_what_comes_later(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "aios.db")
    for n in range(50):
        database.submit(insert(str(n)))
    database.close()
    with pytest.raises(Stopping):
        await database.run(insert("late"))
    with pytest.raises(Stopping):
        database.run_now(insert("late"))
    with pytest.raises(Stopping):
        texts(database)
    with opened(tmp_path) as again:
        assert len(texts(again)) == 50


@pytest.fixture
def closes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Database], None]:
    """Has a database closed while a job is handed over: after it was looked whether it is open, before it is queued."""

    def arm(target: Database) -> None:
        def item(*fields: Any) -> writer.Item:
            closing.start()
            closing.join()
            return writer.Item(*fields)

        closing = threading.Thread(target=target.close)
        monkeypatch.setattr(database_module, "Item", item)

    return arm


async def test_a_job_that_is_submitted_while_the_store_closes_is_answered(
    tmp_path: Path, closes_meanwhile: Callable[[Database], None]
) -> None:
    store = Database.open(tmp_path / "aios.db")
    closes_meanwhile(store)
    answer = asyncio.ensure_future(store.run(insert("late")))
    await asyncio.wait([answer], timeout=60)
    assert answer.done()
    assert isinstance(answer.exception(), Stopping)


def test_a_job_without_a_loop_that_comes_while_the_store_closes_is_answered_at_once(
    tmp_path: Path, closes_meanwhile: Callable[[Database], None]
) -> None:
    store = Database.open(tmp_path / "aios.db")
    closes_meanwhile(store)
    heard: list[AiosError | None] = []
    store.submit(insert("late"), lambda _, error: heard.append(error))
    assert [type(error) for error in heard] == [Stopping]


def test_a_thread_that_wants_a_job_done_while_the_store_closes_does_not_hang(
    tmp_path: Path, closes_meanwhile: Callable[[Database], None]
) -> None:
    store = Database.open(tmp_path / "aios.db")
    closes_meanwhile(store)
    refused: list[Stopping] = []

    def late() -> None:
        with pytest.raises(Stopping) as refusal:
            store.run_now(insert("late"))
        refused.append(refusal.value)

    thread = threading.Thread(target=late, daemon=True)
    thread.start()
    thread.join(60)
    assert len(refused) == 1


class Door:
    """A lock that says when somebody stands before it."""

    def __init__(self) -> None:
        self.arrivals = threading.Semaphore(0)
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self.arrivals.release()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_who_closes_a_store_that_is_being_closed_comes_back_when_its_home_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, door, order = Database.open(tmp_path / "aios.db"), Door(), []
    free = store._lock.free

    def close(name: str) -> None:
        store.close()
        order.append(name)

    def free_late() -> None:
        second.start()
        assert door.arrivals.acquire(timeout=60)
        free()
        order.append("free")

    second = threading.Thread(target=close, args=("second",))
    monkeypatch.setattr(store, "_closing", door)
    monkeypatch.setattr(store._lock, "free", free_late)
    first = threading.Thread(target=close, args=("first",))
    first.start()
    assert door.arrivals.acquire(timeout=60)
    for closer in (first, second):
        closer.join(60)
    assert order[0] == "free"
    assert set(order) == {"free", "first", "second"}


async def test_a_result_under_a_call_id_is_given_again_and_its_effect_done_once(tmp_path: Path) -> None:
    def job(connection: apsw.Connection) -> list[int]:
        insert("x")(connection)
        return [value(connection, "SELECT count(*) FROM log")]

    with opened(tmp_path) as database:
        first = await database.run(exactly_once("call_1", job, list[int]))
        assert await database.run(exactly_once("call_1", job, list[int])) == first == [1]
        assert await database.run(exactly_once("call_2", job, list[int])) == [2]
        assert await database.run(exactly_once(None, job, list[int])) == [3]


async def test_the_log_is_folded_into_the_file_and_stays_bounded(tmp_path: Path) -> None:
    with opened(tmp_path) as database:
        for _ in range(60):
            await database.run(insert("x" * (1 << 20)))
        assert (tmp_path / "aios.db-wal").stat().st_size < 200 << 20
        database.check_integrity()


# ── homes ──


def test_a_new_home_is_private(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    with opened(home):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [home, *home.iterdir()]}
    assert modes.pop("home") == 0o700
    assert set(modes) >= {"aios.db", "aios.db-wal", "kernel.lock"}
    assert set(modes.values()) == {0o600}


def test_a_second_kernel_in_this_process_is_told_who_has_the_home(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(HomeError, match=f"process {os.getpid()}\\) already runs on"):
        Database.open(tmp_path / "aios.db")
    with opened(tmp_path):
        pass


def test_a_second_kernel_in_another_process_is_told_who_has_the_home(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from aios.kernel.database import Database\n"
        "d = Database.open(pathlib.Path(sys.argv[1])); print('ready', flush=True); sys.stdin.read(); d.close()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "aios.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(HomeError) as refusal:
            Database.open(tmp_path / "aios.db")
        assert refusal.value.code == "home_in_use"
        assert f"process {other.pid}" in refusal.value.message
        other.kill()
        other.wait()
    with opened(tmp_path):
        pass


def test_a_home_that_cannot_be_made_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(HomeError, match="cannot be written") as refusal:
        Database.open(tmp_path / "file" / "aios.db")
    assert refusal.value.code == "home_not_writable"


def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "aios.db"
    path.write_bytes(b"a diary, not a database. " * 100)
    with pytest.raises(HomeError, match="cannot be opened"):
        Database.open(path)
    assert path.read_bytes() == b"a diary, not a database. " * 100


def test_an_older_home_is_migrated_and_a_copy_is_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as database:
        database.run_now(insert("old"))
    newer = (*MIGRATIONS, "ALTER TABLE log ADD COLUMN wall REAL; UPDATE log SET wall = 1.5")
    with opened(tmp_path, migrations=newer) as database:
        assert database.read(lambda c: rows(c, "SELECT events, wall FROM log")) == [("old", 1.5)]
    copy = apsw.Connection(str(tmp_path / f"aios.db.v{len(MIGRATIONS)}"))
    assert copy.execute("SELECT events FROM log").fetchall() == [("old",)]
    assert copy.pragma("user_version") == len(MIGRATIONS)
    copy.close()


def test_what_agents_kept_in_a_home_of_version_1_is_counted_when_it_is_opened(tmp_path: Path) -> None:
    def fill(connection: apsw.Connection) -> None:
        connection.execute(
            "INSERT INTO entries VALUES (1, 'm000000000000001', 'o', 'a', 'note', 1, 'é', x'00');"
            "INSERT INTO files VALUES (1, 'o', 'a', 'd/f', 'd', 'file', 5, 2, 1, NULL);"
            "INSERT INTO files VALUES (2, 'o', 'a', 'd', '', 'folder', 0, 1, 1, 1);"
            "INSERT INTO versions VALUES (1, 1, x'01', 10, 1), (1, 2, x'02', 5, 1)"
        )

    with opened(tmp_path, migrations=MIGRATIONS[:1]) as database:
        database.run_now(fill)
    with opened(tmp_path) as database:
        assert database.read(lambda c: rows(c, "SELECT owner, agent, num_entries, kept FROM blocks")) == [
            ("o", "a", 1, 3)
        ]
        assert database.read(lambda c: kept(c, "storage", "o", "a")) == (2, 215)


def test_a_migration_that_fails_leaves_the_home_as_it_was(tmp_path: Path) -> None:
    with opened(tmp_path) as database:
        database.run_now(insert("old"))
    with pytest.raises(HomeError):
        Database.open(tmp_path / "aios.db", migrations=(*MIGRATIONS, "DROP TABLE log; SELECT broken"))
    with opened(tmp_path) as database:
        assert texts(database) == ["old"]


def test_a_newer_home_is_refused_and_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path, migrations=(*MIGRATIONS, "CREATE TABLE future(x)")):
        pass
    with pytest.raises(HomeError, match="newer kernel") as refusal:
        Database.open(tmp_path / "aios.db")
    assert refusal.value.code == "home_too_new"
    assert isinstance(refusal.value, AiosError)


async def test_one_who_reads_much_holds_up_another_for_one_read_a_thread(tmp_path: Path) -> None:
    order: list[str] = []
    gate = threading.Event()

    def reading(name: str) -> Callable[[apsw.Connection], None]:
        def job(_: apsw.Connection) -> None:
            gate.wait(60)
            order.append(name)

        return job

    with opened(tmp_path) as database:
        flood = [asyncio.create_task(database.read_async(reading("flood"), "flood")) for _ in range(40)]
        await asyncio.sleep(0)
        other = asyncio.create_task(database.read_async(reading("other"), "other"))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(other, *flood)
    assert order.index("other") <= 2 * NUM_SLOW_READERS

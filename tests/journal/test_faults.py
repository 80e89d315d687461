"""The store when the machine lets it down: a full disk, an fsync that fails, death at any instant."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import apsw
import pytest
from journal_world import call_of, closed, ended, full, in_child, journal_of, opened, recorded, said, told

from aios.abi.calls import MemClear
from aios.abi.errors import AiosError, Cancelled, NotFound, Stopping, TimedOut
from aios.kernel.database import Database, rows
from aios.kernel.database.fold import fold

pytestmark = pytest.mark.anyio

HERE = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"

FULL_DISK = """
import asyncio, pathlib, resource, signal, sys
from journal_world import call_of, closed, ended, journal_of, opened, recorded, said, told
from aios.abi.calls import LLMGenerate
from aios.abi.errors import Stopping
from aios.abi.messages import Message

def big():
    return LLMGenerate(messages=[Message(role="user", content=str(i) * 1000) for i in range(100)])

async def main(home):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with opened(home) as database:
        journal = journal_of(database)
        first = call_of(key="first")
        await recorded(journal, first)
        size = (home / "aios.db-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096, resource.RLIM_INFINITY))
        error = await told(lambda then: journal.open(call_of(args=big(), key="refused"), then))
        assert isinstance(error, Stopping) and error.code == "storage_full" and error.retry_after, repr(error)
        assert "free some space" in error.message
        assert journal.find("o", "a", "refused") is None
        assert not database.can_write
        await closed(journal, ended(first, said("kept")))
        assert journal.find("o", "a", "first").result == said("kept")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await recorded(journal, call_of(args=big(), key="taken"))
        assert database.can_write
        database.check_integrity()
    with opened(home) as database:
        journal = journal_of(database)
        assert [record.key for record in journal.recover()] == ["taken"]
        assert journal.find("o", "a", "first").result == said("kept")
        assert journal.find("o", "a", "refused") is None
    print("well")

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""

FAILED_SYNC = """
import asyncio, os, pathlib, sys
from failing_sync import fail_every_sync
from journal_world import call_of, journal_of, opened, recorded, told
from aios.kernel.database import Database

async def main(home):
    database = Database.open(home / "aios.db", durable=sys.argv[2] == "durable")
    journal = journal_of(database)
    await recorded(journal, call_of(key="before"))
    if not fail_every_sync():
        print("cannot")
        return
    for n in range(3):
        error = await told(lambda then: journal.open(call_of(key=f"after{n}"), then))
        print(error and (error.code, "restarted on a disk" in error.message))
    print(database.statistics()["is_poisoned"], flush=True)
    os._exit(0)

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""

WRITER = """
import asyncio, pathlib, random, sys
from journal_world import call_of, closed, ended, journal_of, opened, recorded, said

async def caller(journal, dice, name):
    for n in range(10**9):
        call = call_of(key=f"{name}-{n}" if dice.random() < 0.5 else None)
        call.id = f"{name}-{n}"
        await recorded(journal, call)
        print("open", call.id, call.key or "-", flush=True)
        if dice.random() < 0.8:
            await closed(journal, ended(call, said(call.id)))
            print("done", call.id, call.key or "-", flush=True)

async def main(home, run):
    with opened(home, durable=run % 2 == 1) as database:
        journal = journal_of(database)
        journal.recover()
        dice = random.Random(run)
        await asyncio.gather(*[caller(journal, dice, f"r{run}c{n}") for n in range(8)])

asyncio.run(main(pathlib.Path(sys.argv[1]), int(sys.argv[2])))
"""


def test_a_full_disk_refuses_clearly_loses_nothing_and_is_over_when_there_is_room(tmp_path: Path) -> None:
    outcome = in_child(HERE + FULL_DISK, tmp_path)
    assert outcome.stdout == "well\n", outcome.stderr


def test_in_durable_mode_nothing_is_acknowledged_after_a_failed_sync_until_a_restart(tmp_path: Path) -> None:
    outcome = in_child(HERE + FAILED_SYNC, tmp_path, "durable")
    if outcome.stdout == "cannot\n":
        pytest.skip("this machine has no seccomp")
    refusal = "('storage_failed', True)\n"
    assert outcome.stdout == refusal * 3 + "True\n", outcome.stderr
    with opened(tmp_path, durable=True) as database:
        assert "before" in [record.key for record in journal_of(database).recover()]


def test_in_fast_mode_no_call_waits_for_a_sync(tmp_path: Path) -> None:
    outcome = in_child(HERE + FAILED_SYNC, tmp_path, "fast")
    if outcome.stdout == "cannot\n":
        pytest.skip("this machine has no seccomp")
    assert outcome.stdout == "None\n" * 3 + "False\n", outcome.stderr
    with opened(tmp_path) as database:
        assert len(journal_of(database).recover()) == 4


async def test_a_sync_that_failed_while_the_log_was_folded_poisons_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def wal_checkpoint(self, **_: object) -> None:
            error = apsw.IOError("disk I/O error")
            error.extendedresult = apsw.SQLITE_IOERR_FSYNC
            raise error

        def close(self) -> None:
            real.close()

    database = Database.open(tmp_path / "aios.db", durable=True)
    real = database._folder._connection
    monkeypatch.setattr(database._folder, "_connection", Broken())
    fold(database._folder._connection, database._health)
    with pytest.raises(Stopping, match="nothing more is accepted"):
        await database.run(lambda c: None)
    database.close()


def states(database: Database) -> dict[str, str]:
    return dict(database.read(lambda c: rows(c, "SELECT key, state FROM calls ORDER BY key")))


async def test_refused_ends_keep_their_order_and_are_written_after_the_next_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as database:
        journal = journal_of(database)
        calls = [call_of(key=f"k{n}") for n in range(3)]
        for call in calls:
            await recorded(journal, call)
        monkeypatch.setattr(database._writer, "_together", full)
        for call in calls:
            assert isinstance(await told(lambda then, c=call: journal.close(ended(c, said(c.id)), then)), Stopping)
        monkeypatch.undo()
        await recorded(journal, call_of())
        await database.run(lambda c: None)
        assert states(database) == {"k0": "done", "k1": "done", "k2": "done"}


@pytest.mark.parametrize("error", [None, TimedOut("slow"), NotFound("no such thing")], ids=["done", "504", "404"])
async def test_how_a_call_ended_is_told_to_nobody_before_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: AiosError | None
) -> None:
    call = call_of(key="k")
    with opened(tmp_path) as database:
        journal = journal_of(database)
        await recorded(journal, call)
        monkeypatch.setattr(database._writer, "_together", full)
        why = await told(lambda then: journal.close(ended(call, said("yes"), error), then))
        for _ in range(2):
            assert states(database) == {"k": None}
            assert isinstance(why, Stopping)
            assert (why.code, why.retry_after) == ("storage_full", 5.0)
            assert why.message.startswith("this call has ended, but how is not on record yet")
            with pytest.raises(Stopping) as refusal:
                journal.find("o", "a", "k")
            why = refusal.value
        await journal.settled()  # the last try has failed too
        monkeypatch.undo()
        with pytest.raises(Stopping):
            journal.find("o", "a", "k")  # who asks has it tried again
        await database.run(lambda c: None)
        assert states(database) == ({} if isinstance(error, TimedOut) else {"k": "failed" if error else "done"})
        assert (journal.find("o", "a", "k") is None) == isinstance(error, TimedOut)
        assert journal.statistics()["waiting"] == 0


async def test_an_opening_that_is_tried_again_does_not_come_after_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_failed = threading.Event()
    call = call_of("mem_clear", MemClear(all=True), key="k")
    with opened(tmp_path) as database:
        journal = journal_of(database)
        journal.started(call.process)
        await journal.settled()  # so that the next group is that of the opening
        really = database._writer._together

        def full_once(group: Any) -> Any:
            outcomes = really(group)
            if not has_failed.is_set():
                has_failed.set()
                raise apsw.FullError("database or disk is full")
            return outcomes

        monkeypatch.setattr(database._writer, "_together", full_once)
        opening = asyncio.get_running_loop().create_future()
        journal.open(call, opening.set_result)
        has_failed.wait(60)  # and the loop has not heard of it when the call is ended
        await closed(journal, ended(call, error=Cancelled("killed")))
        assert isinstance(await opening, Stopping)
        await database.run(lambda c: None)
    with opened(tmp_path) as database:
        assert journal_of(database).recover() == []


async def test_a_job_without_memory_costs_its_group_and_not_the_store(tmp_path: Path) -> None:
    def greedy(_: apsw.Connection) -> None:
        raise MemoryError

    with opened(tmp_path) as database:
        with pytest.raises(Stopping, match="no memory left"):
            await database.run(greedy)
        assert await database.run(lambda c: rows(c, "SELECT 1")) == [(1,)]


class Unforeseen(Exception):
    """Of a kind that no list of faults names."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_writer_that_ends_answers_its_group_what_waits_and_what_comes(tmp_path: Path) -> None:
    is_running, may_go_on = threading.Event(), threading.Event()

    def unforeseen(_: apsw.Connection) -> None:
        is_running.set()
        may_go_on.wait(60)
        raise Unforeseen("a bug")

    with opened(tmp_path) as database:
        first = asyncio.create_task(database.run(unforeseen))
        await asyncio.to_thread(is_running.wait, 60)
        waiting = asyncio.create_task(database.run(lambda c: None))
        await asyncio.sleep(0)
        may_go_on.set()
        for each in (first, waiting, database.run(lambda c: None)):
            with pytest.raises(Stopping, match=r"Unforeseen: a bug.*nothing more is accepted until the kernel is rest"):
                await asyncio.wait_for(each, 60)
        assert database.statistics()["is_poisoned"]


def test_a_listener_on_the_writers_thread_that_raises_ends_nothing(tmp_path: Path) -> None:
    def broken(_: object, __: object) -> None:
        raise MemoryError

    with opened(tmp_path) as database:
        database.submit(lambda c: None, broken)
        assert database.run_now(lambda c: rows(c, "SELECT 1")) == [(1,)]


def test_killed_at_any_instant_the_journal_has_all_that_was_acknowledged(tmp_path: Path) -> None:
    dice = random.Random(11)
    for run in range(6):
        command = [sys.executable, "-c", HERE + WRITER, str(tmp_path), str(run)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(dice.randrange(1, 400))]
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
        # The last line may be cut short by the kill.
        audit(tmp_path, [tuple(line.split()) for line in lines if line.endswith("\n")])


def audit(home: Path, printed: list[tuple[str, ...]]) -> None:
    """What was printed is on record: answers under keys, and every call that was open."""
    acknowledged = {(id, key): what for what, id, key in printed}
    with opened(home) as database:
        database.check_integrity()
        journal = journal_of(database)
        still_open = {record.call_id for record in journal.recover()}
        for (id, key), what in acknowledged.items():
            found = journal.find("o", "a", key) if key != "-" else None
            if what == "done":
                assert id not in still_open
                assert key == "-" or (found is not None and found.result == said(id))
            elif key != "-":
                # Its end may have been recorded and not yet printed.
                assert found is not None
                assert found.result == (None if id in still_open else said(id))

"""A full disk: what is refused, what still works, and that nothing acknowledged is lost when there is room again."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import apsw
import pytest
from journal_world import full
from small_disk import SmallDisk

from aios.abi.calls import LLMGenerate, MemClear, MemList, MemSearch, MemWrite, StoClear, StoList, StoRead, StoWrite
from aios.abi.errors import Stopping
from aios.abi.messages import Message
from aios.kernel import Kernel
from aios.kernel.database import Database, value, writer
from aios.kernel.database.home import HomeError
from aios.kernel.database.reserve import NEEDED, SIZE, Reserve
from aios.kernel.process import Principal
from aios.testing import ScriptedCore, booted, principal

pytestmark = pytest.mark.anyio
MIB = 1 << 20


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SmallDisk:
    """Of the reserve and some megabytes; all that is opened in the test lies on it."""
    return SmallDisk(monkeypatch, SIZE + 24 * MIB)


@asynccontextmanager
async def on_full_disk(home: Path) -> AsyncIterator[tuple[Kernel, Principal, list[str]]]:
    """A kernel whose disk has been filled by somebody, and the ids of the entries that were taken."""
    async with booted(home=home) as kernel:
        who = principal(kernel)
        yield kernel, who, await fill_memory(kernel, who)


async def fill_memory(kernel: Kernel, who: Principal) -> list[str]:
    """Write until the disk is full: ids of what was acknowledged."""
    ids: list[str] = []
    with pytest.raises(Stopping, match="free some space there, or clear what is not needed") as refusal:
        while True:
            written = await kernel.call(who, "mem_write", MemWrite(content=f"entry {len(ids)} " + "x" * 100_000))
            ids.append(written.id)
    assert refusal.value.code == "storage_full"
    assert str(kernel.home) in refusal.value.message
    return ids


async def test_memory_that_is_cleared_on_a_full_disk_makes_room_and_nothing_is_lost(
    tmp_path: Path, disk: SmallDisk
) -> None:
    async with on_full_disk(tmp_path) as (kernel, who, ids):
        assert len(ids) > 20
        assert not kernel.can_write
        assert not kernel.statistics()["journal"]["can_write"]
        assert disk.free < NEEDED
        for refused, args in (("sto_write", StoWrite(path="a", content="x")), ("mem_write", MemWrite(content="x"))):
            with pytest.raises(Stopping, match="nothing was recorded"):
                await kernel.call(who, refused, args, key=f"{refused} key")
        assert len((await kernel.call(who, "mem_search", MemSearch(query="entry", k=5))).entries) == 5
        kept, cleared = ids[::2], ids[1::2]
        for id in cleared:
            assert (await kernel.call(who, "mem_clear", MemClear(id=id), key=f"clear {id}")).count == 1
        assert kernel.can_write
        assert await kernel.call(who, "mem_write", MemWrite(content="after"), key="mem_write key")
        assert kernel.can_write
    async with booted(home=tmp_path) as kernel:
        kernel.database.check_integrity()
        found = (await kernel.call(principal(kernel), "mem_list", MemList(limit=1000))).entries
        assert sorted(entry.id for entry in found if entry.content != "after") == sorted(kept)


async def test_calls_that_are_refused_on_a_full_disk_use_up_none_of_what_is_left(
    tmp_path: Path, disk: SmallDisk
) -> None:
    async with on_full_disk(tmp_path) as (kernel, who, _):
        before = await num_logged(kernel)
        for key in (None, "a", None, "b"):
            with pytest.raises(Stopping, match="nothing was recorded"):
                await kernel.call(who, "mem_write", MemWrite(content="x"), key=key)
        assert await num_logged(kernel) == before
        found = kernel.journal.statistics()
        assert (found["open"], found["waiting"]) == (0, 0)


async def num_logged(kernel: Kernel) -> int:
    """Rows of the journal's log, once all is written that is on its way there, though refused once."""
    for _ in range(2):
        await kernel.database.run(lambda c: None, frees=True)
    return int(kernel.database.read(lambda c: value(c, "SELECT count(*) FROM log")))


async def test_trash_that_is_emptied_on_a_full_disk_makes_room(tmp_path: Path, disk: SmallDisk) -> None:
    async with booted(home=tmp_path) as kernel:
        who = principal(kernel)
        num_written = 0
        with pytest.raises(Stopping):
            while True:
                await kernel.call(
                    who, "sto_write", StoWrite(path=f"d/{num_written}", content=f"{num_written}" * 10_000)
                )
                num_written += 1
        assert (await kernel.call(who, "sto_clear", StoClear(path="d"))).count == num_written + 1
        with pytest.raises(Stopping):
            await kernel.call(who, "sto_write", StoWrite(path="e", content="x"))
        assert (await kernel.call(who, "sto_clear", StoClear(path="d", trash=True))).count == num_written + 1
        await kernel.call(who, "sto_write", StoWrite(path="e", content="x" * 50_000))
        assert [entry.path for entry in (await kernel.call(who, "sto_list", StoList())).entries] == ["e"]
        assert (await kernel.call(who, "sto_read", StoRead(path="e"))).content == "x" * 50_000


async def test_a_call_under_way_when_the_disk_fills_ends_on_record(tmp_path: Path, disk: SmallDisk) -> None:
    async with booted(home=tmp_path) as kernel:
        who = principal(kernel)
        written = await kernel.call(who, "mem_write", MemWrite(content="x"), key="k")
        disk.free = 0
        cleared = await kernel.call(who, "mem_clear", MemClear(id=written.id), key="c")
    async with booted(home=tmp_path) as kernel:
        assert await kernel.call(principal(kernel), "mem_clear", MemClear(id=written.id), key="c") == cleared
        assert await kernel.call(principal(kernel), "mem_write", MemWrite(content="x"), key="k") == written


async def test_an_answer_that_found_no_room_is_told_once_it_is_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = ScriptedCore("first")
    core.gate.clear()
    ask = LLMGenerate(messages=[Message(role="user", content="hello")])
    async with booted(cores={"one": core}, home=tmp_path) as kernel:
        who = principal(kernel)
        call = kernel.submit(who, "llm_generate", ask, key="k")
        await core.entered(1)
        monkeypatch.setattr(kernel.database._writer, "_together", full)
        core.gate.set()
        with pytest.raises(Stopping, match="how is not on record yet"):
            await kernel.wait(call)
        with pytest.raises(Stopping, match="how is not on record yet"):
            await kernel.call(who, "llm_generate", ask, key="k")
        with pytest.raises(Stopping):
            await kernel.database.run(lambda c: None, frees=True)  # what asking had tried again is over too
        monkeypatch.undo()
    again = ScriptedCore("second")
    async with booted(cores={"one": again}, home=tmp_path) as kernel:
        found = await kernel.call(principal(kernel), "llm_generate", ask, key="k")
        assert found.message.content == "first"
        assert again.seen == []


async def test_when_others_make_room_writing_goes_on_by_itself(
    tmp_path: Path, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "LOOK_AGAIN", 0.01)
    async with on_full_disk(tmp_path) as (kernel, who, _):
        assert (await kernel.why_not_ready()).code == "storage_full"
        disk.free += 100 * MIB
        assert await kernel.why_not_ready() is None
        assert kernel.can_write
        await kernel.call(who, "mem_write", MemWrite(content="x"))


async def test_the_store_finds_room_though_nobody_writes(
    tmp_path: Path, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Event()
    monkeypatch.setattr(writer, "LOOK_AGAIN", 0.01)
    database = Database.open(tmp_path / "aios.db")
    real = writer.rewrite_first_page

    def look(connection: apsw.Connection) -> None:
        real(connection)
        looked.set()

    monkeypatch.setattr(writer, "rewrite_first_page", look)
    disk.free = 0
    with pytest.raises(Stopping):
        await database.run(lambda c: c.execute("INSERT INTO log(events) VALUES (zeroblob(10000000))") and None)
    assert not database.can_write
    disk.free = 100 * MIB
    assert looked.wait(60)
    database.close()


async def test_a_home_on_a_full_disk_is_opened_so_that_it_can_be_cleared(tmp_path: Path, disk: SmallDisk) -> None:
    async with on_full_disk(tmp_path):
        pass
    disk.free = 4 * MIB
    async with booted(home=tmp_path) as kernel:
        who = principal(kernel)
        assert not kernel.can_write
        assert (await kernel.call(who, "mem_clear", MemClear(all=True))).count > 20
        await kernel.call(who, "mem_write", MemWrite(content="after"))


def test_a_new_home_on_a_full_disk_is_one_clear_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SmallDisk(monkeypatch, 5_000)
    with pytest.raises(HomeError, match="the disk that holds it is full; free some space"):
        Database.open(tmp_path / "aios.db")


def test_the_reserve_takes_its_space_for_true_and_gives_it_back(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve")
    assert reserve.take()
    assert reserve.take()
    assert (tmp_path / "reserve").stat().st_size == SIZE
    reserve.release()
    assert (tmp_path / "reserve").stat().st_size == 0
    assert not reserve.is_held


def test_a_reserve_that_the_disk_cannot_hold_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    reserve = Reserve(tmp_path / "reserve")
    assert not reserve.take()
    assert (tmp_path / "reserve").stat().st_size == 0


def test_a_disk_that_cannot_be_asked_for_its_room_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.statvfs", fails)
    with closing(Database.open(tmp_path / "aios.db")) as database:
        assert not database.can_write
        with pytest.raises(Stopping, match="nothing was recorded"):
            database.run_now(lambda c: c.execute("CREATE TABLE t(x)") and None)
        monkeypatch.undo()
        database.run_now(lambda c: c.execute("CREATE TABLE t(x)") and None)

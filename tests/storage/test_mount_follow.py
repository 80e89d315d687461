"""A mounted folder is kept up with: bursts, our own writes, lost events, and what a crash left."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mount_world import MountWorld, large

from aios.abi.calls import StoList, StoRestore, StoWrite
from aios.abi.errors import Stopping
from aios.kernel.database import rows
from aios.kernel.storage.mounts import beneath, follow, notice
from aios.kernel.storage.mounts import writes as mount_writes
from aios.testing import settle, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MountWorld]:
    world = await MountWorld(tmp_path).begun()
    yield world
    await world.end()
    world.check_integrity()
    world.close()


def authors(world: MountWorld) -> dict[str, int]:
    sql = "SELECT coalesce(author, '-'), count(*) FROM versions GROUP BY 1"
    return dict(world.database.read(lambda c: rows(c, sql)))


async def test_what_others_do_is_heard_of_and_noted_without_anybody_asking(world: MountWorld) -> None:
    world.put("new/deep/a.txt", "one")
    await world.heard("new")
    world.put("new/deep/a.txt", "two")
    await world.heard("new/deep/a.txt")
    assert authors(world) == {"outside": 2}
    (world.top / "new").rename(world.top / "other")
    await world.heard("other")
    world.put("other/deep/b.txt", "three")
    await world.heard("other/deep/b.txt")
    assert await world.names("docs/other/deep") == ["docs/other/deep/a.txt", "docs/other/deep/b.txt"]
    assert await world.names("docs", trash=True) == ["docs/new"]
    shutil.rmtree(world.top / "other")
    await world.heard("other")
    assert world.count("files", "trashed IS NULL AND kind = 'file'") == 3  # below two folders that are in the trash
    assert await world.names("docs", trash=True) == ["docs/new", "docs/other"]


async def test_our_own_writes_are_heard_of_and_are_no_versions_of_others(world: MountWorld) -> None:
    await world.write("docs/d/a0.txt", "text 0")
    await world.heard("d")
    for n in range(1, 20):
        await world.write(f"docs/d/a{n}.txt", f"text {n}")
    await world.write("docs/large.txt", large(1))
    await world.call(StoWrite(path="docs/d/a0.txt", content="again"))
    await world.clear("docs/d/a1.txt")
    await world.call(StoRestore(path="docs/d/a1.txt"))
    await until(lambda: "d/a19.txt" in world.mounted().follower._heard)
    await world.quiet()
    world.mounted().follower.look_whole()
    await world.quiet()
    assert authors(world) == {"a": 22}


async def test_a_burst_of_ten_thousand_changes_is_noted_whole_and_holds_up_no_turn(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than a step's files are in one job."""
    jobs: list[int] = []
    real = notice.Notice._apply_all

    def counted(self: notice.Notice, looks: list[notice.Look], connection: object) -> object:
        jobs.append(len(looks))
        return real(self, looks, connection)  # type: ignore[arg-type]

    monkeypatch.setattr(notice.Notice, "_apply_all", counted)
    for folder in range(100):
        (world.top / f"d{folder}").mkdir()
        for n in range(100):
            (world.top / f"d{folder}" / f"f{n}").write_text(f"{folder} {n}")
    await until(lambda: "d99" in world.mounted().follower._heard)
    await world.quiet()
    await until(lambda: not world.mounted().follower._heard)
    assert world.count("versions") == 10_000
    assert max(jobs) <= follow.BATCH
    for folder in range(100):
        for n in range(100):
            if n % 10 == 0:
                (world.top / f"d{folder}" / f"f{n}").write_text(f"changed {folder} {n}")
    await until(lambda: "d99/f90" in world.mounted().follower._heard or world.mounted().follower._is_whole_wanted)
    await world.quiet()
    assert world.count("versions") == 11_000
    assert await world.read("docs/d57/f10") == "changed 57 10"


async def test_after_lost_events_all_is_looked_through(world: MountWorld) -> None:
    await world.write("docs/a.txt", "one")
    world.room_lost = world.mounted().follower.look_whole  # type: ignore[attr-defined]
    assert world.mounted().room.watch is not None
    world.mounted().room.watch._tell(0, 0x4000, b"")  # type: ignore[union-attr]
    assert not world.mounted().follower.is_idle
    world.put("a.txt", "two")
    await world.quiet()
    assert authors(world) == {"a": 1, "outside": 1}


async def test_more_than_can_be_remembered_is_looked_through_instead(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "MANY", 10)
    for n in range(30):
        world.put(f"f{n}", "x")
    for n in range(30):
        world.mounted().follower.hear(f"f{n}")
    assert world.mounted().follower._is_whole_wanted
    await world.quiet()
    assert world.count("versions") == 30


async def test_without_room_for_watches_the_folder_is_looked_through_now_and_then(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(world.mounted().room.watch), "add", lambda *_: False)
    world.mounted().follower.look_whole()
    await world.quiet()
    assert not world.mounted().follower.progress.is_watched
    world.put("sub/a.txt", "x")
    world.clock.advance(follow.LOOK_WHOLE + 10)
    await settle()
    await world.quiet()
    assert world.count("versions") == 1


async def test_a_file_that_somebody_is_at_is_noted_when_it_is_free(world: MountWorld) -> None:
    world.put("a.txt", "one")
    async with world.mounted().locks.hold("a.txt"):
        world.mounted().follower.hear("a.txt")
        world.clock.advance(1)
        await settle()
        assert world.count("versions") == 0
    await world.quiet()
    assert world.count("versions") == 1


async def test_a_file_that_is_written_while_it_is_read_is_kept_as_it_was_read(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put("log", "x" * 100)
    real, num_read = notice._read_up_to, 0

    def growing(descriptor: int, limit: int) -> bytes:
        nonlocal num_read
        num_read += 1
        with (world.top / "log").open("a") as file:
            file.write("x" * 10)
        return real(descriptor, limit)

    monkeypatch.setattr(notice, "_read_up_to", growing)
    world.mounted().follower.hear("log")
    world.clock.advance(0.1)
    await until(lambda: world.count("versions") == 1)
    monkeypatch.undo()
    assert num_read == notice.TRIES
    world.clock.advance(100)
    await world.changed("log")
    assert world.text("log") == await world.read("docs/log")
    assert await world.history("docs/log") == [(1, "outside")]


async def test_a_file_that_is_written_all_the_time_is_no_version_each_time(world: MountWorld) -> None:
    for n in range(600):
        world.put("log", "x" * n)
        world.mounted().follower.hear("log")
        world.clock.advance(0.5)
        await until(lambda: world.mounted().follower._task is None)
    assert 5 < world.count("versions") < 20  # in 300 seconds
    world.clock.advance(follow.STORMY)
    await world.quiet()
    assert world.text("log") == await world.read("docs/log")
    world.clock.advance(10 * follow.STORMY)
    world.put("log", "calm again")
    await world.changed("log")
    assert (await world.history("docs/log"))[-1][0] == world.count("versions")


async def test_a_store_that_cannot_be_written_is_tried_again_later(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise Stopping("the disk is full", code="storage_full")

    world.put("a.txt", "one")
    monkeypatch.setattr(notice.Notice, "_apply_all", full)
    world.mounted().follower.hear("a.txt")
    world.clock.advance(1)
    await until(lambda: world.mounted().follower._timer is not None and world.mounted().follower._task is None)
    monkeypatch.undo()
    world.clock.advance(follow.RETRY)
    await world.quiet()
    assert world.count("versions") == 1


async def test_a_folder_that_goes_while_it_is_looked_through_loses_nothing(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(30):
        world.put(f"d{n % 3}/f{n}", "x")
    world.mounted().follower.look_whole()
    await world.quiet()
    real = follow._names

    def going(batch: beneath.Batch) -> list[str]:
        if batch.folder == "d1" and world.top.exists():
            world.top.rename(world.top.with_name("away"))
        return real(batch)

    monkeypatch.setattr(follow, "_names", going)
    world.mounted().follower.look_whole()
    await world.quiet()
    assert world.mounted().why_gone is not None
    assert await world.names("docs", trash=True) == []
    monkeypatch.undo()
    world.top.with_name("away").rename(world.top)
    assert len(await world.names("docs/d1")) == 10
    await world.quiet()
    assert await world.names("docs", trash=True) == []


async def test_what_may_not_be_read_is_not_taken_for_deleted(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.write("docs/d/a.txt", "one")
    real = os.open

    def denied(name: object, *args: object, **kwargs: object) -> int:
        if name == "d":
            raise PermissionError(13, "Permission denied")
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", denied)
    world.mounted().follower.look_whole()
    await world.changed("d/a.txt")
    monkeypatch.undo()
    assert await world.names("docs", trash=True) == []
    assert await world.read("docs/d/a.txt") == "one"


async def test_a_write_that_the_kernel_died_over_is_found_in_the_folder(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place, and not yet recorded."""
    await world.write("docs/a.txt", "one")

    async def dying(*_: object) -> object:
        raise Stopping("the kernel died")

    real = mount_writes.Writes._commit

    async def commit(self: mount_writes.Writes, *args: object) -> object:
        with monkeypatch.context() as patch:
            patch.setattr(world.database, "run", dying)
            return await real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(mount_writes.Writes, "_commit", commit)
    with pytest.raises(Stopping):
        await world.write("docs/a.txt", "two")
    monkeypatch.undo()
    await world.again()
    assert await world.history("docs/a.txt") == [(1, "a"), (2, "outside")]
    assert await world.read("docs/a.txt") == "two"


async def test_a_call_with_a_key_is_done_once_though_it_is_made_again_after_others_have_changed_the_file(
    world: MountWorld,
) -> None:
    args = StoWrite(path="docs/a.txt", content="mine")
    first = await world.call(args, key="k", id="call_1")
    world.put("a.txt", "by others")
    assert await world.call(args, key="k", id="call_1") == first
    assert world.text("a.txt") == "by others"


async def test_what_a_crash_left_half_written_is_swept_away_and_what_others_call_alike_is_not(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beneath, "LEFT", -1.0)
    await world.end()
    world.put("d/.aios-0123456789abcdef.part", "half")
    world.put(".aios-0123456789abcdef.gone/a.txt", "half a folder")
    world.put(".aios-mine.part", "not ours")
    world.restart()
    await world.begin()
    assert world.all_files() == {".aios-mine.part": "not ours"}
    assert await world.names("docs") == ["docs/.aios-mine.part", "docs/d"]


async def test_agents_write_read_and_move_at_once_and_each_sees_its_own_order(world: MountWorld) -> None:
    async def work(agent: int) -> None:
        name = f"agent{agent}"
        for n in range(20):
            await world.write(f"docs/{name}/f{n % 3}", f"{agent} {n}", agent=name)
            assert await world.read(f"docs/{name}/f{n % 3}", agent=name) == f"{agent} {n}"
            await world.write("docs/shared", f"{agent} {n}", agent=name)

    await asyncio.gather(*map(work, range(32)))
    assert world.count("versions") == 32 * 40
    newest = await world.read("docs/shared")
    assert newest == await world.read("docs/shared", 640) == world.text("shared")


async def test_a_cancelled_write_is_whole_or_not_at_all(world: MountWorld) -> None:
    await world.write("docs/a.txt", "one")
    for turns in range(60):
        task = asyncio.ensure_future(world.write("docs/a.txt", large(turns, 80_000)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
    assert not [name for name in os.listdir(world.top) if name != "a.txt"]
    versions = await world.history("docs/a.txt")
    assert "outside" not in [author for _, author in versions]
    assert world.text("a.txt") == await world.read("docs/a.txt", versions[-1][0])


async def test_a_listing_of_very_many_files_is_a_page(world: MountWorld) -> None:
    (world.top / "many").mkdir()
    for n in range(3000):
        os.close(os.open(world.top / "many" / f"{n:05}", os.O_CREAT | os.O_WRONLY))
    page = await world.call(StoList(path="docs/many", limit=5, after="docs/many/00990"))
    assert [entry.path for entry in page.entries] == [f"docs/many/{n:05}" for n in range(991, 996)]
    assert page.has_more

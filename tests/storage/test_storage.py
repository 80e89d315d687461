"""An agent's files: versions, folders, trash, large contents on disk, and nobody else's."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aios.abi.calls import CALLS, Args, StoClear, StoCreate, StoList, StoRead, StoWrite
from aios.abi.errors import BadRequest, Conflict, ModuleFault, NotFound, Stopping, TooLarge
from aios.kernel.database import Database, kept, rows, value
from aios.kernel.process import Process
from aios.kernel.storage import StorageManager, manager, versions
from aios.kernel.storage.files import Content
from aios.kernel.syscall import Syscall
from aios.testing import MockClock, booted

pytestmark = pytest.mark.anyio
NAMES = {
    StoCreate: "sto_create", StoWrite: "sto_write", StoRead: "sto_read", StoList: "sto_list", StoClear: "sto_clear",
}  # fmt: skip
LARGE = "x" * 200_000


class World:
    """A storage room on a home of its own, called by agents named at will."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.clock = MockClock()
        self.num_calls = 0
        self.open()

    def open(self, *, durable: bool = False) -> None:
        self.database = Database.open(self.home / "aios.db", durable=durable)
        self.storage = StorageManager(self.database, self.home, self.clock)

    def restart(self, *, durable: bool = False) -> None:
        self.database.close()
        self.open(durable=durable)

    async def call(
        self, args: Args, agent: str = "a", owner: str = "o", *, key: str | None = None, id: str = ""
    ) -> Any:
        self.num_calls += 1
        process = Process(1, agent, owner)
        call = Syscall(id or f"call_{self.num_calls}", CALLS[NAMES[type(args)]], args, process, 0.0, key)
        self.storage.check(call)
        return await self.storage.run(call)

    async def write(self, path: str, content: str, agent: str = "a") -> int:
        return int((await self.call(StoWrite(path=path, content=content), agent)).version)

    async def read(self, path: str, version: int | None = None, agent: str = "a") -> str:
        return str((await self.call(StoRead(path=path, version=version), agent)).content)

    async def names(self, path: str = "", agent: str = "a") -> list[str]:
        return [entry.path for entry in (await self.call(StoList(path=path), agent)).entries]

    async def texts(self, owner: str = "o", agent: str = "a") -> tuple[dict[str, str], bool]:
        return await self.storage.over_texts(owner, agent, lambda texts, is_all: (dict(texts), is_all))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.database.check_integrity()
    world.database.close()


def blobs_of(world: World) -> list[Path]:
    """The files of large contents."""
    return [path for path in (world.home / "blobs").rglob("*") if path.is_file()]


@pytest.mark.parametrize("content", ["", "short ☃", LARGE], ids=["empty", "short", "large"])
@pytest.mark.parametrize("durable", [False, True], ids=["fast", "durable"])
async def test_a_file_is_read_as_it_was_written_even_after_a_restart(world: World, content: str, durable: bool) -> None:
    world.restart(durable=durable)
    assert await world.write("notes/a.txt", content) == 1
    world.restart()
    assert await world.read("notes/a.txt") == content
    assert await world.storage.read_text("o", "a", "notes/a.txt") == content
    assert await world.texts() == ({"notes/a.txt": content}, True)


async def test_every_write_is_a_version_and_the_older_ones_stay(world: World) -> None:
    for n in range(1, 4):
        assert await world.write("a.txt", f"text {n}") == n
    assert await world.read("a.txt") == "text 3"
    assert [await world.read("a.txt", n) for n in (1, 2, 3)] == ["text 1", "text 2", "text 3"]
    with pytest.raises(NotFound, match="no version 4; the newest is 3"):
        await world.read("a.txt", 4)


async def test_a_listing_says_what_is_in_a_folder_and_no_deeper(world: World) -> None:
    await world.write("b/c/d.txt", "12345")
    await world.call(StoCreate(path="b/empty", kind="folder"))
    await world.call(StoCreate(path="a.txt"))
    assert await world.names() == ["a.txt", "b"]
    assert await world.names("b") == ["b/c", "b/empty"]
    assert await world.names("b/empty") == []
    (stat,) = (await world.call(StoList(path="b/c/d.txt"))).entries
    assert (stat.path, stat.kind, stat.size, stat.version, stat.modified) == (
        "b/c/d.txt", "file", 5, 1, world.clock.wall(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (StoCreate(path="file"), "there already"),
        (StoCreate(path="folder", kind="folder"), "there already"),
        (StoWrite(path="folder", content="x"), "is a folder"),
        (StoWrite(path="file/below", content="x"), "'file' is a file"),
        (StoCreate(path="file/below", kind="folder"), "'file' is a file"),
    ],
)
async def test_what_is_there_is_not_replaced_by_another_kind(world: World, args: Args, message: str) -> None:
    await world.write("file", "x")
    await world.call(StoCreate(path="folder", kind="folder"))
    with pytest.raises(Conflict, match=message):
        await world.call(args)
    assert await world.names() == ["file", "folder"]


async def test_a_path_that_is_not_there_is_refused_with_the_nearest_that_is(world: World) -> None:
    await world.write("notes/today.md", "x")
    for args in (StoRead(path="notes/todya.md"), StoClear(path="notes/tody.md"), StoList(path="notes/today.m")):
        with pytest.raises(NotFound, match=r"did you mean 'notes/today.md'"):
            await world.call(args)
    with pytest.raises(NotFound, match=r"did you mean 'notes'"):
        await world.read("note/today.md")
    with pytest.raises(NotFound, match="; sto_list shows what is there"):
        await world.read("notes/x/today.md")
    with pytest.raises(BadRequest, match="is a folder"):
        await world.call(StoRead(path="notes"))


async def test_the_nearest_path_is_looked_for_in_its_folder_and_among_so_many_names_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("a/note0", "a/note1", "note2"):
        await world.write(path, "x")
    monkeypatch.setattr(versions, "MAX_SIBLINGS", 1)
    with pytest.raises(NotFound, match=r"did you mean 'a/note0'"):
        await world.read("a/note2")


async def test_what_is_cleared_is_gone_from_sight_with_all_below_and_its_name_is_free(world: World) -> None:
    for path in ("a/b/c", "a/d", "a-z", "a0", "b"):
        await world.write(path, path)
    assert (await world.call(StoClear(path="a"))).count == 4
    assert await world.names() == ["a-z", "a0", "b"]
    with pytest.raises(NotFound):
        await world.read("a/d")
    assert await world.write("a/d", "new") == 1
    assert await world.read("a/d") == "new"
    assert world.database.read(lambda c: value(c, "SELECT count(*) FROM files WHERE trashed IS NOT NULL")) == 4


async def test_large_contents_are_files_that_are_kept_once(world: World) -> None:
    await world.write("a", LARGE)
    await world.write("b", LARGE)
    await world.write("c", LARGE, agent="b")
    await world.write("d", "small")
    blobs = blobs_of(world)
    assert [path.read_text() for path in blobs] == [LARGE]
    assert blobs[0].stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["changed", "gone"])
async def test_a_large_content_that_was_damaged_is_never_given_out(world: World, damage: str) -> None:
    await world.write("a", LARGE)
    (blob,) = (path for path in (world.home / "blobs").rglob("*") if path.is_file())
    blob.write_text("y" + LARGE[1:]) if damage == "changed" else blob.unlink()
    with pytest.raises(ModuleFault):
        await world.read("a")


async def test_a_large_content_that_cannot_be_written_is_refused_and_nothing_changes(world: World) -> None:
    await world.write("a", "before")
    (world.home / "blobs").write_text("in the way")
    with pytest.raises(Stopping) as refusal:
        await world.write("a", LARGE)
    assert refusal.value.code == "storage_full"
    assert await world.read("a") == "before"


async def test_what_is_no_text_or_too_much_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadRequest, match="not valid Unicode"):
        await world.write("a", "\ud800")
    monkeypatch.setattr(manager, "MAX_FILE", 100)
    with pytest.raises(TooLarge):
        await world.write("a", "é" * 51)


@pytest.mark.parametrize(("bound", "limit"), [("MAX_ENTRIES", 2), ("MAX_BYTES", 220)])
async def test_an_agent_at_its_bound_is_refused_and_loses_nothing_until_it_is_said_what_may_go(
    world: World, monkeypatch: pytest.MonkeyPatch, bound: str, limit: int
) -> None:
    monkeypatch.setattr(versions, bound, limit)
    await world.write("first", "x" * 10)
    await world.write("second", "x" * 10)
    await world.call(StoClear(path="second"))
    for args in (StoWrite(path="third", content="x" * 10), StoCreate(path="d", kind="folder"), StoCreate(path="e")):
        if bound == "MAX_ENTRIES" or args != StoCreate(path="d", kind="folder"):
            with pytest.raises(TooLarge, match=r"clear some first.*sto_clear with 'trash' empties it"):
                await world.call(args)
    assert in_trash(world) == ["second"]
    assert world.database.read(lambda c: kept(c, "storage", "o", "a")) >= (2, 220)
    await world.write("third", "x" * 10, agent="b")
    assert (await world.call(StoClear(path="second", trash=True))).count == 1
    await world.write("third", "x" * 10)
    assert in_trash(world) == []


def in_trash(world: World) -> list[str]:
    sql = "SELECT path FROM files WHERE trashed IS NOT NULL ORDER BY trashed, path"
    return [path for (path,) in world.database.read(lambda c: rows(c, sql))]


async def test_emptying_the_trash_takes_what_is_in_it_there_and_below_and_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "TRASH_STEP", 2)
    monkeypatch.setattr(manager, "TRASH_STEP", 2)
    for path in ("d/a", "d/b", "d/e/c", "d0", "e"):
        await world.write(path, path)
    await world.write("d/a", "of another", agent="b")
    for path in ("d", "d0", "e"):
        await world.call(StoClear(path=path))
        world.clock.advance(1)
    await world.call(StoClear(path="d"), agent="b")
    await world.write("d/a", "new")
    assert (await world.call(StoClear(path="d", trash=True))).count == 5
    assert in_trash(world) == ["d0", "e", "d", "d/a"]
    assert await world.read("d/a") == "new"
    assert (await world.call(StoClear(path="nothing", trash=True))).count == 0
    assert (await world.call(StoClear(path=".", trash=True))).count == 2
    assert in_trash(world) == ["d", "d/a"]
    assert world.database.read(lambda c: kept(c, "storage", "o", "a")) == (2, 103)
    with pytest.raises(BadRequest, match=r"holds '\.'"):
        await world.call(StoClear(path="."))


async def test_trash_that_is_emptied_leaves_nothing_on_the_disk_but_what_others_name(world: World) -> None:
    await world.write("b", LARGE, agent="b")
    await world.write("a", LARGE)
    await world.write("a", f"{LARGE}y")
    await world.call(StoClear(path="a"))
    await world.call(StoClear(path="a", trash=True))
    assert await world.read("b", agent="b") == LARGE
    blobs = blobs_of(world)
    assert [path.read_text() for path in blobs] == [LARGE]
    assert world.database.read(lambda c: value(c, "SELECT count(*) FROM contents")) == 1


async def test_a_large_content_whose_write_was_refused_leaves_the_disk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "MAX_ENTRIES", 0)
    with pytest.raises(TooLarge):
        await world.write("a", LARGE)
    assert blobs_of(world) == []


async def test_a_large_content_whose_writer_leaves_before_it_is_named_leaves_the_disk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    put = world.storage._blobs.put

    def slow_put(data: bytes) -> Content:
        begun.set()
        assert may_end.wait(60)
        return put(data)

    monkeypatch.setattr(world.storage._blobs, "put", slow_put)
    writing = asyncio.ensure_future(world.write("a", LARGE))
    await asyncio.to_thread(begun.wait, 60)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    may_end.set()
    await asyncio.to_thread(world.storage._threads.shutdown)
    await world.database.run(lambda c: None)
    assert blobs_of(world) == []


async def test_a_large_write_that_went_well_reads_nothing_afterwards(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reads(*_: object) -> None:
        raise AssertionError("there is nothing to look for")

    monkeypatch.setattr(world.database, "read_async", reads)
    for n in range(2):
        assert await world.write("a", LARGE) == n + 1


async def test_a_large_content_that_is_cleared_before_its_writer_has_heard_of_its_commit_leaves_the_disk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = world.database.run

    async def late(job: Any, **more: Any) -> Any:
        outcome = await run(job, **more)
        monkeypatch.undo()
        await world.call(StoClear(path="a"))
        await world.call(StoClear(path="a", trash=True))
        return outcome

    monkeypatch.setattr(world.database, "run", late)
    await world.write("a", LARGE)
    assert blobs_of(world) == []


async def test_a_large_content_stays_when_a_failed_disk_leaves_open_whether_it_was_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def in_doubt(_: object) -> None:
        raise Stopping("an fsync failed", code="storage_failed")

    monkeypatch.setattr(world.database, "run", in_doubt)
    with pytest.raises(Stopping):
        await world.write("a", LARGE)
    assert len(blobs_of(world)) == 1


async def test_a_large_content_that_a_power_failure_cut_off_is_written_again(world: World) -> None:
    content = world.storage._blobs.put(LARGE.encode())
    world.storage._blobs.let_go(content)
    (blob,) = blobs_of(world)
    blob.write_bytes(b"")
    await world.write("a", LARGE)
    assert await world.read("a") == LARGE


async def test_a_large_content_that_could_not_be_written_once_leaves_the_disk_as_any_other(world: World) -> None:
    (world.home / "blobs").write_text("in the way")
    with pytest.raises(Stopping):
        await world.write("a", LARGE)
    (world.home / "blobs").unlink()
    await world.write("a", LARGE)
    await world.call(StoClear(path="a"))
    await world.call(StoClear(path="a", trash=True))
    assert blobs_of(world) == []


def dies(*_: object) -> None:
    raise Stopping("the kernel died")


async def test_emptying_the_trash_run_again_under_its_key_ends_what_was_begun_and_answers_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("a", "b"):
        await world.write(path, "x")
        await world.call(StoClear(path=path))

    with monkeypatch.context() as patch:
        patch.setattr(manager, "drop_leaving", dies)
        with pytest.raises(Stopping):
            await world.call(StoClear(path=".", trash=True), key="k", id="call_1")
    assert in_trash(world) == ["a", "b"]
    world.restart()
    assert (await world.call(StoClear(path=".", trash=True), key="k", id="call_1")).count == 2
    assert in_trash(world) == []


async def test_trash_that_was_being_emptied_when_the_kernel_died_is_counted_no_more_after_the_next_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for agent in ("a", "b"):
        await world.write("kept", "1234567890", agent)
        await world.write("large", LARGE, agent)
        await world.call(StoClear(path="large"), agent)
    monkeypatch.setattr(world.storage, "_drop_leaving", dies)
    with pytest.raises(Stopping):
        await world.call(StoClear(path=".", trash=True))
    monkeypatch.undo()
    world.database.close()
    async with booted(home=world.home) as kernel:
        await kernel._purging
    world.open()
    assert world.database.read(lambda c: kept(c, "storage", "o", "a")) == (1, 110)
    assert world.database.read(lambda c: kept(c, "storage", "o", "b")) == (2, 110 + len(LARGE) + 100)
    assert in_trash(world) == ["large"]
    await world.call(StoClear(path=".", trash=True), "b")
    assert blobs_of(world) == []


async def test_a_content_that_is_about_to_be_named_is_not_dropped(world: World) -> None:
    blobs = world.storage._blobs
    content = blobs.put(LARGE.encode())
    world.database.read(lambda c: blobs.drop(content.hash, c))
    assert blobs.get(content.hash) == LARGE.encode()
    blobs.let_go(content)
    world.database.read(lambda c: blobs.drop(content.hash, c))
    with pytest.raises(ModuleFault):
        blobs.get(content.hash)


async def test_tools_read_the_newest_files_that_fit_and_are_told_that_these_are_not_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n, content in enumerate(("old", "older than the next", LARGE, "new")):
        await world.write(f"{n}", content)
    monkeypatch.setattr(manager, "MAX_READ", 8)
    assert await world.texts() == ({"0": "old", "3": "new"}, False)
    monkeypatch.setattr(manager, "MAX_READ", 1 << 20)
    texts, is_all = await world.texts()
    assert (list(texts), is_all) == (["3", "2", "1", "0"], True)
    monkeypatch.setattr(manager, "MAX_READ_FILES", 3)
    texts, is_all = await world.texts()
    assert (list(texts), is_all) == (["3", "2", "1"], False)


async def test_paths_are_those_of_the_newest_files_and_no_content_is_read(world: World) -> None:
    for path in ("c", "folder/a", "b"):
        await world.write(path, LARGE)
    for blob in (world.home / "blobs").rglob("*"):
        blob.is_file() and blob.unlink()
    assert await world.storage.paths("o", "a", 10) == ["b", "c", "folder/a"]
    assert await world.storage.paths("o", "a", 2) == ["b", "folder/a"]
    assert await world.storage.paths("o", "b", 2) == []


async def test_a_write_run_twice_under_a_key_is_one_version(world: World) -> None:
    for args in (StoWrite(path="a", content="x"), StoCreate(path="f", kind="folder"), StoClear(path="a")):
        first = await world.call(args, key="k", id=f"call_{args!r}")
        world.restart()
        assert await world.call(args, key="k", id=f"call_{args!r}") == first
    assert await world.names() == ["f"]
    assert world.database.read(lambda c: value(c, "SELECT count(*) FROM versions")) == 1


async def test_paths_that_lead_out_are_refused_by_every_call(world: World) -> None:
    for path in ("../a", "/a", "a/../../b", "a\0"):
        for args in (StoRead(path=path), StoWrite(path=path, content="x"), StoCreate(path=path), StoClear(path=path)):
            with pytest.raises(BadRequest):
                await world.call(args)
        with pytest.raises(BadRequest):
            await world.storage.read_text("o", "a", path)
    assert {path.name for path in world.home.iterdir()} <= {
        "aios.db",
        "aios.db-wal",
        "aios.db-shm",
        "kernel.lock",
        "reserve",
    }


@pytest.mark.parametrize("seed", range(3))
async def test_agents_see_their_own_files_and_nothing_of_the_others(world: World, seed: int) -> None:
    dice = random.Random(seed)
    agents = [("o", "a"), ("o", "b"), ("p", "a"), ("o/a", "x")]
    model: dict[tuple[str, str], dict[str, list[str]]] = {agent: {} for agent in agents}
    paths = ["a", "b", "d/a", "d/b", "d/e/a"]
    for step in range(250):
        owner, agent = place = dice.choice(agents)
        mine, path = model[place], dice.choice(paths)
        try:
            match dice.randrange(4):
                case 0:
                    content = f"secret of {agents.index(place)} step {step}" * dice.choice([1, 5000])
                    await world.call(StoWrite(path=path, content=content), agent, owner)
                    mine.setdefault(path, []).append(content)
                case 1:
                    file = await world.call(StoRead(path=path), agent, owner)
                    assert [file.content, file.version] == [mine[path][-1], len(mine[path])]
                case 2:
                    await world.call(StoClear(path=path), agent, owner)
                    del mine[path]
                case 3:
                    listed = (await world.call(StoList(), agent, owner)).entries
                    assert {entry.path for entry in listed if entry.kind == "file"} == {p for p in mine if "/" not in p}
        except NotFound as error:
            message = error.message
            assert path not in mine
            assert "secret" not in message
    for (owner, agent), mine in model.items():
        assert await world.texts(owner, agent) == ({path: versions[-1] for path, versions in mine.items()}, True)

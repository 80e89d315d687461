"""Files of a mounted folder: what agents write is there and versioned, and what others do is noticed and kept."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mount_world import MountWorld, large

from aios.abi.calls import (
    StoClear,
    StoCreate,
    StoDiff,
    StoHistory,
    StoList,
    StoMove,
    StoRead,
    StoRestore,
    StoRollback,
)
from aios.abi.errors import BadRequest, Conflict, Denied, NotFound, Stopping, TooLarge
from aios.kernel.storage.mounts import reads as mount_reads
from aios.kernel.storage.mounts import writes as mount_writes
from aios.kernel.storage.mounts.writes import Writes
from aios.kernel.storage.versions import Stamp

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MountWorld]:
    world = await MountWorld(tmp_path).begun()
    yield world
    await world.end()
    world.check_integrity()
    world.close()


# ── what agents write ──


@pytest.mark.parametrize("text", ["", "short ☃", large(1)], ids=["empty", "short", "large"])
@pytest.mark.parametrize("durable", [False, True], ids=["fast", "durable"])
async def test_what_an_agent_writes_is_in_the_folder_and_is_a_version(
    world: MountWorld, text: str, durable: bool
) -> None:
    await world.again(durable=durable)
    assert await world.write("docs/new/a.txt", "first") == 1
    assert await world.write("docs/new/a.txt", text) == 2
    assert world.all_files() == {"new/a.txt": text}
    assert await world.read("docs/new/a.txt") == text
    assert await world.read("docs/new/a.txt", 1) == "first"
    await world.again()
    assert await world.read("docs/new/a.txt") == text
    assert await world.history("docs/new/a.txt") == [(1, "a"), (2, "a")]


async def test_every_call_on_files_works_in_a_mount(world: MountWorld) -> None:
    await world.call(StoCreate(path="docs/b", kind="folder"))
    await world.call(StoCreate(path="docs/b/empty.txt"))
    with pytest.raises(Conflict, match="something is at 'docs/b' already"):
        await world.call(StoCreate(path="docs/b", kind="folder"))
    for text in ("one\n", "two\n"):
        await world.write("docs/a.txt", text)
    assert await world.names() == ["docs"]
    assert await world.names("docs") == ["docs/a.txt", "docs/b"]
    diff = await world.call(StoDiff(path="docs/a.txt"))
    assert "-one\n+two\n" in diff.text
    assert (await world.call(StoRollback(path="docs/a.txt", version=1))).version == 3
    assert world.text("a.txt") == "one\n"
    await world.call(StoMove(path="docs/a.txt", to="docs/b/c.txt"))
    assert world.all_files() == {"b/empty.txt": "", "b/c.txt": "one\n"}
    assert await world.history("docs/b/c.txt") == [(1, "a"), (2, "a"), (3, "a")]
    assert await world.clear("docs/b") == 3
    assert os.listdir(world.top) == []
    assert await world.names("docs") == []
    assert await world.names("docs", trash=True) == ["docs/b"]
    await world.call(StoRestore(path="docs/b"))
    assert world.all_files() == {"b/empty.txt": "", "b/c.txt": "one\n"}
    assert await world.read("docs/b/c.txt", 2) == "two\n"
    assert await world.write("docs/b/c.txt", "four") == 4


async def test_a_listing_of_the_top_shows_mounts_among_the_agents_own_files(world: MountWorld) -> None:
    await world.write("a.txt", "x")
    await world.write("z.txt", "x")
    entries = (await world.call(StoList())).entries
    assert [(e.path, e.kind) for e in entries] == [("a.txt", "file"), ("docs", "mount"), ("z.txt", "file")]
    first = await world.call(StoList(limit=2))
    assert ([e.path for e in first.entries], first.has_more) == (["a.txt", "docs"], True)
    rest = await world.call(StoList(limit=2, after="docs"))
    assert ([e.path for e in rest.entries], rest.has_more) == (["z.txt"], False)


async def test_a_listing_goes_page_by_page(world: MountWorld) -> None:
    for n in range(7):
        world.put(f"d/f{n}", "x")
    seen: list[str] = []
    while True:
        page = await world.call(StoList(path="docs/d", limit=3, after=seen[-1] if seen else None))
        seen += [entry.path for entry in page.entries]
        if not page.has_more:
            break
    assert seen == [f"docs/d/f{n}" for n in range(7)]


async def test_a_write_upon_a_version_that_is_old_is_refused_also_when_others_were_faster(world: MountWorld) -> None:
    await world.write("docs/a.txt", "one")
    with pytest.raises(Conflict, match="not at version 0"):
        await world.write("docs/a.txt", "new", base=0)
    world.put("a.txt", "by others")
    with pytest.raises(Conflict, match="not at version 1: its newest version is 2"):
        await world.write("docs/a.txt", "two", base=1)
    assert world.text("a.txt") == "by others"
    assert await world.write("docs/a.txt", "two", base=2) == 3


async def test_part_of_a_file_is_read_and_what_is_no_text_as_base64(world: MountWorld) -> None:
    (world.top / "raw").write_bytes(b"\xff\x00abc")
    found = await world.call(StoRead(path="docs/raw", encoding="base64", offset=2, length=2))
    assert (found.content, found.size, found.version) == ("YWI=", 5, 1)
    with pytest.raises(BadRequest, match="no UTF-8"):
        await world.read("docs/raw")


async def test_two_agents_see_each_others_writes_in_a_shared_mount_and_nothing_else(world: MountWorld) -> None:
    await world.write("docs/a.txt", "of one", agent="one")
    await world.write("own.txt", "of one", agent="one")
    assert await world.read("docs/a.txt", agent="two") == "of one"
    assert await world.write("docs/a.txt", "of two", agent="two") == 2
    assert await world.history("docs/a.txt") == [(1, "one"), (2, "two")]
    assert await world.names(agent="two") == ["docs"]
    with pytest.raises(NotFound):
        await world.read("own.txt", agent="two")


async def test_a_mount_of_one_agent_is_no_others(world: MountWorld, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    await world.mount("mine", tmp_path / "mine", agent="one")
    await world.write("mine/a.txt", "x", agent="one")
    assert (tmp_path / "mine" / "a.txt").read_text() == "x"
    assert await world.names(agent="two") == ["docs"]
    await world.write("mine/a.txt", "own", agent="two")
    assert (tmp_path / "mine" / "a.txt").read_text() == "x"
    assert await world.names(agent="one") == ["docs", "mine"]


async def test_of_two_mounts_of_one_folder_each_takes_what_the_other_does_for_others_doings(world: MountWorld) -> None:
    await world.mount("same", agent="one")
    await world.write("docs/a.txt", "one", agent="two")
    assert await world.write("same/a.txt", "two", agent="one") == 2
    assert await world.read("docs/a.txt", agent="two") == "two"
    assert await world.history("docs/a.txt") == [(1, "two"), (2, "outside")]


async def test_a_read_only_mount_is_read_versioned_and_not_changed(world: MountWorld, tmp_path: Path) -> None:
    (tmp_path / "fixed").mkdir()
    (tmp_path / "fixed" / "a.txt").write_text("one")
    await world.mount("fixed", tmp_path / "fixed", is_read_only=True)
    assert await world.read("fixed/a.txt") == "one"
    for args in (
        StoCreate(path="fixed/b"), StoMove(path="fixed/a.txt", to="fixed/b"), StoClear(path="fixed/a.txt"),
        StoRollback(path="fixed/a.txt", version=1), StoRestore(path="fixed/a.txt"),
    ):  # fmt: skip
        with pytest.raises(Denied, match="can only be read"):
            await world.call(args)
    with pytest.raises(Denied, match="can only be read"):
        await world.write("fixed/a.txt", "x")
    (tmp_path / "fixed" / "a.txt").write_text("two")
    assert await world.history("fixed/a.txt") == [(1, "outside"), (2, "outside")]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (StoClear(path="docs"), "is a mount"),
        (StoMove(path="docs", to="other"), "is a mount"),
        (StoMove(path="docs/d", to="docs/d/e"), "below itself"),
        (StoMove(path="docs/a.txt", to="own.txt"), "not in the same mount"),
        (StoMove(path="own.txt", to="docs/own.txt"), "not in the same mount"),
        (StoCreate(path="docs/.aios-0123456789abcdef.part"), "keeps for itself"),
        (StoRead(path="docs/d"), "'docs/d' is a folder"),
        (StoRead(path="docs/none"), "no file or folder 'docs/none'"),
        (StoCreate(path="docs/link/x"), "is a link"),
        (StoRead(path="docs/link/x"), "is a link"),
        (StoHistory(path="docs/link"), "is a link"),
        (StoClear(path="docs/d"), "'docs/d/link'"),
        (StoMove(path="docs/a.txt", to="docs/d"), "already"),
        (StoRestore(path="docs/none"), "nothing that was cleared is called 'docs/none'"),
    ],
)
async def test_what_cannot_be_done_is_said_and_nothing_is_changed(world: MountWorld, args: StoClear, says: str) -> None:
    world.put("a.txt", "x")
    world.put("d/e.txt", "x")
    (world.top / "link").symlink_to(world.home)
    (world.top / "d" / "link").symlink_to(world.home)
    await world.write("own.txt", "x")
    before = world.all_files()
    with pytest.raises((BadRequest, Conflict, NotFound, Denied), match=says):
        await world.call(args)
    assert world.all_files() == before
    assert (world.top / "d" / "link").is_symlink()


# ── what others change ──


async def test_what_others_change_is_read_at_once_and_is_a_version_by_outside(world: MountWorld) -> None:
    await world.write("docs/a.txt", "one")
    world.put("a.txt", "two")
    found = await world.call(StoRead(path="docs/a.txt"))
    assert (found.content, found.version) == ("two", 2)
    world.put("a.txt", "three")
    assert await world.history("docs/a.txt") == [(1, "a"), (2, "outside"), (3, "outside")]
    assert await world.read("docs/a.txt", 2) == "two"


async def test_what_others_wrote_is_kept_before_an_agent_replaces_it(world: MountWorld) -> None:
    world.put("a.txt", "by others")
    assert await world.write("docs/a.txt", "by an agent") == 2
    assert await world.read("docs/a.txt", 1) == "by others"
    world.put("b.txt", large(2))
    assert await world.clear("docs/b.txt") == 1
    await world.call(StoRestore(path="docs/b.txt"))
    assert world.text("b.txt") == large(2)


async def test_what_others_delete_is_in_the_trash_and_goes_on_where_it_was_when_it_is_back(world: MountWorld) -> None:
    await world.write("docs/a.txt", "one")
    await world.write("docs/d/b.txt", "two")
    (world.top / "a.txt").unlink()
    shutil.rmtree(world.top / "d")
    await world.changed("a.txt", "d")
    assert await world.names("docs") == []
    assert await world.names("docs", trash=True) == ["docs/a.txt", "docs/d"]
    await world.call(StoRestore(path="docs/d"))
    assert world.all_files() == {"d/b.txt": "two"}
    world.put("a.txt", "back")
    await world.changed("a.txt")
    assert await world.history("docs/a.txt") == [(1, "a"), (2, "outside")]
    assert await world.names("docs", trash=True) == []


async def test_what_changed_while_the_kernel_was_away_is_found_at_the_next_start(world: MountWorld) -> None:
    await world.write("docs/a.txt", "one")
    await world.write("docs/gone.txt", "x")
    await world.end()
    world.put("a.txt", "two")
    world.put("new/b.txt", "b")
    (world.top / "gone.txt").unlink()
    world.restart()
    await world.begin()
    assert await world.history("docs/a.txt") == [(1, "a"), (2, "outside")]
    assert await world.history("docs/new/b.txt") == [(1, "outside")]
    assert await world.names("docs", trash=True) == ["docs/gone.txt"]


async def test_a_file_that_became_a_folder_and_a_folder_that_became_a_file_are_kept_both(world: MountWorld) -> None:
    await world.write("docs/a", "file")
    await world.write("docs/b/c", "in a folder")
    (world.top / "a").unlink()
    shutil.rmtree(world.top / "b")
    world.put("a/x", "in a folder now")
    world.put("b", "file now")
    await world.changed("a/x", "b")
    assert await world.read("docs/a/x") == "in a folder now"
    assert await world.read("docs/b") == "file now"
    assert sorted(await world.names("docs", trash=True)) == ["docs/a", "docs/b"]


async def test_a_file_that_became_a_link_is_gone_for_agents_and_in_the_trash(world: MountWorld) -> None:
    await world.write("docs/a.txt", "one")
    (world.top / "a.txt").unlink()
    (world.top / "a.txt").symlink_to(world.home / "aios.db")
    await world.changed("a.txt")
    assert await world.names("docs") == []
    assert await world.names("docs", trash=True) == ["docs/a.txt"]
    with pytest.raises(Denied, match="is a link"):
        await world.read("docs/a.txt")


async def test_a_change_of_the_same_size_within_a_tick_of_the_clock_is_found_by_looking_thoroughly(
    world: MountWorld,
) -> None:
    await world.write("docs/a.txt", "one")
    descriptor = os.open(world.top / "a.txt", os.O_WRONLY)
    os.write(descriptor, b"two")
    os.close(descriptor)
    signature = world.mounted().beneath.stat("a.txt").signature
    with world.database._writer._connection as connection:  # as if the clock had not ticked in between
        connection.execute("UPDATE seen SET size = ?, modified = ?, changed = ?, inode = ?", signature)
    world.mounted().follower.look_whole()
    await world.quiet()
    assert await world.history("docs/a.txt") == [(1, "a"), (2, "outside")]


async def test_a_large_file_is_not_waited_for_by_who_reads_it(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mount_reads, "INLINE", 100_000)
    world.put("a.txt", large(3))
    found = await world.call(StoRead(path="docs/a.txt"))
    assert (found.content, found.version) == (large(3), 0)
    await world.quiet()
    assert (await world.call(StoRead(path="docs/a.txt"))).version == 1


async def test_who_is_faster_in_the_very_moment_of_a_write_loses_nothing(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.write("docs/a.txt", "one")
    real, rest = mount_writes.Stage.commit, ["by others 1", "by others 2"]

    def slowly(stage: object, expected: object) -> object:
        if rest:
            world.put("a.txt", rest.pop(0))
        return real(stage, expected)  # type: ignore[arg-type]

    monkeypatch.setattr(mount_writes.Stage, "commit", slowly)
    assert await world.write("docs/a.txt", "mine") == 4
    assert [await world.read("docs/a.txt", n) for n in (1, 2, 3, 4)] == ["one", "by others 1", "by others 2", "mine"]


async def test_a_file_that_others_change_all_the_time_is_busy_and_a_write_to_it_says_so(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.write("docs/a.txt", "one")
    real, looks = world.mounted().beneath.find, 0

    def find(path: str) -> object:
        nonlocal looks
        looks += 1
        world.put("a.txt", "by others " * looks)
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(world.mounted().beneath, "find", find)
        with pytest.raises(Conflict, match=r"'docs/a\.txt' is being changed by others in this moment: try again"):
            await world.write("docs/a.txt", "mine")
    assert world.text("a.txt") == "by others " * looks
    assert await world.write("docs/a.txt", "mine") == (await world.history("docs/a.txt"))[-1][0]


async def test_what_comes_back_into_a_folder_that_others_take_away_stays_in_the_trash(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.write("docs/d/a.txt", "one")
    await world.clear("docs/d/a.txt")
    real = world.mounted().beneath.stage

    def stage(path: str) -> object:
        staged = real(path)
        (world.top / "d").rename(world.top / "away")
        (world.top / "d").mkdir()
        return staged

    with monkeypatch.context() as patched:
        patched.setattr(world.mounted().beneath, "stage", stage)
        with pytest.raises(Conflict, match=r"'docs/d/a\.txt' is being changed by others in this moment: try again"):
            await world.call(StoRestore(path="docs/d/a.txt"))
    assert world.all_files() == {}
    assert (await world.call(StoRestore(path="docs/d/a.txt"))).version == 1
    assert world.all_files() == {"d/a.txt": "one"}


async def test_what_stays_after_all_is_put_beside_what_others_made_at_its_place(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was changed, and another that came, while an agent cleared it."""
    await world.write("docs/a.txt", "one")
    real = world.mounted().beneath.set_aside

    def slowly(path: str, name: str) -> str:
        aside = real(path, name)
        (world.top / aside).write_text("changed in the last moment")
        world.put("a.txt", "new")
        return aside

    monkeypatch.setattr(world.mounted().beneath, "set_aside", slowly)
    with pytest.raises(Conflict, match="being changed by others"):
        await world.clear("docs/a.txt")
    assert sorted(world.all_files().values()) == ["changed in the last moment", "new"]
    assert {name for name in world.all_files() if name.endswith(".kept")} != set()


async def test_an_upload_that_takes_its_time_holds_up_no_other_write(world: MountWorld) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"the first part, "
        begun.set()
        await go_on.wait()
        yield b"and the last"

    upload = asyncio.ensure_future(Writes(world.mounted()).write("a.txt", slowly(), Stamp(1.0, "slow")))
    await begun.wait()
    assert await world.write("docs/a.txt", "quick") == 1
    go_on.set()
    assert (await upload).version == 2
    assert world.text("a.txt") == await world.read("docs/a.txt", 2) == "the first part, and the last"
    refused = asyncio.ensure_future(Writes(world.mounted()).write("new/b.txt", slowly(), Stamp(1.0), base=5))
    with pytest.raises(Conflict, match="not at version 5"):
        await refused
    assert not (world.top / "new").exists()


# ── room ──


async def test_past_the_bound_files_are_shown_and_read_and_their_history_says_that_they_are_not_kept(
    world: MountWorld,
) -> None:
    await world.again(limit=200_000)
    world.put("large.txt", large(4))
    world.put("small.txt", "x")
    world.mounted().follower.look_whole()
    await world.quiet()
    found = await world.call(StoRead(path="docs/large.txt"))
    assert (found.content, found.version) == (large(4), 0)
    history = await world.call(StoHistory(path="docs/large.txt"))
    assert history.revisions == []
    assert "bytes of files" in history.not_kept
    assert {e.path: e.version for e in (await world.call(StoList(path="docs"))).entries} == {
        "docs/large.txt": 0, "docs/small.txt": 1,
    }  # fmt: skip
    for attempt in (
        world.write("docs/large.txt", "x"), world.clear("docs/large.txt"), world.clear("docs"),
    ):  # fmt: skip
        with pytest.raises((TooLarge, BadRequest)):
            await attempt
    assert world.text("large.txt") == large(4)
    await world.call(StoMove(path="docs/large.txt", to="docs/other.txt"))
    assert world.text("other.txt") == large(4)
    (info,) = world.storage.mounts.infos(("o", "a"), is_admin=True)  # type: ignore[arg-type]
    assert info.not_kept >= 1


async def test_what_a_mount_keeps_counts_for_itself_and_not_for_its_agent(world: MountWorld, tmp_path: Path) -> None:
    await world.again(limit=400_000)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "large.txt").write_text(large(5))
    await world.mount("mine", tmp_path / "mine", agent="a")
    assert await world.history("mine/large.txt") == [(1, "outside")]
    assert world.kept("a") == (0, 0)
    await world.write("own.txt", large(6))
    with pytest.raises(TooLarge, match="a mount, may keep 400,000 bytes"):
        await world.write("mine/more.txt", large(7))
    assert sorted(os.listdir(tmp_path / "mine")) == ["large.txt"]


# ── folders that are not there ──


async def test_a_folder_that_disappears_is_said_to_and_nothing_is_deleted_by_that(world: MountWorld) -> None:
    await world.write("docs/a.txt", "one")
    world.top.rename(world.top.with_name("away"))
    for attempt in (world.read("docs/a.txt"), world.write("docs/a.txt", "x"), world.names("docs")):
        with pytest.raises(Stopping, match="the mount 'docs' is not there") as refusal:
            await attempt
        assert refusal.value.code == "mount_gone"
        assert str(world.top) not in refusal.value.message
    await world.changed("a.txt", "")
    assert await world.read("docs/a.txt", 1) == "one"
    history = await world.call(StoHistory(path="docs/a.txt"))
    assert ([r.version for r in history.revisions], "not there" in history.not_kept) == ([1], True)
    await world.again()
    world.top.with_name("away").rename(world.top)
    assert await world.read("docs/a.txt") == "one"
    await world.quiet()
    assert await world.names("docs", trash=True) == []


async def test_an_empty_folder_in_its_place_is_a_disk_that_is_missing_and_a_full_one_is_the_folder_again(
    world: MountWorld,
) -> None:
    await world.write("docs/a.txt", "one")
    world.top.rename(world.top.with_name("away"))
    world.top.mkdir()
    for _ in range(2):
        with pytest.raises(Stopping, match=r"another folder is in its place|an empty folder is in its place"):
            await world.read("docs/a.txt")
    await world.again()
    with pytest.raises(Stopping, match="an empty folder is in its place"):
        await world.names("docs")
    assert await world.names("docs", trash=True) == []
    world.put("b.txt", "new")
    assert await world.read("docs/b.txt") == "new"
    await world.quiet()
    assert await world.names("docs", trash=True) == ["docs/a.txt"]


async def test_a_folder_that_is_back_is_followed_again_without_being_asked(world: MountWorld) -> None:
    await world.write("docs/a.txt", "one")
    world.top.rename(world.top.with_name("away"))
    world.clock.advance(10)
    await world.mounted()._looking  # type: ignore[misc]
    assert world.storage.mounts.infos(("o", "a"), is_admin=True)[0].why_gone  # type: ignore[arg-type]
    (world.top.with_name("away") / "b.txt").write_text("b")
    world.top.with_name("away").rename(world.top)
    world.clock.advance(10)
    await world.mounted()._looking  # type: ignore[misc]
    await world.quiet()
    assert await world.history("docs/b.txt") == [(1, "outside")]

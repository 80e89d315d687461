"""What is cleared is gone from sight, comes back when asked for, and leaves for good when somebody says so."""

from __future__ import annotations

import pytest
from storage_world import LARGE, World

from aios.abi.calls import StoClear, StoList, StoMove, StoRestore
from aios.abi.errors import BadRequest, Conflict, NotFound, Stopping
from aios.kernel.storage import trash, versions
from aios.testing import booted

pytestmark = pytest.mark.anyio


async def test_what_is_cleared_is_gone_from_sight_with_all_below_and_its_name_is_free(world: World) -> None:
    for path in ("a/b/c", "a/d", "a-z", "a0", "b"):
        await world.write(path, path)
    assert await world.clear("a") == 4
    assert await world.names() == ["a-z", "a0", "b"]
    with pytest.raises(NotFound):
        await world.read("a/d")
    assert await world.write("a/d", "new") == 1
    assert await world.read("a/d") == "new"
    assert await world.names("a") == ["a/d"]


async def test_what_was_cleared_comes_back_with_its_history(world: World) -> None:
    await world.write("d/e/a", "old")
    await world.write("d/e/a", "new")
    await world.clear("d")
    restored = await world.call(StoRestore(path="d"))
    assert (restored.path, await world.read("d/e/a", 1), await world.read("d/e/a")) == ("d", "old", "new")
    assert await world.names(trash=True) == []
    with pytest.raises(NotFound, match="sto_list with 'trash' shows what can be restored"):
        await world.call(StoRestore(path="d"))


async def test_a_file_comes_back_alone_out_of_a_folder_that_was_cleared(world: World) -> None:
    for path in ("d/a", "d/e/b"):
        await world.write(path, path)
    await world.clear("d")
    assert (await world.call(StoRestore(path="d/e/b"))).version == 1
    assert (await world.names("d"), await world.read("d/e/b")) == (["d/e"], "d/e/b")
    with pytest.raises(Conflict, match="'d' is there already: it is a folder"):
        await world.call(StoRestore(path="d"))
    await world.call(StoRestore(path="d/a"))
    assert await world.names("d") == ["d/a", "d/e"]


async def test_of_what_was_cleared_twice_the_later_comes_back_first(world: World) -> None:
    for content in ("first", "second"):
        await world.write("d/a", content)
        await world.clear("d")
        world.clock.advance(1)
    await world.write("d/a", "third")
    await world.clear("d/a")
    contents = []
    for n in range(3):
        await world.call(StoRestore(path="d/a"))
        contents.append(await world.read("d/a"))
        await world.call(StoMove(path="d/a", to=f"kept{n}"))
    assert contents == ["third", "second", "first"]


async def test_what_was_cleared_comes_back_where_another_is_only_when_that_is_out_of_the_way(world: World) -> None:
    await world.write("a", "old")
    await world.clear("a")
    await world.write("a", "new")
    with pytest.raises(Conflict, match="'a' is there already"):
        await world.call(StoRestore(path="a"))
    await world.call(StoMove(path="a", to="b"))
    await world.call(StoRestore(path="a"))
    assert (await world.read("a"), await world.read("b")) == ("old", "new")


async def test_the_trash_is_listed_by_path_and_in_pages(world: World) -> None:
    for path in ("d/a", "d/b", "e/x", "f"):
        await world.write(path, "12")
    for path in ("d/b", "e", "f", "d"):
        await world.clear(path)
    first = await world.call(StoList(trash=True, limit=3))
    assert ([(e.path, e.kind) for e in first.entries], first.has_more) == (
        [("d", "folder"), ("d/b", "file"), ("e", "folder")],
        True,
    )
    rest = await world.call(StoList(trash=True, after="e"))
    assert ([(e.path, e.size) for e in rest.entries], rest.has_more) == ([("f", 2)], False)
    assert await world.names("d", trash=True) == ["d", "d/b"]
    assert await world.names("e/x", trash=True) == []
    assert await world.names("e", trash=True) == ["e"]


async def test_emptying_the_trash_takes_what_is_in_it_there_and_below_and_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (versions, trash):
        monkeypatch.setattr(module, "STEP", 2)
    for path in ("d/a", "d/b", "d/e/c", "d0", "e"):
        for _ in range(3):
            await world.write(path, path)
    await world.write("d/a", "of another", agent="b")
    for path in ("d", "d0", "e"):
        await world.clear(path)
        world.clock.advance(1)
    await world.clear("d", agent="b")
    await world.write("d/a", "new")
    assert await world.clear("d", trash=True) == 5
    assert await world.names(trash=True) == ["d0", "e"]
    assert await world.names(trash=True, agent="b") == ["d"]
    assert await world.read("d/a") == "new"
    assert await world.clear("nothing", trash=True) == 0
    assert await world.clear(".", trash=True) == 2
    assert await world.names(trash=True) == []
    assert (world.kept(), world.kept("b")) == ((2, 103), (2, 110))
    assert (world.count("files"), world.count("versions"), world.count("contents")) == (4, 2, 2)
    with pytest.raises(BadRequest, match=r"holds '\.'"):
        await world.call(StoClear(path="."))


async def test_a_part_of_what_was_cleared_together_leaves_for_good_alone(world: World) -> None:
    for path in ("d/a", "d/e/b", "d/e/c"):
        await world.write(path, path)
    await world.clear("d")
    assert await world.clear("d/e", trash=True) == 3
    await world.call(StoRestore(path="d"))
    assert (await world.names("d"), world.kept()) == (["d/a"], (2, 103))


async def test_what_was_cleared_out_of_a_folder_outlives_that_folder(world: World) -> None:
    for path in ("d/a", "d/b"):
        await world.write(path, path)
    await world.clear("d/a")
    await world.clear("d")
    assert await world.clear("d", trash=True) == 3
    await world.write("d/a", "x")
    await world.clear("d/a")
    await world.write("d/b", "x")
    await world.clear("d")
    with pytest.raises(NotFound):
        await world.call(StoRestore(path="d/c"))
    await world.call(StoRestore(path="d/a"))
    assert await world.read("d/a") == "x"


async def test_trash_that_is_emptied_leaves_nothing_on_the_disk_but_what_others_name(
    world: World, in_files: None
) -> None:
    await world.write("b", LARGE, agent="b")
    await world.write("a", LARGE)
    await world.write("a", f"{LARGE}y")
    num_files = len(world.blobs())
    await world.clear("a")
    assert len(world.blobs()) == num_files
    await world.clear("a", trash=True)
    assert await world.read("b", agent="b") == LARGE
    assert len(world.blobs()) == world.count("chunks", "body IS NULL") < num_files
    assert world.count("contents") == 1


def dies(*_: object) -> None:
    raise Stopping("the kernel died")


async def test_emptying_the_trash_run_again_under_its_key_ends_what_was_begun_and_answers_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("a", "b"):
        await world.write(path, "x")
        await world.clear(path)
    with monkeypatch.context() as patch:
        patch.setattr(trash, "drop_leaving", dies)
        with pytest.raises(Stopping):
            await world.call(StoClear(path=".", trash=True), key="k", id="call_1")
    assert (await world.names(trash=True), world.count("files")) == ([], 2)
    world.restart()
    assert (await world.call(StoClear(path=".", trash=True), key="k", id="call_1")).count == 2
    assert world.count("files") == 0


async def test_trash_that_was_being_emptied_when_the_kernel_died_is_counted_no_more_after_the_next_start(
    world: World, monkeypatch: pytest.MonkeyPatch, in_files: None
) -> None:
    for agent in ("a", "b"):
        await world.write("kept", "1234567890", agent)
        await world.write("large", LARGE, agent)
        await world.clear("large", agent)
    monkeypatch.setattr(world.store, "drop_leaving", dies)
    with pytest.raises(Stopping):
        await world.call(StoClear(path=".", trash=True))
    monkeypatch.undo()
    world.close()
    async with booted(home=world.home) as kernel:
        assert kernel.house.purging is not None
        await kernel.house.purging
    world.open()
    assert world.kept() == (1, 110)
    assert world.kept("b") == (2, 110 + len(LARGE) + 100)
    assert await world.names(trash=True, agent="b") == ["large"]
    await world.call(StoClear(path=".", trash=True), "b")
    assert world.blobs() == []


async def test_an_emptied_trash_is_empty_though_the_disk_fails_what_is_left_to_drop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.write("a", LARGE)
    await world.clear("a")

    def full(connection: object) -> bool:
        raise Stopping("the disk is full", code="storage_full")

    with monkeypatch.context() as patched:
        patched.setattr(trash, "drop_leaving", full)
        assert await world.clear(".", trash=True) == 1
    assert await world.names(trash=True) == []
    world.restart()
    await world.storage.keep_house()
    assert (world.count("files"), world.blobs(), world.faults()) == (0, [], [])

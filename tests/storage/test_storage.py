"""An agent's files: versions, folders, moves, and nobody else's."""

from __future__ import annotations

import random
from base64 import b64encode
from typing import Any

import pytest
from storage_world import LARGE, World

from aios.abi.calls import (
    Args,
    StoClear,
    StoCreate,
    StoDiff,
    StoHistory,
    StoList,
    StoMove,
    StoRead,
    StoRestore,
    StoRollback,
    StoStat,
    StoWrite,
)
from aios.abi.errors import BadRequest, Conflict, NotFound, TooLarge
from aios.kernel.storage import reading, texts, tree, writing

pytestmark = pytest.mark.anyio


# ── writing and reading ──


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


async def test_bytes_that_are_no_text_are_written_and_read_as_base64(world: World) -> None:
    data = bytes(range(256))
    await world.write("a.bin", b64encode(data).decode(), encoding="base64")
    file = await world.call(StoRead(path="a.bin", encoding="base64"))
    assert (file.content, file.encoding, file.size) == (b64encode(data).decode(), "base64", 256)
    with pytest.raises(BadRequest, match="no UTF-8 at byte 128") as refusal:
        await world.read("a.bin")
    assert refusal.value.code == "not_text"
    with pytest.raises(BadRequest, match="no base64"):
        await world.write("a.bin", "a=b=", encoding="base64")


@pytest.mark.parametrize("size", [1000, 200_000])
async def test_a_part_of_a_file_is_read_by_offset_and_length(world: World, size: int) -> None:
    content = LARGE[:size]
    await world.write("a", content)
    for offset, length in ((0, 0), (0, 5), (7, 90_000), (size - 3, 100), (size, 1), (size + 5, None), (20, None)):
        file = await world.call(StoRead(path="a", offset=offset, length=length))
        assert file.content == (content[offset:] if length is None else content[offset : offset + length])
        assert file.size == size


async def test_more_than_a_call_carries_is_read_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.write("a", LARGE)
    for module in (reading, writing):
        monkeypatch.setattr(module, "MAX_CALL", 100_000)
    with pytest.raises(TooLarge, match=r"holds 200,000 bytes.*GET /aios/v1/files"):
        await world.read("a")
    halves = [(await world.call(StoRead(path="a", offset=n, length=100_000))).content for n in (0, 100_000)]
    assert "".join(halves) == LARGE
    with pytest.raises(TooLarge, match="PUT /aios/v1/files"):
        await world.write("a", LARGE)


async def test_what_is_no_text_or_too_much_is_refused(world: World) -> None:
    with pytest.raises(BadRequest, match="not valid Unicode"):
        await world.write("a", "\ud800")
    world.restart(max_file=100_000)
    with pytest.raises(TooLarge, match=r"100,000 bytes \(\[storage\] max_file\)"):
        await world.write("a", LARGE)
    assert await world.names() == []


async def test_a_write_upon_another_version_than_was_seen_is_refused(world: World) -> None:
    assert await world.write("a", "1", base=0) == 1
    assert await world.write("a", "2", base=1) == 2
    for base in (0, 1, 3):
        with pytest.raises(Conflict, match="its newest version is 2") as refusal:
            await world.write("a", "x", base=base)
        assert refusal.value.code == "version_conflict"
    with pytest.raises(Conflict, match="there is no such file"):
        await world.write("d/b", LARGE, base=1)
    assert (await world.read("a"), await world.names()) == ("2", ["a"])
    assert world.count("contents") == 2


async def test_a_write_run_twice_under_a_key_is_one_version(world: World) -> None:
    calls: list[Args] = [
        StoWrite(path="a", content="x"), StoWrite(path="b", content=LARGE), StoCreate(path="f", kind="folder"),
        StoRollback(path="a", version=1), StoMove(path="a", to="c"), StoClear(path="c"), StoRestore(path="c"),
    ]  # fmt: skip
    for n, args in enumerate(calls):
        first = await world.call(args, key="k", id=f"keyed_{n}")
        world.restart()
        assert await world.call(args, key="k", id=f"keyed_{n}") == first
        await world.storage.keep_house()
    assert await world.names() == ["b", "c", "f"]
    assert world.count("versions") == 3
    assert world.count("contents") == 2


# ── folders ──


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


async def test_a_listing_comes_in_pages(world: World) -> None:
    for n in range(5):
        await world.write(f"d/{n}", "x")
    first = await world.call(StoList(path="d", limit=2))
    assert ([e.path for e in first.entries], first.has_more) == (["d/0", "d/1"], True)
    second = await world.call(StoList(path="d", limit=3, after="d/1"))
    assert ([e.path for e in second.entries], second.has_more) == (["d/2", "d/3", "d/4"], False)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (StoCreate(path="file"), "there already"),
        (StoCreate(path="folder", kind="folder"), "there already"),
        (StoWrite(path="folder", content="x"), "is a folder"),
        (StoWrite(path="file/below", content="x"), "'file' is a file"),
        (StoCreate(path="file/below", kind="folder"), "'file' is a file"),
        (StoMove(path="file", to="folder"), "there already: it is a folder"),
        (StoMove(path="folder", to="file"), "there already: it is a file"),
        (StoMove(path="folder", to="file/below"), "'file' is a file"),
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
    calls: list[Args] = [
        StoRead(path="notes/todya.md"), StoClear(path="notes/tody.md"), StoList(path="notes/today.m"),
        StoMove(path="notes/todya.md", to="x"), StoHistory(path="notes/todya.md"), StoDiff(path="notes/todya.md"),
        StoRollback(path="notes/todya.md", version=1),
    ]  # fmt: skip
    for args in calls:
        with pytest.raises(NotFound, match=r"did you mean 'notes/today.md'"):
            await world.call(args)
    with pytest.raises(NotFound, match=r"did you mean 'notes'"):
        await world.read("note/today.md")
    with pytest.raises(NotFound, match="; sto_list shows what is there"):
        await world.read("notes/x/today.md")
    for folder in (StoRead(path="notes"), StoHistory(path="notes"), StoRollback(path="notes", version=1)):
        with pytest.raises(BadRequest, match="is a folder"):
            await world.call(folder)


async def test_the_nearest_path_is_looked_for_in_its_folder_and_among_so_many_names_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("a/note0", "a/note1", "note2"):
        await world.write(path, "x")
    monkeypatch.setattr(tree, "MAX_SIBLINGS", 1)
    with pytest.raises(NotFound, match=r"did you mean 'a/note0'"):
        await world.read("a/note2")


# ── moves ──


async def test_a_file_moves_with_its_history_and_a_folder_with_all_below(world: World) -> None:
    await world.write("a/b/c", "old")
    await world.write("a/b/c", "new")
    moved = await world.call(StoMove(path="a/b/c", to="x/c2"))
    assert (moved.path, moved.version) == ("x/c2", 2)
    assert [await world.read("x/c2", n) for n in (1, 2)] == ["old", "new"]
    assert await world.names("a/b") == []
    await world.call(StoMove(path="x", to="a/b/y"))
    assert (await world.read("a/b/y/c2"), await world.names()) == ("new", ["a"])
    assert await world.texts() == ({"a/b/y/c2": "new"}, True)


@pytest.mark.parametrize("to", ["d", "d/e", "d/e/f"])
async def test_nothing_moves_into_itself(world: World, to: str) -> None:
    await world.write("d/e/x", "x")
    with pytest.raises(BadRequest, match="cannot be moved to") as refusal:
        await world.call(StoMove(path="d", to=to))
    assert (refusal.value.code, await world.read("d/e/x")) == ("into_itself", "x")


async def test_no_move_makes_paths_that_no_call_can_name(world: World) -> None:
    await world.write("/".join("abcdefghijklmnopqrstuvwxyz"), "x")
    for to in ("/".join("12345678"), "y" * 1000):
        with pytest.raises(BadRequest, match="deeper than 32 folders"):
            await world.call(StoMove(path="a", to=to))
    await world.call(StoMove(path="a", to="1/2/3/4/5/6/7"))


# ── history ──


async def test_the_history_says_who_wrote_each_version_when_and_through_which_call(world: World) -> None:
    for n in range(3):
        await world.call(StoWrite(path="a", content="x" * n), "writer/critic", id=f"call_{n}")
        world.clock.advance(10)
    history = await world.call(StoHistory(path="a", limit=2), "writer/critic")
    now = world.clock.wall()
    assert [(r.version, r.size, r.created, r.author, r.why) for r in history.revisions] == [
        (3, 2, now - 10, "writer/critic", "sto_write call_2"),
        (2, 1, now - 20, "writer/critic", "sto_write call_1"),
    ]
    assert history.has_more
    rest = await world.call(StoHistory(path="a", before=2), "writer/critic")
    assert ([r.version for r in rest.revisions], rest.has_more) == ([1], False)


@pytest.mark.parametrize("content", ["one", LARGE])
async def test_a_rollback_is_a_new_version_and_takes_no_more_room(world: World, content: str) -> None:
    await world.write("a", content)
    await world.write("a", "two")
    assert (await world.call(StoRollback(path="a", version=1))).version == 3
    assert [await world.read("a", n) for n in (1, 2, 3)] == [content, "two", content]
    assert world.count("contents") == 2
    assert world.kept() == (1, 2 * len(content) + 3 + 300)
    with pytest.raises(NotFound, match="no version 9"):
        await world.call(StoRollback(path="a", version=9))


async def test_a_diff_says_what_changed_between_two_versions(world: World) -> None:
    await world.write("a", "1\n2\n3\n")
    await world.write("a", "1\nzwei\n3\n")
    await world.write("a", "1\nzwei\n3\n")
    diff = await world.call(StoDiff(path="a", since=1, to=2))
    assert diff.text == "--- a (version 1)\n+++ a (version 2)\n@@ -1,3 +1,3 @@\n 1\n-2\n+zwei\n 3\n"
    assert (await world.call(StoDiff(path="a"))).text == ""
    first = await world.call(StoDiff(path="a", to=1))
    assert (first.since, first.to) == (0, 1)
    assert first.text.startswith("--- nothing\n+++ a (version 1)\n@@ -0,0 +1,3 @@\n+1\n")
    with pytest.raises(NotFound, match="no version 7"):
        await world.call(StoDiff(path="a", since=7))


# ── bounds ──


@pytest.mark.parametrize(("bound", "limit"), [("max_entries", 2), ("max_bytes", 220)])
async def test_an_agent_at_its_bound_is_refused_and_loses_nothing_until_it_is_said_what_may_go(
    world: World, bound: str, limit: int
) -> None:
    world.store.quota = world.store.quota._replace(**{bound: limit})
    await world.write("first", "x" * 10)
    await world.write("second", "x" * 10)
    await world.clear("second")
    for args in (StoWrite(path="third", content="x" * 10), StoCreate(path="d", kind="folder"), StoCreate(path="e")):
        if bound == "max_entries" or args != StoCreate(path="d", kind="folder"):
            with pytest.raises(TooLarge, match=r"clear some first.*sto_clear with 'trash' empties it"):
                await world.call(args)
    assert await world.names(trash=True) == ["second"]
    assert world.kept() >= (2, 220)
    await world.write("third", "x" * 10, agent="b")
    assert await world.clear("second", trash=True) == 1
    await world.write("third", "x" * 10)
    assert await world.names(trash=True) == []


async def test_the_configured_bound_counts_each_version_in_full_and_stops_a_long_write_half_way(world: World) -> None:
    world.restart(limit=450_000)
    await world.write("a", LARGE)
    await world.write("a", f"{LARGE}x")
    for path in ("a", "b"):
        with pytest.raises(TooLarge, match=r"450,000 bytes of files \(\[storage\] limit\)"):
            await world.write(path, LARGE)
    await world.storage.keep_house()
    assert (world.kept(), world.count("contents")) == ((1, 400_201), 2)


async def test_an_agent_is_told_what_its_files_take(world: World) -> None:
    await world.write("a", LARGE)
    await world.write("a", f"{LARGE}x")
    await world.write("d/b", "12345")
    await world.write("d/c", "123")
    await world.clear("d")
    stat = await world.call(StoStat())
    assert (stat.entries, stat.versions, stat.bytes) == (4, 4, 400_001 + 8 + 400)
    assert (stat.trash_entries, stat.trash_bytes) == (3, 8 + 200)
    assert 200_000 < stat.stored < 240_000
    assert stat.max_bytes == 1 << 30


# ── tools, paths, others ──


async def test_tools_read_the_newest_texts_that_fit_and_are_told_that_these_are_not_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n, content in enumerate(("old", "older than the next", LARGE, "new")):
        await world.write(f"{n}", content)
    monkeypatch.setattr(texts, "MAX_READ", 8)
    assert await world.texts() == ({"0": "old", "3": "new"}, False)
    monkeypatch.setattr(texts, "MAX_READ", 1 << 20)
    found, is_all = await world.texts()
    assert (list(found), is_all) == (["3", "2", "1", "0"], True)
    monkeypatch.setattr(texts, "MAX_READ_FILES", 3)
    found, is_all = await world.texts()
    assert (list(found), is_all) == (["3", "2", "1"], False)
    await world.write("1", "/w==", encoding="base64")
    found, is_all = await world.texts()
    assert (list(found), is_all) == (["3", "2"], False)


async def test_tools_see_nothing_of_what_is_in_the_trash(world: World) -> None:
    for path in ("c", "folder/a", "b", "gone/a"):
        await world.write(path, "x")
    await world.clear("gone")
    assert await world.storage.paths("o", "a", 10) == ["b", "c", "folder/a"]
    assert await world.storage.paths("o", "a", 2) == ["b", "folder/a"]
    assert await world.storage.paths("o", "b", 2) == []
    assert list((await world.texts())[0]) == ["b", "folder/a", "c"]


async def test_paths_that_lead_out_are_refused_by_every_call(world: World) -> None:
    for path in ("../a", "/a", "a/../../b", "a\0"):
        calls: list[Args] = [
            StoRead(path=path), StoWrite(path=path, content="x"), StoCreate(path=path), StoClear(path=path),
            StoMove(path=path, to="x"), StoMove(path="x", to=path), StoRestore(path=path), StoHistory(path=path),
            StoDiff(path=path), StoRollback(path=path, version=1), StoList(path=path), StoClear(path=path, trash=True),
        ]  # fmt: skip
        for args in calls:
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

        async def ask(args: Args, owner: str = owner, agent: str = agent) -> Any:
            return await world.call(args, agent, owner)

        try:
            match dice.randrange(5):
                case 0:
                    content = f"secret of {agents.index(place)} step {step}" * dice.choice([1, 5000])
                    await ask(StoWrite(path=path, content=content))
                    mine.setdefault(path, []).append(content)
                case 1:
                    file = await ask(StoRead(path=path))
                    assert [file.content, file.version] == [mine[path][-1], len(mine[path])]
                case 2:
                    await ask(StoClear(path=path))
                    del mine[path]
                case 3:
                    listed = (await ask(StoList())).entries
                    assert {entry.path for entry in listed if entry.kind == "file"} == {p for p in mine if "/" not in p}
                case 4:
                    history = await ask(StoHistory(path=path))
                    assert {revision.author for revision in history.revisions} == {agent}
                    assert len(history.revisions) == len(mine[path])
        except NotFound as error:
            message = error.message
            assert path not in mine
            assert "secret" not in message
    for (owner, agent), mine in model.items():
        assert await world.texts(owner, agent) == ({path: versions[-1] for path, versions in mine.items()}, True)

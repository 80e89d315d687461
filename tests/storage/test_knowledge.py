"""What is found in files is what they hold now: by its words, its meaning and conditions, in their own scope."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from knowledge_world import KnowledgeWorld

from aios.abi.calls import StoMove, StoRead, StoRestore, StoRetrieve, StoRollback
from aios.abi.errors import AiosError, BadRequest, NotFound, Stopping
from aios.kernel.storage.knowledge import knowledge, reader, readings, survey
from aios.testing import until

pytestmark = pytest.mark.anyio
GUIDE = "# Boats\n\n" + "A boat floats on water. " * 12 + "\n\n## Sails\n\n" + "A sail catches the wind. " * 12


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[KnowledgeWorld]:
    world = KnowledgeWorld(tmp_path)
    await world.begin()
    yield world
    await world.end()
    world.close()


async def test_a_passage_says_where_it_is_and_under_which_heading(world: KnowledgeWorld) -> None:
    await world.write("docs/guide.md", GUIDE)
    passage = (await world.ask("sail wind")).passages[0]
    assert (passage.path, passage.version, passage.title) == ("docs/guide.md", 1, "Boats › Sails")
    part = StoRead(path="docs/guide.md", offset=passage.start, length=passage.end - passage.start)
    assert (await world.call(part)).content == passage.text
    assert passage.text.startswith("## Sails")


async def test_a_passage_is_found_by_the_headings_above_it_and_by_its_meaning(world: KnowledgeWorld) -> None:
    await world.write("guide.md", GUIDE)
    await world.write("other.txt", "Trains run on rails, whatever the weather.")
    await world.search.open()
    await world.ask("x")
    await world.search.idle()
    assert (await world.ask("boats sails")).passages[0].title == "Boats › Sails"
    assert (await world.ask("trains", mode="hybrid")).passages[0].path == "other.txt"
    assert (await world.ask("railway trains", mode="vector")).passages[0].path == "other.txt"


# ── as they are now ──


async def test_a_file_is_found_as_it_is_now(world: KnowledgeWorld) -> None:
    await world.write("a.txt", "the old harbour")
    assert await world.found("harbour") == [("a.txt", 1)]
    await world.write("a.txt", "the new airport")
    assert await world.found("harbour") == []
    assert await world.found("airport") == [("a.txt", 2)]
    await world.call(StoRollback(path="a.txt", version=1))
    assert await world.found("harbour airport") == [("a.txt", 3)]
    assert world.count("passages") == 1


async def test_a_file_is_found_where_it_is_and_not_in_the_trash(world: KnowledgeWorld) -> None:
    await world.write("d/a.txt", "harbour")
    await world.write("d/e/b.txt", "harbour too")
    assert await world.paths("harbour") == ["d/a.txt", "d/e/b.txt"]
    await world.call(StoMove(path="d", to="moved"))
    assert await world.paths("harbour") == ["moved/a.txt", "moved/e/b.txt"]
    await world.clear("moved/e")
    assert await world.paths("harbour") == ["moved/a.txt"]
    await world.clear("moved")
    assert await world.paths("harbour") == []
    await world.call(StoRestore(path="moved"))
    assert await world.paths("harbour") == ["moved/a.txt"]
    await world.call(StoRestore(path="moved/e"))
    assert await world.paths("harbour") == ["moved/a.txt", "moved/e/b.txt"]
    assert world.count("readings") == 2


async def test_what_leaves_the_trash_leaves_no_passage_behind(world: KnowledgeWorld) -> None:
    await world.write("a.txt", "harbour\n\n" * 2000)
    await world.write("b.txt", "airport")
    assert len(await world.found("harbour")) > readings.PORTION // 4
    await world.clear("a.txt")
    await world.clear("", trash=True)
    assert await world.found("harbour") == []
    assert world.count("passages") == world.count("readings") == 1


async def test_a_file_that_gets_the_number_of_one_that_has_gone_answers_with_its_own_words(
    world: KnowledgeWorld,
) -> None:
    await world.write("a.txt", "harbour")
    assert await world.paths("harbour") == ["a.txt"]
    world.storage._store.on_drop = no_sweep
    await world.clear("a.txt")
    await world.clear("", trash=True)
    await world.write("b.txt", "airport", agent="b")
    assert (world.count("passages"), world.count("files")) == (1, 1)
    assert await world.found("harbour airport", agent="b") == [("b.txt", 1)]
    assert await world.found("harbour") == []


async def no_sweep() -> None:
    """Died before it could."""


# ── conditions ──


async def test_conditions_narrow_the_files(world: KnowledgeWorld) -> None:
    for number, path in enumerate(["a.md", "kb/a.md", "kb/deep/a.TXT", "kb/deep/b.md", "kbx/a.md", "kb/noname"]):
        await world.write(path, f"harbour {number}")
        world.clock.advance(10)
    begin = world.clock.wall() - 60
    assert await world.paths("harbour", path="kb") == ["kb/a.md", "kb/deep/a.TXT", "kb/deep/b.md", "kb/noname"]
    assert await world.paths("harbour", path="kb/deep/b.md") == ["kb/deep/b.md"]
    assert await world.paths("harbour", path=".", name="a.*") == ["a.md", "kb/a.md", "kb/deep/a.TXT", "kbx/a.md"]
    assert await world.paths("harbour", name="kb/*/?.md") == ["kb/deep/b.md"]
    assert await world.paths("harbour", types=["txt", ".md"], path="kb/deep") == ["kb/deep/a.TXT", "kb/deep/b.md"]
    assert await world.paths("harbour", since=begin + 20, until=begin + 40) == ["kb/deep/a.TXT", "kb/deep/b.md"]
    assert await world.paths("harbour 1", types=["md"], path="kb", until=begin + 20) == ["kb/a.md"]
    assert await world.paths("airport", types=["md"]) == []


async def test_a_condition_on_the_author_is_of_the_newest_version(world: KnowledgeWorld) -> None:
    await world.mount(agent=None)
    world.rights |= {("b", "sto_retrieve", "docs")}
    await world.write("docs/a.txt", "harbour", agent="a")
    await world.write("docs/b.txt", "harbour", agent="a")
    await world.write("docs/b.txt", "harbour again", agent="b")
    world.put("c.txt", "harbour of others")
    await world.changed("c.txt")
    ask = {author: await world.paths("harbour", "b", author=author) for author in ("a", "b", "outside", "c")}
    assert ask == {"a": ["docs/a.txt"], "b": ["docs/b.txt"], "outside": ["docs/c.txt"], "c": []}


async def test_a_path_where_nothing_is_is_told_with_the_nearest_that_is(world: KnowledgeWorld) -> None:
    await world.write("notes/today.md", "harbour")
    with pytest.raises(NotFound, match=r"did you mean 'notes/today.md'"):
        await world.ask("harbour", path="notes/todai.md")
    with pytest.raises(BadRequest, match="without steps up"):
        await world.ask("harbour", path="notes/../..")
    assert (await world.ask("harbour", agent="nobody")).passages == []


# ── whose ──


async def test_nobody_finds_what_is_anothers_and_nothing_tells_that_it_is_there(world: KnowledgeWorld) -> None:
    await world.write("a.txt", "harbour and lighthouse")
    await world.write("b.txt", "lighthouse")
    before = await world.ask("harbour lighthouse", mode="hybrid")
    for number in range(20):
        await world.write(f"{number}.txt", "harbour " * number, agent="b")
    await world.put_bytes("a.pdf", b"%PDF-1.7 broken", agent="b")
    assert len((await world.ask("harbour", agent="b")).skipped) == 1
    assert await world.ask("harbour lighthouse", mode="hybrid") == before
    with pytest.raises(NotFound):
        await world.ask("harbour", path="1.txt")


async def test_mounts_are_searched_by_those_who_may_retrieve_there(world: KnowledgeWorld) -> None:
    await world.write("own.txt", "harbour")
    await world.mount()
    world.put("shared.txt", "harbour of all")
    await world.changed("shared.txt")
    assert await world.paths("harbour") == ["own.txt"]
    world.rights |= {("a", "sto_list", "docs"), ("b", "sto_retrieve", "docs")}
    assert await world.paths("harbour") == ["own.txt"]
    assert await world.paths("harbour", "b") == ["docs/shared.txt"]
    world.rights |= {("a", "sto_retrieve", "docs")}
    assert await world.paths("harbour") == ["docs/shared.txt", "own.txt"]
    assert await world.paths("harbour", path="docs") == ["docs/shared.txt"]
    await world.unmount()
    assert await world.paths("harbour") == ["own.txt"]


async def test_a_mount_of_the_agents_own_hides_a_shared_one_of_its_name(world: KnowledgeWorld, tmp_path: Path) -> None:
    world.rights |= {("a", "sto_retrieve", "docs"), ("b", "sto_retrieve", "docs")}
    await world.mount()
    own = tmp_path / "own"
    own.mkdir()
    (own / "own.txt").write_text("harbour of a")
    world.put("shared.txt", "harbour of all")
    await world.changed("shared.txt")
    await world.mount(folder=own, agent="a")
    assert await world.paths("harbour") == ["docs/own.txt"]
    assert await world.paths("harbour", "b") == ["docs/shared.txt"]


# ── in the background ──


async def test_a_call_waits_for_so_long_and_says_what_is_still_to_be_read(world: KnowledgeWorld) -> None:
    await world.write("a.txt", "harbour")
    await world.ask("harbour")
    await world.write("b.txt", "harbour")
    await world.write("c.html", "<p>harbour")
    turn = world.knowledge._store.workshop.turn("text")
    await turn.acquire()
    await turn.acquire()
    asking = asyncio.ensure_future(world.ask("harbour"))
    await until(lambda: any(not each.is_idle for each in world.knowledge._readers.values()))
    world.clock.advance(knowledge.PATIENCE)
    passages = await asking
    assert ([each.path for each in passages.passages], passages.pending) == (["a.txt"], 2)
    turn.release()
    turn.release()
    await world.read()
    assert world.num_read == 3
    passages = await world.ask("harbour")
    assert (sorted(each.path for each in passages.passages), passages.pending) == (["a.txt", "b.txt", "c.html"], 0)


async def test_what_a_call_does_not_wait_for_is_read_later_and_so_is_what_is_written_later(
    world: KnowledgeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knowledge, "WAITED_FILES", 2)
    monkeypatch.setattr(survey, "MAX_STALE", 3)
    for number in range(7):
        await world.write(f"kb/{number}.txt", "harbour")
    await world.write("else/x.txt", "harbour")
    await world.write("x.txt", "harbour", agent="b")
    passages = await world.ask("harbour", path="kb")
    assert len(passages.passages) + passages.pending == 7
    assert len(passages.passages) >= 2
    await world.read()
    assert world.num_read == 7  # and nothing that nobody asked about
    await world.write("kb/1.txt", "airport")
    await world.write("kb/8.txt", "airport")
    await world.write("x.txt", "airport", agent="b")
    world.clock.advance(reader.SETTLE)
    await world.read()
    assert world.num_read == 8
    assert await world.paths("airport", path="kb") == ["kb/1.txt", "kb/8.txt"]


async def test_what_others_change_in_a_mount_is_read_later(world: KnowledgeWorld) -> None:
    await world.mount()
    world.rights |= {("a", "sto_retrieve", "docs")}
    await world.ask("harbour")
    world.put("a.txt", "harbour")
    await world.changed("a.txt")
    world.clock.advance(reader.SETTLE)
    await world.read()
    assert world.num_read == 0  # nothing was there when it was asked about
    assert await world.paths("harbour") == ["docs/a.txt"]
    world.put("a.txt", "airport now")
    await world.changed("a.txt")
    world.clock.advance(reader.SETTLE)
    await world.read()
    assert world.num_read == 1
    assert await world.found("airport") == [("docs/a.txt", 2)]


async def test_a_file_that_cannot_be_kept_now_is_pending_and_read_when_it_is_asked_about_again(
    world: KnowledgeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> bool:
        raise Stopping("the disk is full", code="storage_full")

    await world.write("a.txt", "harbour")
    await world.ask("harbour")
    await world.write("b.txt", "harbour")
    await world.write("c.txt", "harbour")
    with monkeypatch.context() as patch:
        patch.setattr(readings, "finish", full)
        passages = await world.ask("harbour")
    assert (passages.pending, [each.path for each in passages.passages]) == (2, ["a.txt"])
    assert await world.paths("harbour") == ["a.txt", "b.txt", "c.txt"]
    await world.knowledge.sweep()
    assert world.count("passages") == 3


async def test_what_a_kernel_was_reading_when_it_died_is_read_by_the_next(world: KnowledgeWorld) -> None:
    await world.write("a.txt", "harbour")
    await world.ask("harbour")
    await world.write("a.txt", "harbour now")

    def half(connection: object) -> None:
        reading = readings.begin(connection, 1, 2, 1)  # type: ignore[arg-type]
        piece = readings.Piece(0, 7, None, "harbour")
        readings.add(connection, world.knowledge._index, 1, reading, [piece])  # type: ignore[arg-type]

    await world.database.run(half)
    await world.again()
    assert await world.found("harbour") == [("a.txt", 2)]
    assert world.count("passages") == world.count("readings") == 1


async def test_a_file_of_many_passages_is_found_wholly_or_not_at_all(world: KnowledgeWorld) -> None:
    text = "".join(f"Line {number} of harbour.\n\n" for number in range(20_000))
    await world.write("long.txt", text)
    seen = set()
    asking = asyncio.ensure_future(world.ask("harbour", k=1000))
    while not asking.done():
        seen.add(world.database.read(lambda c: len(c.execute("SELECT 1 FROM readings WHERE state = 1").fetchall())))
        await asyncio.sleep(0)
    passages = (await asking).passages
    assert len(passages) == world.count("passages") > 3 * readings.PORTION
    assert all(text.encode()[each.start : each.end].decode() == each.text for each in passages)


async def test_a_damaged_file_is_told_and_read_once_it_is_written_again(world: KnowledgeWorld) -> None:
    await world.write("a.txt", "harbour")
    await world.write("b.txt", "harbour")
    await world.database.run(lambda c: c.execute("UPDATE contents SET body = x'00' WHERE id = 1") and None)
    passages = await world.ask("harbour")
    assert [each.path for each in passages.passages] == ["b.txt"]
    assert "its content is damaged" in passages.skipped["a.txt"]
    await world.write("a.txt", "harbour")
    assert await world.paths("harbour") == ["a.txt", "b.txt"]
    await world.clear("a.txt")
    assert await world.skipped() == {}


async def test_a_call_that_is_given_up_harms_nobody(world: KnowledgeWorld) -> None:
    await world.write("a.txt", "harbour")
    asking = asyncio.ensure_future(world.call(StoRetrieve(query="harbour", mode="keyword")))
    for _ in range(3):
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises((asyncio.CancelledError, AiosError)):
        await asking
    assert await world.paths("harbour") == ["a.txt"]


async def test_a_folder_that_was_asked_about_and_moved_stops_nothing(world: KnowledgeWorld) -> None:
    await world.write("kb/a.txt", "harbour")
    await world.write("other/a.txt", "harbour")
    await world.ask("harbour", path="kb")
    await world.ask("harbour", path="other", types=["txt"])
    await world.call(StoMove(path="kb", to="moved"))
    await world.write("other/b.txt", "harbour")
    await world.write("other/b.md", "harbour")
    world.clock.advance(reader.SETTLE)
    await world.read()
    assert world.num_read == 3

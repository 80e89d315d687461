"""An agent's memory: kept, listed, found by its words, forgotten, and nobody else's."""

from __future__ import annotations

import random
from pathlib import Path

import apsw
import pytest
from memory_world import World

from aios.abi.calls import (
    Entries,
    MemClear,
    MemList,
    MemRead,
    MemSearch,
    MemStat,
    MemWrite,
)
from aios.abi.errors import BadRequest, NotFound, TooLarge
from aios.kernel.config import ByteSize, MemorySection
from aios.kernel.database import MIGRATIONS, Database, value
from aios.kernel.memory import changes, entries, manager
from aios.kernel.search import keyword
from aios.testing import MockClock

pytestmark = pytest.mark.anyio


async def test_an_entry_is_read_as_it_was_written_even_after_a_restart(world: World) -> None:
    id = await world.write("Zürich is cold ☃", kind="fact", metadata={"source": [1, None, {"x": "y"}]})
    world.restart()
    entry = await world.call(MemRead(id=id))
    assert (entry.content, entry.kind, entry.created) == ("Zürich is cold ☃", "fact", world.clock.wall())
    assert entry.metadata == {"source": [1, None, {"x": "y"}]}
    assert entry.score is None


async def test_entries_are_listed_newest_first_a_page_at_a_time(world: World) -> None:
    ids = [await world.write(str(n)) for n in range(7)]
    world.restart()
    ids.append(await world.write("7"))
    page = (await world.call(MemList(limit=3))).entries
    assert [entry.content for entry in page] == ["7", "6", "5"]
    rest = (await world.call(MemList(after=page[-1].id))).entries
    assert [entry.id for entry in rest] == ids[4::-1]
    assert ids == sorted(ids)


async def test_ids_go_on_rising_though_the_clock_was_set_back(world: World) -> None:
    first = await world.write("now")
    world.clock = MockClock(wall=1000.0)
    world.restart()
    assert await world.write("then") > first


async def test_the_best_match_comes_first(world: World) -> None:
    await world.write("the meeting with Ada is on Monday")
    await world.write("Ada likes meetings; a meeting with Ada is a good meeting")
    await world.write("nothing to see here")
    found = await world.search("meeting Ada")
    assert [entry.content[:3] for entry in found] == ["Ada", "the"]
    scores = [entry.score for entry in found]
    assert scores == sorted(scores, reverse=True)


async def test_one_word_of_many_is_enough_and_words_are_found_in_their_other_forms(world: World) -> None:
    await world.write("she was running in Málaga")
    assert len(await world.search("who runs over there?")) == 1
    assert len(await world.search("malaga")) == 1
    assert await world.search("elephants") == []


async def test_what_is_not_a_word_is_found_as_it_stands(world: World) -> None:
    await world.write("the code is #!/%& and no other")
    await world.write("漢字の記憶")
    assert len(await world.search("#!/%&")) == 1
    assert len(await world.search("の記")) == 1
    assert await world.search("   ") == []


@pytest.mark.parametrize(
    "query",
    [
        '"',
        "'",
        "a AND",
        "NOT",
        "NEAR(a b, 2)",
        "scope : x",
        "content:secret",
        "a*",
        "^a",
        "(((",
        "-a",
        "{a b} : c",
        "\0",
        "%_",
    ],
)
async def test_no_query_is_understood_as_more_than_words(world: World, query: str) -> None:
    await world.write("a secret of b", "b")
    assert await world.search(query) == []
    await world.write("and not near")
    for entry in await world.search(query):
        assert entry.content == "and not near"


async def test_what_others_write_changes_no_score(world: World) -> None:
    for content in ("a common word", "a common word and a rare one", "something else"):
        await world.write(content)
    before = await world.search("common rare")
    for _ in range(20):
        await world.write("rare rare rare", "b")
    assert await world.search("common rare") == before
    assert before[0].content.endswith("rare one")


@pytest.mark.parametrize(("bound", "limit"), [("SCAN", 3), ("SCAN_CHARS", 15)])
async def test_what_is_no_word_is_looked_for_in_the_newest_entries_only(
    world: World, monkeypatch: pytest.MonkeyPatch, bound: str, limit: int
) -> None:
    for n in range(4):
        await world.write(f"{n}#!/%")
    monkeypatch.setattr(keyword, bound, limit)
    assert [entry.content[0] for entry in await world.search("#!/")] == ["3", "2", "1"]
    assert [entry.content[0] for entry in await world.search("#!/", k=2)] == ["3", "2"]


async def test_no_more_than_k_are_found(world: World) -> None:
    for n in range(9):
        await world.write(f"note {n}")
    assert len(await world.search("note", k=4)) == 4


async def test_one_entry_or_all_are_forgotten(world: World) -> None:
    keep, drop = await world.write("keep me"), await world.write("drop me")
    other = await world.write("of another", "b")
    assert (await world.call(MemClear(id=drop))).count == 1
    assert [entry.id for entry in await world.search("me")] == [keep]
    with pytest.raises(NotFound):
        await world.call(MemRead(id=drop))
    with pytest.raises(NotFound):
        await world.call(MemClear(id=drop))
    assert (await world.call(MemClear(all=True))).count == 1
    assert (await world.call(MemClear(all=True))).count == 0
    assert (await world.call(MemRead(id=other), "b")).content == "of another"
    assert world.database.read(lambda c: value(c, "SELECT count(*) FROM memory_words")) == 1


async def test_clear_wants_one_id_or_all_and_not_both(world: World) -> None:
    for args in (MemClear(), MemClear(id="m1", all=True)):
        with pytest.raises(BadRequest, match="either 'id' or 'all'"):
            await world.call(args)


async def test_content_that_is_no_text_and_metadata_without_end_are_refused(world: World) -> None:
    with pytest.raises(BadRequest, match="not valid Unicode"):
        await world.write("\ud800")
    with pytest.raises(TooLarge):
        await world.write("x", metadata={"x": "y" * 70_000})
    assert await world.write("") > ""


@pytest.mark.parametrize("bound", ["entries", "bytes"])
async def test_an_agent_keeps_so_much_and_more_when_it_has_forgotten_some(
    world: World, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    if bound == "entries":
        monkeypatch.setattr(changes, "MAX_ENTRIES", 2)
    else:
        world.settings = MemorySection(disk=ByteSize(20))
        world.restart()
    for _ in range(2):
        first = await world.write("12345678")
        await world.write("é345678")
        with pytest.raises(TooLarge, match="forget some with mem_clear") as refusal:
            await world.write("12345678")
        assert refusal.value.code == "memory_full"
        await world.write("12345678", "b")
        await world.call(MemClear(id=first))
        await world.write("12345678")
        await world.call(MemClear(all=True))
        await world.call(MemClear(all=True), "b")
        assert world.database.read(lambda c: value(c, "SELECT sum(num_entries) + sum(kept) FROM blocks")) == 0


async def test_a_write_run_twice_under_a_key_writes_once(world: World) -> None:
    args = MemWrite(content="once")
    first = await world.call(args, key="k", id="call_x")
    world.restart()
    assert await world.call(args, key="k", id="call_x") == first
    assert len((await world.call(MemList())).entries) == 1
    cleared = await world.call(MemClear(id=first.id), key="l", id="call_y")
    assert await world.call(MemClear(id=first.id), key="l", id="call_y") == cleared


async def test_other_rooms_remember_and_read_the_lines(world: World) -> None:
    id = await world.memory.remember("o", "a", "first")
    await world.memory.remember("o", "a", "second")
    assert await world.lines() == (["first", "second"], True)
    assert await world.lines("b") == ([], True)
    assert (await world.call(MemRead(id=id))).kind == "fact"
    with pytest.raises(TooLarge):
        await world.memory.remember("o", "a", "x" * ((1 << 20) + 1))


@pytest.mark.parametrize(("bound", "limit"), [("MAX_LINES", 2), ("MAX_READ", 100)])
async def test_tools_read_the_newest_entries_and_are_told_that_these_are_not_all(
    world: World, monkeypatch: pytest.MonkeyPatch, bound: str, limit: int
) -> None:
    for content in ("one", "two", "three"):
        await world.write(content)
    monkeypatch.setattr(manager, bound, limit)
    assert await world.lines() == (["two", "three"], False)


@pytest.mark.parametrize("seed", range(3))
async def test_agents_see_their_own_entries_and_nothing_of_the_others(world: World, seed: int) -> None:
    dice = random.Random(seed)
    agents = [("o", "a"), ("o", "b"), ("p", "a"), ("o\0a", "x"), ("o", "a\0x")]
    model: dict[tuple[str, str], dict[str, str]] = {agent: {} for agent in agents}
    for step in range(250):
        owner, agent = place = dice.choice(agents)
        mine = model[place]
        everybodys = [id for entries in model.values() for id in entries] or ["m0"]
        match dice.randrange(6):
            case 0 | 1:
                content = f"word{dice.randrange(5)} secret of {agents.index(place)} step{step}"
                mine[(await world.call(MemWrite(content=content), agent, owner)).id] = content
            case 2:
                id = dice.choice(everybodys)
                try:
                    assert (await world.call(MemRead(id=id), agent, owner)).content == mine[id]
                except NotFound as error:
                    message = error.message
                    assert id not in mine
                    assert "secret" not in message
            case 3:
                query = f"word{dice.randrange(5)} secret"
                found = (await world.call(MemSearch(query=query, k=1000), agent, owner)).entries
                assert {entry.id: entry.content for entry in found} == mine
            case 4:
                found = (await world.call(MemList(limit=1000), agent, owner)).entries
                assert {entry.id: entry.content for entry in found} == mine
            case 5:
                id = dice.choice(everybodys)
                try:
                    await world.call(MemClear(id=id), agent, owner)
                    del mine[id]
                except NotFound:
                    assert id not in mine


async def test_the_entries_of_a_home_of_version_3_are_there_under_their_ids_and_can_be_found(tmp_path: Path) -> None:
    content = "long ago Ada wrote " + "this " * 1000

    def old(connection: apsw.Connection) -> None:
        for row, (id, agent) in enumerate([("m0006123456789ab", "a"), ("m0006123456789ac", "b")], 1):
            connection.execute(
                "INSERT INTO entries VALUES (?, ?, 'o', ?, 'fact', 12.5, ?, ?)", (row, id, agent, content, b'{"x": 1}')
            )
            connection.execute("INSERT INTO entries_text(rowid, scope, content) VALUES (?, 'old', ?)", (row, content))
            connection.execute("INSERT INTO kept VALUES ('memory', 'o', ?, 1, ?)", (agent, len(content) + 8))

    database = Database.open(tmp_path / "aios.db", migrations=MIGRATIONS[:3])
    database.run_now(old)
    database.close()
    world = World(tmp_path)
    entry = (await world.search("Ada"))[0]
    assert (entry.id, entry.content, entry.kind) == ("m0006123456789ab", content, "fact")
    assert (entry.created, entry.metadata, entry.revision) == (12.5, {"x": 1}, 1)
    assert (await world.call(MemRead(id="m0006123456789ac"), "b")).content == content
    stat = await world.call(MemStat())
    assert (stat.entries, stat.raw) == (1, len(content))
    await world.call(MemClear(all=True))
    assert world.database.read(lambda c: value(c, "SELECT sum(kept) FROM blocks")) == len(content) + 8
    world.database.close()


async def test_an_answer_ends_for_the_length_of_metadata_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "MAX_ANSWER", 2500)
    ids = [await world.write("alike", metadata={"much": "x" * 1000}) for _ in range(5)]
    listed: Entries = await world.call(MemList())
    assert ([entry.id for entry in listed.entries], listed.is_cut) == (ids[:2:-1], True)
    found: Entries = await world.call(MemSearch(query="alike"))
    assert (len(found.entries), found.is_cut) == (2, True)

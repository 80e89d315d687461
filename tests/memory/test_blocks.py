"""Blocks of memory: allotted, named, shared, and each on its own; entries that change and what they were before."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from memory_world import World

from aios.abi.calls import MemAlloc, MemClear, MemHistory, MemRead, MemUpdate, MemWrite
from aios.abi.errors import AiosError, BadRequest, Denied, NotFound, TooLarge
from aios.kernel.config import ByteSize, MemorySection
from aios.kernel.database import value
from aios.kernel.memory import blocks, entries
from aios.kernel.process import Place

pytestmark = pytest.mark.anyio
KIB, MIB = 1 << 10, 1 << 20


# ── blocks ──


async def test_what_a_block_is_allotted_outlives_the_kernel_and_what_is_not_said_stays(world: World) -> None:
    await world.call(MemAlloc(limit=MIB, k=3))
    world.restart()
    stat = await world.call(MemAlloc(watermark=0.5))
    assert (stat.block, stat.limit, stat.watermark, stat.k) == ("", MIB, 0.5, 3)
    world.restart()
    assert await world.stat() == stat
    other = await world.stat("b")
    assert (other.limit, other.watermark, other.k) == (64 * MIB, 0.8, 2)


async def test_no_agent_is_allotted_more_than_the_configuration_says_and_admins_up_to_the_total(world: World) -> None:
    with pytest.raises(Denied, match="at most 67,108,864 bytes") as refusal:
        await world.call(MemAlloc(limit=65 * MIB))
    assert refusal.value.code == "limit_too_high"
    assert (await world.call(MemAlloc(limit=65 * MIB), is_admin=True)).limit == 65 * MIB
    with pytest.raises(Denied):
        await world.call(MemAlloc(limit=1025 * MIB), is_admin=True)


async def test_an_alloc_that_is_run_twice_under_a_key_does_not_undo_a_later_one(world: World) -> None:
    first = MemAlloc(limit=MIB)
    told = await world.call(first, key="k", id="call_x")
    await world.call(MemAlloc(limit=2 * MIB))
    await world.write("here")
    assert (await world.call(first, key="k", id="call_x")).limit == told.limit
    assert (await world.stat()).limit == 2 * MIB
    assert world.memory._residents.find((Place("o", "a"), "")).bound == 2 * MIB  # type: ignore[union-attr]


async def test_a_block_has_its_entries_for_itself(world: World) -> None:
    await world.call(MemAlloc(block="work"))
    main, work = await world.write("main thing"), await world.write("work thing", block="work")
    for id, block, other in ((main, None, "work"), (work, "work", None)):
        assert (await world.read(id, block=block)).id == id
        assert [entry.id for entry in (await world.list(block=block)).entries] == [id]
        assert [entry.id for entry in await world.search("thing", block=block)] == [id]
        with pytest.raises(NotFound):
            await world.read(id, block=other)
        with pytest.raises(NotFound):
            await world.call(MemClear(id=id, block=other))
        with pytest.raises(NotFound):
            await world.call(MemUpdate(id=id, content="x", block=other))
        with pytest.raises(NotFound):
            await world.call(MemHistory(id=id, block=other))
    assert (await world.call(MemClear(all=True, block="work"))).count == 1
    assert (await world.list()).entries[0].content == "main thing"
    assert (await world.list(block="work")).entries == []


async def test_a_block_that_was_not_allotted_is_an_error_that_names_the_nearest(world: World) -> None:
    await world.call(MemAlloc(block="journal"))
    for args in (MemWrite(content="x", block="journl"), MemRead(id="m000000000000001", block="journl")):
        with pytest.raises(NotFound, match="did you mean 'journal'") as refusal:
            await world.call(args)
        assert refusal.value.code == "no_such_block"
    with pytest.raises(NotFound, match="mem_alloc makes one"):
        await world.stat("b", block="journal")


async def test_an_agent_has_so_many_blocks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_BLOCKS", 2)
    for name in ("one", "two", "one"):
        await world.call(MemAlloc(block=name))
    with pytest.raises(TooLarge, match="at most 2 blocks"):
        await world.call(MemAlloc(block="three"))
    await world.write("main blocks count for nothing")


async def test_a_shared_block_is_the_same_for_all_and_stands_beside_their_own(tmp_path: Path) -> None:
    world = World(tmp_path, shared=("team",))
    id = await world.write("for the team", "a", block="team")
    assert (await world.read(id, "b", block="team")).content == "for the team"
    await world.call(MemUpdate(id=id, content="of the team", block="team"), "b", "somebody")
    assert (await world.read(id, "a", block="team")).content == "of the team"
    with pytest.raises(NotFound):
        await world.read(id, "a")
    assert (await world.stat("c", block="team")).entries == 1
    assert (await world.stat("a")).entries == 0
    world.close()


async def test_the_bound_of_an_agent_counts_all_its_blocks_and_all_histories(tmp_path: Path) -> None:
    world = World(tmp_path, MemorySection(disk=ByteSize(10_000)))
    await world.call(MemAlloc(block="other"))
    id = await world.write("x" * 4000)
    await world.write("y" * 4000, block="other")
    with pytest.raises(TooLarge, match="10,000 bytes at most"):
        await world.call(MemUpdate(id=id, content="z" * 4000))
    assert (await world.read(id)).content == "x" * 4000
    await world.call(MemUpdate(id=id, content="z" * 1000))
    with pytest.raises(TooLarge):
        await world.write("x" * 1000)
    await world.write("x" * 4000, "b")
    await world.call(MemClear(all=True))
    assert world.database.read(lambda c: value(c, "SELECT sum(kept) FROM blocks WHERE agent = 'a'")) == 4002
    world.close()


# ── changes ──


async def test_a_change_keeps_what_it_does_not_name_and_what_was_before_stays_in_the_history(world: World) -> None:
    id = await world.write("first", kind="fact", metadata={"a": 1}, source="the web", importance=0.25)
    world.clock.advance(5.0)
    assert (await world.call(MemUpdate(id=id, content="second"))).revision == 2
    world.clock.advance(5.0)
    assert (await world.call(MemUpdate(id=id, kind="note", metadata={"b": [2]}, importance=1.0))).revision == 3
    world.restart()
    now = await world.read(id)
    assert (now.content, now.kind, now.metadata, now.source) == ("second", "note", {"b": [2]}, "the web")
    assert (now.importance, now.revision) == (1.0, 3)
    assert now.modified == now.created + 10.0
    before = (await world.call(MemHistory(id=id))).entries
    assert [(each.content, each.kind, each.metadata, each.revision) for each in before] == [
        ("second", "fact", {"a": 1}, 2),
        ("first", "fact", {"a": 1}, 1),
    ]
    assert [each.modified for each in before] == [now.created + 5.0, None]
    assert {each.id for each in before} == {id}


async def test_what_was_changed_is_found_by_its_new_words_only(world: World) -> None:
    id = await world.write("the cat sleeps")
    await world.call(MemUpdate(id=id, content="the dog barks"))
    assert await world.search("cat") == []
    assert [entry.content for entry in await world.search("dog")] == ["the dog barks"]
    await world.call(MemUpdate(id=id, kind="fact"))
    assert [entry.kind for entry in await world.search("dog")] == ["fact"]


async def test_an_update_that_changes_nothing_and_one_of_nothing_are_refused(world: World) -> None:
    id = await world.write("x")
    with pytest.raises(BadRequest, match="changes nothing"):
        await world.call(MemUpdate(id=id))
    for wrong in ("m000000000000001", "m1", "", "m" + "f" * 15, "m" + "f" * 40, "M000000000000001", "m 00000000000001"):
        with pytest.raises(NotFound):
            await world.call(MemUpdate(id=wrong, content="y"))
        with pytest.raises(NotFound):
            await world.call(MemHistory(id=wrong))


async def test_the_newest_of_the_history_are_kept_and_the_rest_leaves_the_disk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "MAX_REVISIONS", 3)
    id = await world.write("0" * 5000)
    for n in range(1, 8):
        await world.call(MemUpdate(id=id, content=str(n) * 5000))
    history = (await world.call(MemHistory(id=id))).entries
    assert [entry.content[0] for entry in history] == ["6", "5", "4"]
    stat = await world.stat()
    assert (stat.raw, stat.disk) == (5000, 20_000)
    await world.call(MemClear(id=id))
    assert world.database.read(lambda c: value(c, "SELECT sum(kept) + sum(disk) + sum(raw) FROM blocks")) == 0
    assert world.database.read(lambda c: value(c, "SELECT count(*) FROM segments")) == 0


async def test_a_change_of_metadata_costs_no_copy_of_a_long_content(world: World) -> None:
    id = await world.write("x" * 100_000)
    await world.call(MemUpdate(id=id, metadata={"read": True}))
    assert (await world.stat()).disk < 110_000
    assert len((await world.call(MemHistory(id=id))).entries[0].content) == 100_000


async def test_an_update_run_twice_under_a_key_changes_once(world: World) -> None:
    id = await world.write("first")
    args = MemUpdate(id=id, content="second")
    told = await world.call(args, key="k", id="call_x")
    await world.call(MemUpdate(id=id, content="third"))
    assert await world.call(args, key="k", id="call_x") == told
    assert (await world.read(id)).content == "third"


# ── what is no entry ──


async def test_an_empty_entry_is_one(world: World) -> None:
    id = await world.write("", metadata={"seen": True})
    world.restart()
    assert (await world.read(id)).metadata == {"seen": True}
    assert (await world.stat()).entries == 1


@pytest.mark.parametrize("content", ["x" * (MIB + 1), "\u20ac" * (MIB // 3 + 1)])
async def test_an_entry_beyond_a_megabyte_is_too_large(world: World, content: str) -> None:
    with pytest.raises(TooLarge, match="at most 1,048,576 bytes"):
        await world.write(content)
    id = await world.write("x" * MIB)
    with pytest.raises(TooLarge):
        await world.call(MemUpdate(id=id, content=content))
    world.restart()
    assert (await world.read(id)).content == "x" * MIB


async def test_half_a_surrogate_is_refused_wherever_it_stands(world: World) -> None:
    id = await world.write("x")
    for args in (
        MemWrite(content="\ud800"),
        MemWrite(content="x", metadata={"\udfff": 1}),
        MemWrite(content="x", source="\ud800"),
        MemUpdate(id=id, content="\ud800"),
        MemUpdate(id=id, metadata={"a": "\ud800"}),
    ):
        with pytest.raises(BadRequest, match="not valid Unicode"):
            await world.call(args)


async def test_a_page_ends_when_the_answer_is_long_enough_and_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [await world.write(f"{n} " + "x" * 998) for n in range(5)]
    monkeypatch.setattr(entries, "MAX_ANSWER", 2500)
    page = await world.list()
    assert ([entry.id for entry in page.entries], page.is_cut) == (ids[:2:-1], True)
    page = await world.list(after=ids[1])
    assert ([entry.id for entry in page.entries], page.is_cut) == ([ids[0]], False)
    with pytest.raises(BadRequest, match="'after' is the id"):
        await world.list(after="yesterday")


async def test_a_list_may_be_of_some_kinds_only(world: World) -> None:
    for kind in ("note", "fact", "dialogue", "fact"):
        await world.write(kind, kind=kind)
    assert [e.kind for e in (await world.list(kinds=["fact", "note"])).entries] == ["fact", "fact", "note"]
    assert (await world.list(kinds=["tool_call"])).entries == []


# ── in memory and on disk ──


async def test_what_leaves_the_memory_is_read_back_and_searched_all_the_same(tmp_path: Path) -> None:
    world = World(tmp_path, MemorySection(limit=ByteSize(64 * KIB), watermark=0.8, low=0.6))
    contents = {await world.write(f"entry number{n} " + "words " * 20): n for n in range(200)}
    await world.settle()
    stat = await world.stat()
    assert stat.resident <= 0.8 * 64 * KIB
    assert 0 < stat.resident_entries < 200
    assert (stat.entries, stat.swapped_entries) == (200, 200 - stat.resident_entries)
    assert stat.swapped == stat.raw - stat.resident_raw
    assert stat.evictions >= stat.swapped_entries
    for id, n in contents.items():
        assert (await world.read(id)).content.startswith(f"entry number{n} ")
        found = await world.search(f"number{n}")
        assert [entry.id for entry in found] == [id]
    await world.settle()
    after = await world.stat()
    assert after.hits + after.misses == 400
    assert after.misses >= stat.swapped_entries
    world.close()


async def test_a_restart_begins_with_nothing_in_memory_and_uses_bring_it_back(world: World) -> None:
    id = await world.write("here")
    assert (await world.stat()).resident_entries == 1
    world.restart()
    assert (await world.stat()).resident_entries == 0
    for _ in range(3):
        await world.read(id)
    stat = await world.stat()
    assert (stat.hits, stat.misses, stat.resident_entries) == (2, 1, 1)


async def test_a_search_is_a_use_of_what_it_found_and_brings_it_back(world: World) -> None:
    for n in range(40):
        await world.write(f"common {n}")
    world.restart()
    assert len(await world.search("common", k=30)) == 30
    stat = await world.stat()
    assert (stat.hits, stat.misses, stat.resident_entries) == (0, 30, 30)
    assert len(await world.search("common", k=40)) == 40
    assert (await world.stat()).hits == 30


async def test_an_entry_that_is_damaged_on_disk_is_one_error_and_the_others_go_on(world: World) -> None:
    ids = [await world.write(f"entry {n} " + "x" * 3000) for n in range(3)]
    world.restart()
    sql = "UPDATE segments SET body = zeroblob(1024) WHERE id = (SELECT tip FROM entries ORDER BY row LIMIT 1)"
    world.database.run_now(lambda c: c.execute(sql) and None)
    with pytest.raises(AiosError, match=f"entry {ids[0]} cannot be read.*damaged") as fault:
        await world.read(ids[0])
    assert (fault.value.code, fault.value.fault) == ("content_damaged", "module")
    assert (await world.read(ids[1])).content.startswith("entry 1")
    listed = (await world.list()).entries
    assert [entry.id for entry in listed] == ids[::-1]
    assert [entry.fault is None for entry in listed] == [True, True, False]
    found = await world.search("entry")
    assert {entry.id: entry.fault is None for entry in found} == {ids[0]: False, ids[1]: True, ids[2]: True}
    await world.call(MemUpdate(id=ids[0], content="written anew"))
    assert (await world.read(ids[0])).content == "written anew"
    assert (await world.call(MemClear(all=True))).count == 3


async def test_a_write_that_nobody_waits_for_any_more_is_in_memory_as_it_is_on_disk(world: World) -> None:
    id = await world.write("first")
    update = asyncio.create_task(world.call(MemUpdate(id=id, content="second")))
    await asyncio.sleep(0)
    update.cancel()
    with pytest.raises(asyncio.CancelledError):
        await update
    await world.write("another, committed after it")
    assert (await world.read(id)).content == "second"
    world.restart()
    assert (await world.read(id)).content == "second"


async def test_what_was_counted_of_a_block_stays_though_nothing_of_it_is_in_memory(world: World) -> None:
    id = await world.write("here")
    await world.read(id)
    await world.call(MemClear(id=id))
    stat = await world.stat()
    assert (stat.hits, stat.resident_entries) == (1, 0)

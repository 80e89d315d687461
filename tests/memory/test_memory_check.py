"""What a check finds wrong with memory on disk, and what a repair makes of it: what can be read stays."""

from __future__ import annotations

import pytest
from memory_world import World

from aios.abi.calls import MemAlloc, MemClear, MemHistory, MemUpdate
from aios.abi.errors import NotFound
from aios.kernel.database import Fault
from aios.kernel.memory import changes, check, repair
from aios.kernel.process import Place
from aios.kernel.storage import Segments

pytestmark = pytest.mark.anyio


def faults(world: World) -> list[Fault]:
    return world.database.read(lambda c: list(check(c, Segments())))


def mend(world: World) -> list[Fault]:
    """What is still wrong after a repair, in memory and in its index."""
    index = world.memory._index
    world.database.run_now(lambda c: repair(c, Segments(), index))
    return faults(world) + [Fault("index", what, "") for what in world.searching.check_integrity()]


def harm(world: World, sql: str) -> None:
    world.database.run_now(lambda c: c.execute(sql) and None)


async def fill(world: World) -> list[str]:
    """Ids of three entries: a short one, and two long ones that begin alike, one of which was changed."""
    await world.call(MemAlloc(block="other"))
    await world.write("in another block", block="other")
    long = "it is said that " * 300
    ids = [await world.write("short"), await world.write(long + "first"), await world.write(long + "second")]
    await world.call(MemUpdate(id=ids[2], content=long + "third"))
    assert faults(world) == []
    return ids


async def test_memory_that_was_used_is_as_it_should_be(world: World) -> None:
    ids = await fill(world)
    await world.call(MemClear(id=ids[1]))
    assert faults(world) == []
    await world.call(MemClear(all=True))
    assert faults(world) == []


@pytest.mark.parametrize(
    ("sql", "lost"),
    [
        ("UPDATE segments SET body = zeroblob(1024) WHERE id = 1", {1, 2}),
        ("DELETE FROM segments WHERE id = 2", {1, 2}),
        ("UPDATE entries SET tail = x'00ff' WHERE row = (SELECT min(row) FROM entries WHERE block = 2)", {0}),
        ("UPDATE entries SET tail = x'62' WHERE tail = x'73686f7274'", {0}),
        ("UPDATE entries SET metadata = x'7b' WHERE row = (SELECT max(row) FROM entries)", {2}),
        ("UPDATE entries SET tip = 999 WHERE row = (SELECT max(row) FROM entries)", {2}),
        ("UPDATE segments SET refs = refs + 5", set()),
        ("UPDATE segments SET refs = 0 WHERE id = 2", set()),
        ("UPDATE blocks SET num_entries = 7, kept = 1, disk = 0", set()),
        ("INSERT INTO segments(scope, key, refs, body) VALUES (1, x'00', 1, x'01')", set()),
        ("INSERT INTO entries SELECT 77, 9999, kind, metadata, created, source, importance, modified, revision, size,"
         " NULL, tail, NULL FROM entries WHERE tip IS NULL LIMIT 1", set()),
        ("UPDATE entries_were SET row = 5", set()),
    ],
)  # fmt: skip
async def test_what_is_damaged_is_found_and_mended_and_the_rest_stays(world: World, sql: str, lost: set[int]) -> None:
    ids = await fill(world)
    whole = [await world.read(id) for id in ids]
    harm(world, sql)
    world.memory._residents.close()
    assert faults(world) != []
    assert mend(world) == []
    for n, id in enumerate(ids):
        if n in lost:
            with pytest.raises(NotFound):
                await world.read(id)
        else:
            assert await world.read(id) == whole[n]
    await world.write("and on it goes")
    assert faults(world) == []


async def test_an_earlier_state_that_cannot_be_read_costs_no_more_than_itself(world: World) -> None:
    id = await world.write("one " * 1000)
    await world.call(MemUpdate(id=id, content="two " * 1000))
    await world.call(MemUpdate(id=id, content="three " * 1000))
    harm(world, "UPDATE entries_were SET tip = 999 WHERE revision = 1")
    history = (await world.call(MemHistory(id=id))).entries
    assert [(each.revision, each.fault is None) for each in history] == [(2, True), (1, False)]
    assert [fault.where for fault in faults(world) if id in fault.where] == [f"entry {id} as it was in revision 1"]
    assert mend(world) == []
    assert [each.revision for each in (await world.call(MemHistory(id=id))).entries] == [2]
    assert (await world.read(id)).content == "three " * 1000


async def test_a_block_of_which_some_is_still_to_leave_is_as_it_should_be(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "PURGE_STEP", 2)
    for n in range(5):
        await world.write(f"entry {n}")
    place = Place("o", "a")
    world.database.run_now(lambda c: world.memory._changes.empty(c, place, ""))
    while world.database.run_now(world.memory._changes.purge):
        assert world.searching.check_integrity() == []
    assert faults(world) == []

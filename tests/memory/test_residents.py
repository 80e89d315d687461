"""What is in memory: copies within bounds that count all that Python needs, and who gives when it is too much."""

from __future__ import annotations

import gc
import random
import tracemalloc

import pytest

from aios.kernel.config import ByteSize, MemorySection
from aios.kernel.memory import residents
from aios.kernel.memory.blocks import BlockRow
from aios.kernel.memory.entries import Record
from aios.kernel.memory.policies import POLICIES
from aios.kernel.memory.resident import BASE, Resident
from aios.kernel.memory.residents import Residents, Whose
from aios.kernel.process import Place

FACTS = b'["note",{},1764450000.25,null,null,null,1]'


def whose(agent: str) -> Whose:
    return Place("o", agent), ""


def record(number: int, size: int = 100) -> Record:
    return Record(number, random.Random(number).randbytes(size), FACTS)


class World:
    """Residents, with a clock that goes on by itself."""

    def __init__(self, policy: str = "lru_k", **settings: int | float) -> None:
        sizes = {name: ByteSize(each) if isinstance(each, int) else each for name, each in settings.items()}
        self.residents = Residents(MemorySection(**sizes), POLICIES[policy])  # type: ignore[arg-type]
        self.rows: dict[str, BlockRow] = {}
        self.now = 0.0

    def row(self, agent: str) -> BlockRow:
        return self.rows.setdefault(agent, BlockRow("", len(self.rows) + 1, None, None, None, 0, 0, 0, 0))

    def put(self, agent: str, number: int, size: int = 100) -> None:
        self.now += 1
        self.residents.put(whose(agent), self.row(agent), record(number, size), self.now)

    def get(self, agent: str, number: int) -> Record | None:
        self.now += 1
        return self.residents.get(whose(agent), number, self.now)

    def shrink(self) -> None:
        while self.residents.must_shrink:
            self.residents.shrink(self.now)

    def settle(self) -> None:
        self.shrink()
        self.residents.check_integrity()

    def size(self, agent: str) -> int:
        block = self.residents.find(whose(agent))
        return 0 if block is None else block.size

    def count(self, agent: str) -> int:
        block = self.residents.find(whose(agent))
        return 0 if block is None else len(block)


def test_what_was_put_is_there_until_it_is_forgotten() -> None:
    world = World()
    world.put("a", 1)
    world.put("b", 1)
    assert world.get("a", 1) == record(1)
    assert world.get("a", 2) is None
    world.residents.forget(whose("a"), 1)
    assert world.get("a", 1) is None
    assert world.get("b", 1) == record(1)
    world.settle()
    assert (world.residents.hits, world.residents.misses) == (2, 0)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_block_above_its_watermark_goes_down_to_the_low_mark_and_keeps_its_bound_meanwhile(policy: str) -> None:
    world = World(policy, limit=200_000, watermark=0.8, low=0.5)
    for number in range(2000):
        world.put("a", number)
        world.residents.check_integrity() if number % 100 == 0 else None
        assert world.size("a") <= 200_000
    assert world.size("a") > 160_000
    world.settle()
    assert 90_000 < world.size("a") <= 100_000
    world.put("a", 5000)
    assert not world.residents.must_shrink
    assert world.get("a", 5000) == record(5000)


def test_an_entry_beyond_the_bound_has_no_copy_and_drives_nobody_out() -> None:
    world = World(limit=50_000)
    world.put("a", 1)
    world.put("a", 2, 50_000)
    assert world.get("a", 1) == record(1)
    assert world.get("a", 2) is None
    world.put("a", 1, 60_000)  # it has become too large: what it was is no copy of it
    assert world.get("a", 1) is None
    world.settle()


def test_all_blocks_together_keep_the_total_and_the_one_that_floods_gives() -> None:
    world = World(total=400_000, watermark=0.8, low=0.7)
    for number in range(100):
        world.put("quiet", number)
    quiet = world.count("quiet")
    for number in range(3000):
        world.put("loud", 10_000 + number)
        world.now += 1e-3
        assert world.residents.size <= 400_000
        if number % 50 == 0:
            world.shrink()
            world.get("quiet", 5)
    world.settle()
    assert world.residents.size <= 320_000
    assert world.count("quiet") == quiet


def test_a_block_that_nobody_has_used_for_long_gives_before_a_larger_one_in_use() -> None:
    world = World(total=400_000, watermark=0.8, low=0.7)
    for number in range(150):
        world.put("old", number)
    world.now += 3600
    for number in range(700):
        world.put("new", 10_000 + number)
        world.shrink()
    assert world.count("old") == 0
    assert world.count("new") > 250


def test_where_many_blocks_are_alike_not_all_are_looked_at_for_each_that_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def weight(block: Resident, now: float) -> float:
        nonlocal looks
        looks += 1
        return block.size

    monkeypatch.setattr(residents, "_weight", weight)
    world = World(total=3_000_000, watermark=0.8, low=0.6)
    for number in range(500):
        world.put(f"agent{number}", number, 1000)
    while world.residents.size <= 2_400_000:
        for each in range(500):
            number += 1
            world.put(f"agent{each}", number, 1000)
    world.settle()
    assert world.residents.size <= 1_800_000
    assert looks < 50 * 500
    sizes = [world.size(f"agent{each}") for each in range(500)]
    assert max(sizes) < 2 * min(sizes), sizes


def test_blocks_that_hold_nothing_count_and_are_dropped_when_others_need_the_room() -> None:
    world = World(total=1_000_000)
    for number in range(200):
        world.put(f"idle{number}", number)
        world.residents.forget(whose(f"idle{number}"), number)
    assert world.residents.size >= 200 * BASE
    world.now += 86_400
    for number in range(2000):
        world.put("busy", 10_000 + number)
        world.shrink()
    world.settle()
    assert world.residents.size <= 1_000_000
    assert world.residents.statistics()["blocks"] < 100


def test_a_block_that_was_emptied_is_out_of_reach_at_once_and_leaves_the_memory_step_by_step() -> None:
    world = World()
    for number in range(1000):
        world.put("a", number)
    before = world.residents.size
    world.residents.drop(whose("a"))
    assert world.get("a", 1) is None
    assert world.residents.size == before
    world.residents.shrink(world.now)
    assert 0 < world.residents.size < before
    world.settle()
    assert world.residents.size == 0


def test_a_block_of_another_id_is_another_block() -> None:
    world = World()
    world.put("a", 1)
    world.rows["a"] = BlockRow("", 99, None, None, None, 0, 0, 0, 0)
    world.put("a", 2)
    assert world.get("a", 1) is None
    assert world.get("a", 2) == record(2)
    world.settle()


def test_what_is_allotted_counts_from_then_on() -> None:
    world = World(limit=1_000_000)
    for number in range(500):
        world.put("a", number)
    world.rows["a"] = BlockRow("", 1, 50_000, 0.5, 3, 0, 0, 0, 0)
    world.residents.allot(whose("a"), world.row("a"))
    world.settle()
    for number in range(500):
        world.put("a", number)
        assert world.size("a") <= 50_000
    world.settle()
    assert world.size("a") <= 25_000


def test_twenty_snapshots_of_a_dialogue_are_kept_for_a_fifth_of_their_bytes_all_things_counted() -> None:
    world = World()
    text = random.Random(1).randbytes(20_000)
    for n in range(1, 21):
        world.residents.put(whose("a"), world.row("a"), Record(n, text[: n * 1000], FACTS), float(n))
    block = world.residents.find(whose("a"))
    assert block is not None
    assert block.raw == 210_000
    assert block.size - BASE < block.raw / 5


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("blocks", [1, 300])
def test_the_bytes_that_are_counted_are_those_that_are_taken(policy: str, blocks: int) -> None:
    world = World(policy)
    rows = [world.row(f"agent{n}") for n in range(blocks)]
    gc.collect()  # and forget the tuples that Python has put by for later
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(3000):
            agent = f"agent{number % blocks}"
            size = 10 + number % 300
            facts = bytes(bytearray(FACTS))
            entry = Record(1 << 50 | number, random.Random(number).randbytes(size), facts)
            world.residents.put(whose(agent), rows[number % blocks], entry, number + 0.5)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.85 * taken < world.residents.size < 1.25 * taken
    world.settle()

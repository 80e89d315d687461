"""`aios bench memory`: its policies on streams, Belady's optimum, and that all of it runs."""

from __future__ import annotations

import json
import random
from itertools import combinations
from pathlib import Path

import pytest

from aios.eval.bench import eviction, memory, memory_bound
from aios.eval.bench.eviction import POLICIES, belady, compare, polluted, requests, zipf


def best_of_all(stream: list[int], capacity: int) -> int:
    """Hits of the best of all ways to evict, by trying each."""
    states = {frozenset[int](): 0}
    for key in stream:
        following: dict[frozenset[int], int] = {}
        for there, hits in states.items():
            if key in there:
                choices = [(there, hits + 1)]
            else:
                kept = [there] if len(there) < capacity else map(frozenset, combinations(there, capacity - 1))
                choices = [(frozenset(each) | {key}, hits) for each in kept]
            for state, count in choices:
                following[state] = max(count, following.get(state, -1))
        states = following
    return max(states.values())


@pytest.mark.parametrize("seed", range(20))
def test_nothing_hits_more_often_than_beladys_optimum(seed: int) -> None:
    dice = random.Random(seed)
    stream = [dice.randrange(6) for _ in range(14)]
    assert belady(stream, 3) * len(stream) == pytest.approx(best_of_all(stream, 3))


def test_policies_stay_below_the_optimum_and_lru_k_withstands_scans() -> None:
    for stream in (zipf(30_000, 1000), polluted(30_000, 1000, run=1000, scan=500)):
        rates = compare(stream, 500)
        assert all(0 < rates[name] < rates["belady"] for name in POLICIES)
    assert rates["lru_k"] > rates["lru"] + 0.10


def test_a_trace_is_read_as_mooncake_writes_them(tmp_path: Path) -> None:
    trace = tmp_path / "some_trace.jsonl"
    lines = [{"timestamp": n, "input_length": 9, "output_length": 1, "hash_ids": [0, 1, n]} for n in range(2, 40)]
    trace.write_text("\n".join(map(json.dumps, lines)))
    assert requests(trace)[1] == [0, 1, 3]
    found = eviction.measure(1000, trace)["some_trace"]
    assert (found["uses"], found["keys"], found["capacity"]) == (114, 40, 4)


@pytest.mark.anyio
async def test_writes_reads_and_snapshots_are_measured() -> None:
    write, read, saved = await memory.writing(1, 300), await memory.reading(1, 200), await memory.snapshots()
    assert min(write["room_per_s"], write["kernel_per_s"], write["bare_per_s"]) > 0
    assert min(read["small"]["hit_us"], read["long"]["swap_in_us"]) > 0
    assert saved["trie_to_raw"] < 0.2
    assert saved["disk_to_raw"] < 0.25
    figures = {
        "write": write,
        "read": read,
        "dialogue": saved,
        "transcripts": saved,
        "eviction": eviction.measure(1000),
    }
    assert "lru_k" in memory.table(figures)


@pytest.mark.anyio
async def test_a_kernel_whose_agents_flood_it_keeps_its_bound() -> None:
    found = await memory_bound.measure(1 << 20, 4 << 20, 8)
    assert found["resident"] <= 1 << 20
    assert found["evictions"] > 50

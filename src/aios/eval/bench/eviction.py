"""Who should leave first: the policies of memory on streams of keys, beside Belady's optimum. Knows no kernel.

Hit rates are shares of all uses. A stream's time is the number of the use.
"""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable, Sequence
from itertools import chain, count, islice
from math import inf
from pathlib import Path
from typing import Any

from aios.kernel.memory.base import Evictor
from aios.kernel.memory.policies import ARC, LRU, LRUK, SizeAware, TwoQ

POLICIES: dict[str, Callable[[], Evictor]] = {
    "lru": LRU,
    "lru_k": lambda: LRUK(2, correlated=0.0, period=inf),
    "two_q": TwoQ,
    "arc": ARC,
    "size_aware": SizeAware,
}
SKEW = 0.9
"""Exponent of the Zipf streams."""


def measure(num_uses: int, trace: Path | None = None) -> dict[str, Any]:
    """Hit rates of all policies on a Zipf stream, on one that scans interrupt, and on the blocks of `trace`."""
    streams = {
        "zipf": (zipf(num_uses, 10_000), 1000),
        "zipf_and_scans": (polluted(num_uses, 1000, run=1000, scan=500), 500),
    }
    if trace is not None:
        blocks = list(islice(chain.from_iterable(requests(trace)), num_uses))
        streams[trace.stem] = (blocks, len(set(blocks)) // 10)
    return {name: compare(stream, capacity) for name, (stream, capacity) in streams.items()}


def compare(stream: Sequence[int], capacity: int) -> dict[str, Any]:
    rates = {name: round(hit_rate(make(), stream, capacity), 4) for name, make in POLICIES.items()}
    best = round(belady(stream, capacity), 4)
    return {"uses": len(stream), "keys": len(set(stream)), "capacity": capacity, **rates, "belady": best}


# ── streams ──


def zipf(num_uses: int, num_keys: int, seed: int = 1) -> list[int]:
    """The n-th key is wanted in proportion to n to the power of -SKEW, at any time."""
    weights = [(n + 1) ** -SKEW for n in range(num_keys)]
    return random.Random(seed).choices(range(num_keys), weights, k=num_uses)


def polluted(num_uses: int, num_keys: int, *, run: int, scan: int, seed: int = 1) -> list[int]:
    """After each `run` uses of such a stream, `scan` keys that come this once."""
    wanted, fresh = iter(zipf(num_uses, num_keys, seed)), count(num_keys)
    stream: list[int] = []
    while len(stream) < num_uses:
        stream += [*islice(wanted, run), *islice(fresh, scan)]
    return stream[:num_uses]


def requests(trace: Path) -> list[list[int]]:
    """The blocks of each request of a trace in Mooncake's form: a line of JSON each, with its `hash_ids`."""
    with trace.open(encoding="utf-8") as lines:
        return [json.loads(line)["hash_ids"] for line in lines]


# ── hit rates ──


def hit_rate(evictor: Evictor, stream: Sequence[int], capacity: int) -> float:
    there: set[int] = set()
    num_hits = 0
    for now, key in enumerate(stream):
        if key in there:
            num_hits += 1
        else:
            if len(there) == capacity:
                there.remove(evictor.victim(float(now)))
            there.add(key)
        evictor.touched(key, 1, float(now))
    return num_hits / len(stream)


def belady(stream: Sequence[int], capacity: int) -> float:
    """Of one that knows what comes: the key leaves whose next use is farthest away (Belady 1966)."""
    following = [0] * len(stream)
    seen: dict[int, int] = {}
    for now in range(len(stream) - 1, -1, -1):
        following[now] = seen.get(stream[now], len(stream))
        seen[stream[now]] = now
    there: dict[int, int] = {}
    farthest: list[tuple[int, int]] = []
    num_hits = 0
    for now, key in enumerate(stream):
        if key in there:
            num_hits += 1
        elif len(there) == capacity:
            _let_go(there, farthest)
        there[key] = following[now]
        heapq.heappush(farthest, (-following[now], key))
    return num_hits / len(stream)


def _let_go(there: dict[int, int], farthest: list[tuple[int, int]]) -> None:
    while True:
        away, key = heapq.heappop(farthest)
        if there.get(key) == -away:  # not an item of an earlier use
            del there[key]
            return

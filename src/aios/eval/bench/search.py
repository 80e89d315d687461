"""`aios bench search`: how long a search of memory takes, in one large block and among many agents. Asserts nothing.

Through calls in process, entries of made-up words whose frequencies fall as those of a language do. Beside it SQLite's
own full-text search of the same texts, in a table that belongs to nobody: the least that words could cost.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import apsw

from aios.abi.calls import MemSearch, MemWrite
from aios.abi.memory import SearchMode
from aios.kernel import Kernel, Principal
from aios.testing import booted, principal

from .timing import Times

ENTRIES = 100_000
AGENTS = 100
ROUNDS = 25
WRITERS = 64
SEED = 1
MODES: tuple[SearchMode, ...] = ("keyword", "vector", "hybrid")
LIMITS = {"keyword": 0.025, "hybrid": 0.060}
"""Seconds that a search of the large block may take."""


class Language:
    """Words, and entries of 10 to 40 of them; every other one holds the word "common" too."""

    def __init__(self, seed: int, num_words: int = 20_000) -> None:
        self._dice = random.Random(seed)
        letters = "abcdefghijklmnopqrstuvwxyz"
        self.words = ["".join(self._dice.choices(letters, k=self._dice.randint(3, 10))) for _ in range(num_words)]
        self._weights = list(itertools.accumulate(1 / (n + 2) for n in range(num_words)))
        self._place = {word: n for n, word in enumerate(self.words)}

    def entry(self) -> str:
        words = self._dice.choices(self.words, cum_weights=self._weights, k=self._dice.randint(10, 40))
        return " ".join([*words, "common"] if self._dice.random() < 0.5 else words)

    def queries(self, entry: str) -> dict[str, str]:
        """What somebody may ask who looks for it."""
        words = entry.split()
        rare = sorted(words, key=lambda word: -self._place.get(word, 0))[:2]
        return {
            "two rare words": " ".join(rare),
            "with common ones": f"{' '.join(rare)} common {self.words[0]}",
            "common ones only": f"common {self.words[0]} {self.words[1]}",
            "a sentence": " ".join(words[:12]),
        }


def main(as_json: bool, quick: bool) -> dict[str, Any]:
    """Measure it; print it unless the caller wants it as it is."""
    figures = asyncio.run(measure(quick=quick))
    if not as_json:
        print(table(figures))
    return figures


async def measure(*, quick: bool = False, entries: int = ENTRIES, agents: int = AGENTS) -> dict[str, Any]:
    if quick:
        entries, agents = entries // 20, agents // 10
    language = Language(SEED)
    async with booted() as kernel:
        one = principal(kernel, "one")
        many = [principal(kernel, f"agent-{n}") for n in range(agents)]
        await kernel.access.settled()
        texts = [language.entry() for _ in range(entries)]
        bare = bare_table(texts)
        await _write(kernel, [(one, text) for text in texts])
        embedded = await _embedded_per_second(kernel)
        cold = await _cold(kernel, one, language.queries(texts[0])["a sentence"])
        asked = [language.queries(text) for text in random.Random(SEED).sample(texts, ROUNDS)]
        alone = await _searches(kernel, one, asked, bare)
        shared = [language.entry() for _ in range(entries)]
        await _write(kernel, [(many[n % agents], text) for n, text in enumerate(shared)])
        await kernel.search.idle()
        among = await _searches(kernel, one, asked, bare)
        own = [language.queries(text) for text in shared[::agents]][:ROUNDS]
        small = await _searches(kernel, many[0], own, bare)
        return {
            "entries": entries,
            "agents": agents,
            "rounds": len(asked),
            "one_block": alone,
            "one_block_beside_the_agents": among,
            "one_agent_of_them": small,
            "first_hybrid_s": round(cold, 4),
            "embedded_per_s": round(embedded),
            "vectors": kernel.search.statistics()["cache"],
        }


def bare_table(texts: Sequence[str]) -> apsw.Connection:
    """SQLite's own full-text search of them, in a table that belongs to nobody."""
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE VIRTUAL TABLE t USING fts5(words, content='', tokenize='porter ascii')")
    with connection:
        connection.executemany("INSERT INTO t(words) VALUES (?)", ((text,) for text in texts))
    return connection


async def _write(kernel: Kernel, entries: Sequence[tuple[Principal, str]]) -> None:
    left = iter(entries)
    await asyncio.gather(*(_write_some(kernel, left) for _ in range(WRITERS)))


async def _write_some(kernel: Kernel, left: Iterator[tuple[Principal, str]]) -> None:
    for who, text in left:
        await kernel.call(who, "mem_write", MemWrite(content=text))


async def _embedded_per_second(kernel: Kernel) -> float:
    """Of the vectors that were not made yet while entries were written."""
    before, begun = kernel.search.statistics()["embedded"], time.perf_counter()
    await kernel.search.idle()
    made: int = kernel.search.statistics()["embedded"] - before
    return made / (time.perf_counter() - begun)


async def _cold(kernel: Kernel, who: Principal, query: str) -> float:
    """Seconds of the first search, which reads the vectors of the block."""
    begun = time.perf_counter()
    await kernel.call(who, "mem_search", MemSearch(query=query, k=10))
    return time.perf_counter() - begun


async def _searches(
    kernel: Kernel, who: Principal, asked: Sequence[dict[str, str]], bare: apsw.Connection
) -> dict[str, dict[str, Any]]:
    """Of each kind of query in each mode: seconds, by the wall and of the CPU."""
    times = {kind: {mode: Times() for mode in (*MODES, "bare FTS5")} for kind in asked[0]}
    for queries in asked:
        for kind, query in queries.items():
            for mode in MODES:
                with times[kind][mode].once():
                    await kernel.call(who, "mem_search", MemSearch(query=query, k=10, mode=mode))
            with times[kind]["bare FTS5"].once():
                _ask_bare(bare, query)
    return {
        kind: {mode: {"wall_s": round(each.wall_s, 5), "cpu_s": round(each.cpu_s, 5)} for mode, each in modes.items()}
        for kind, modes in times.items()
    }


def _ask_bare(bare: apsw.Connection, query: str) -> None:
    match = " OR ".join(f'"{word}"' for word in query.split())
    bare.execute("SELECT rowid FROM t WHERE t MATCH ? ORDER BY rank LIMIT 10", (match,)).fetchall()


def table(figures: dict[str, Any]) -> str:
    lines = [
        f"{figures['entries']:,} entries in one block; as many of {figures['agents']} agents; medians of"
        f" {figures['rounds']}, milliseconds by the wall (of the CPU)"
    ]
    for name in ("one_block", "one_block_beside_the_agents", "one_agent_of_them"):
        lines.append(f"{name.replace('_', ' '):<30}" + "".join(f"{mode:>18}" for mode in (*MODES, "bare FTS5")))
        for kind, modes in figures[name].items():
            cells = "".join(f"{each['wall_s'] * 1e3:>9.1f} ({each['cpu_s'] * 1e3:>5.1f})" for each in modes.values())
            lines.append(f"  {kind:<28}  {cells}")
    lines.append(
        f"first hybrid search {figures['first_hybrid_s'] * 1e3:.0f} ms; {figures['embedded_per_s']:,} vectors a second;"
        f" {figures['vectors']['bytes'] / 1e6:.1f} MB of them in memory"
    )
    return "\n".join(lines)

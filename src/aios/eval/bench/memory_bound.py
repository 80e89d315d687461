"""How much a kernel's memory grows while agents write much more than it may keep: a process of its own, to be measured.

    python -m aios.eval.bench.memory_bound --total 256MiB --bytes 5GiB --agents 100

Prints a line of JSON. Linux only: a process's memory is read from /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from aios.abi.calls import MemRead, MemWrite
from aios.kernel import ByteSize, Config, Kernel, MemorySection, Principal, parse
from aios.testing import booted, principal

from .texts import logs

WRITERS = 16
"""Agents that write at the same time."""
SIZES = (500, 4_000, 16_000, 64_000)
"""Bytes of entries, in turn."""


async def measure(total: int, num_bytes: int, agents: int, folder: str | None = None) -> dict[str, Any]:
    config = Config(memory=MemorySection(total=ByteSize(total)))
    with tempfile.TemporaryDirectory(prefix="aios-bench-", dir=folder) as home:
        async with booted(home=Path(home), config=config) as kernel:
            whos = [principal(kernel, f"agent-{number}") for number in range(agents)]
            await kernel.access.settled()
            text = logs(32 << 20)
            await _write(kernel, whos[0], text, 1 << 20, seed=agents)
            watch = _Watch()
            begun, cpu = time.perf_counter(), time.process_time()
            places = asyncio.Semaphore(WRITERS)

            async def work(number: int) -> int:
                async with places:
                    return await _write(kernel, whos[number], text, num_bytes // agents, seed=number, watch=watch)

            written = await asyncio.gather(*map(work, range(agents)))
            statistics = kernel.memory.statistics()
            return {
                "total": total,
                "agents": agents,
                "bytes": num_bytes,
                "entries": sum(written),
                "seconds": round(time.perf_counter() - begun, 1),
                "cpu_seconds": round(time.process_time() - cpu, 1),
                "grown": watch.peak - watch.before,
                "grown_by_total": round((watch.peak - watch.before) / total, 3),
                "resident": statistics["resident"],
                "evictions": statistics["evictions"],
                "database": (Path(home) / "aios.db").stat().st_size,
            }


class _Watch:
    """The most memory that this process has held since."""

    def __init__(self) -> None:
        self.before = self.peak = _rss()

    def look(self) -> None:
        self.peak = max(self.peak, _rss())


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _write(
    kernel: Kernel, who: Principal, text: str, num_bytes: int, *, seed: int, watch: _Watch | None = None
) -> int:
    """So many bytes in entries of all sizes, one in ten of which is read again later. How many entries."""
    dice = random.Random(seed)
    ids: list[str] = []
    while num_bytes > 0:
        size = SIZES[len(ids) % len(SIZES)]
        at = dice.randrange(len(text) - size)
        written = await kernel.call(who, "mem_write", MemWrite(content=text[at : at + size]))
        ids.append(written.id)
        if len(ids) % 10 == 0:
            await kernel.call(who, "mem_read", MemRead(id=dice.choice(ids)))
            if watch is not None:
                watch.look()
        num_bytes -= size
    return len(ids)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--total", default="256MiB", help="[memory] total")
    parser.add_argument("--bytes", default="512MiB", help="what all agents write")
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--folder", help="where the home is made")
    given = parser.parse_args(arguments)
    sizes = parse(f'[memory]\ntotal = "{given.total}"\nlimit = "{given.bytes}"').memory
    print(json.dumps(uvloop.run(measure(sizes.total, sizes.limit, given.agents, given.folder))))


if __name__ == "__main__":
    main(sys.argv[1:])

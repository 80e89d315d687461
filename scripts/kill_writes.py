"""Kill a kernel with -9 again and again while agents write memory and files, and hold it to what it acknowledged.

After each kill a new kernel takes up the home: what was acknowledged is there and nothing else (contents, histories,
numbers of versions, counts), what was not is there whole or not at all, searches find what was written, calls with a
key give their first answer again, and every check of the store is clean.

    scripts/kill_writes.py --kills 500 --seed 1
    scripts/kill_writes.py --kills 100 --mode durable --power --json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from crash.clients import Book, Client, Lost
from crash.command import fs_check
from crash.door import TEAM, Dead, Door, Setting, prepare

AGENTS = ("a", "b", "c", "d", "e", "f")
MOUNTED = ("d", "e", "f")
"""Those whose files are in a mounted folder, each in its own."""
MAX_ANSWERS = 60
"""A kernel lives for fewer answers than this."""
EARLY = 0.1
"""Of the kernels are killed before they are ready, or while calls that were cut short are asked again."""
BOOT_SECONDS = 0.3


class Run:
    def __init__(self, options: argparse.Namespace, home: Path) -> None:
        self.options, self.home, self.book = options, home, Book()
        self.draw = random.Random(options.seed)
        self.setting = Setting(mode=options.mode, agents=AGENTS, mounted=MOUNTED, can_lose_power=options.power)
        blocks = {"a": ("", "own", TEAM), "b": ("", "own")}
        self.clients = [
            Client(name, blocks.get(name, ("",)), str(options.seed), self.book, is_in_mount=name in MOUNTED)
            for name in AGENTS
        ]

    async def all(self) -> None:
        started = time.monotonic()
        for n in range(1, self.options.kills + 1):
            await self.life()
            if n % 10 == 0 or n == self.options.kills:
                answered = sum(v for k, v in self.book.counts.items() if "_" in k)
                self.tell(f"{n}/{self.options.kills} kills, {answered} answers, {len(self.book.faults)} faults, "
                          f"{time.monotonic() - started:.0f} s")  # fmt: skip
        door = await self.begun()
        await self.settled(door)
        await door.look("stop")
        door.kill()
        self.book.faults += [f"aios fs check: {each}" for each in fs_check(self.home)]

    async def begun(self) -> Door:
        door = Door(self.home, self.setting)
        await door.start()
        return door

    async def life(self) -> None:
        """One kernel, from its start to its kill."""
        door = await self.begun()
        if self.draw.random() < EARLY:
            self.book.counts["kills before it was ready"] += 1
            await asyncio.sleep(self.draw.random() * BOOT_SECONDS)
            return door.kill()
        await self.settled(door)
        await self.under_load(door)
        door.kill()

    async def settled(self, door: Door) -> None:
        await door.ready()
        await door.look("noted")
        await asyncio.gather(*(client.settle(door.ask) for client in self.clients))
        self.book.faults += await door.look("check")
        self.book.counts["audits"] += 1

    async def under_load(self, door: Door) -> None:
        """Let the agents work until the kernel is killed."""
        left = self.draw.randrange(MAX_ANSWERS)
        enough = asyncio.Event()

        def on_answer() -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                enough.set()

        working = [asyncio.create_task(client.work(door.ask, on_answer)) for client in self.clients]
        waiting = asyncio.create_task(enough.wait())
        await asyncio.wait([waiting, *working], return_when=asyncio.FIRST_COMPLETED, timeout=60)
        await asyncio.sleep(self.draw.random() * 0.03)
        if self.options.power:
            await door.lose_power(f"{self.options.seed} {self.book.counts['kills under load']}")
        else:
            door.kill()
        waiting.cancel()
        for each in await asyncio.gather(*working, return_exceptions=True):
            if not isinstance(each, Dead):
                raise each
        self.book.counts["kills under load"] += 1
        self.book.counts["calls without an answer"] += sum(client.pending is not None for client in self.clients)

    def tell(self, text: str) -> None:
        print(text, file=sys.stderr if self.options.json else sys.stdout, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", choices=["fast", "durable"], default="fast")
    parser.add_argument("--power", action="store_true", help="fail the power: what is not synced is lost (durable)")
    parser.add_argument("--json", action="store_true", help="figures only, as one JSON object")
    options = parser.parse_args()
    if options.power and options.mode != "durable":
        parser.error("--power goes with --mode durable: fast mode promises nothing about it")
    prepare()
    folder = Path(tempfile.mkdtemp(prefix="aios-kills-"))
    run = Run(options, folder / "home")
    with contextlib.suppress(Lost):
        asyncio.run(run.all())
    outcome = report(run)
    print(json.dumps(outcome))
    if outcome["faults"]:
        print(f"the home is kept: {run.home}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


def report(run: Run) -> dict[str, Any]:
    counts = dict(sorted(run.book.counts.items()))
    return {
        "kills": run.options.kills,
        "mode": run.options.mode,
        "power": run.options.power,
        "seed": run.options.seed,
        "calls": {name: count for name, count in counts.items() if "_" in name},
        "counts": {name: count for name, count in counts.items() if "_" not in name},
        "entries": sum(len(entries) for client in run.clients for entries in client.known.blocks.values()),
        "faults": len(run.book.faults),
        "first_faults": run.book.faults[:5],
    }


if __name__ == "__main__":
    sys.exit(main())

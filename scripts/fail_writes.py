"""Fail every n-th write, sync, rename and the like under a kernel while an agent writes memory and files.

For every kind of operation on the disk, SQLite's and the kernel's own, and for every n until nothing fails any more:
the n-th one fails, or every n-th, or all from there on, because the disk is full or broken. Each call then is carried
out, or refused in a clear sentence and not done; and the next kernel, on a disk that works, has all that was promised.

    scripts/fail_writes.py                         everything, some hours on a small machine
    scripts/fail_writes.py --each 20               the first ten of each kind, and beyond them each twentieth
    scripts/fail_writes.py --count 20 --seed 3     so many of them, drawn at random
    scripts/fail_writes.py --only file.rename --mode durable
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import errno
import itertools
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crash import audit
from crash.clients import Book, Client, Lost
from crash.disk import BROKEN, FULL, KINDS, Manner, Plan
from crash.door import Dead, Door, Setting, prepare

from aios.abi.errors import AiosError

SETUP_STEPS = 60
PATIENCE = 60
TRIES = 2
"""So often a call with a key is asked while the disk fails."""
CLEAR_CODES = ("storage_full", "storage_failed", "folder_failed")
"""What a call may be refused with when the disk fails it."""
NOTHING_DONE = ("nothing was recorded", "nothing was written")
NOT_TOLD = "this call has ended"
MANNERS: tuple[Manner, ...] = ("once", "every", "all")
SCENES = ("load", "mount", "boot", "new home")
LOADS = ("load", "mount")
"""`mount` is a load of files in a mounted folder."""
FIRST = 10
"""Of each kind, whose every one fails though only some are to."""


class Sweep:
    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder, self.book = options, folder, Book()
        self.template = folder / "template"
        self.client = Client("a", ("", "own"), str(options.seed), self.book)
        self.mounted = Client("m", ("",), str(options.seed), self.book, is_in_mount=True)
        self.errors: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        """Runs in which something failed, by kind."""

    # ── before ──

    async def set_up(self) -> None:
        """A home with something in it, which every run begins with a copy of."""
        door = await self.begun(self.template, None)
        await door.ready()
        for client in (self.client, self.mounted):
            for _ in range(SETUP_STEPS):
                client.pending = client.steps.next(client.known)
                await client.finish(door.ask)
        await door.look("check")
        await door.look("stop")
        door.kill()

    async def begun(self, home: Path, plan: Plan | None) -> Door:
        door = Door(home, Setting(self.options.mode, ("a", "m"), ("m",), plan, files_from=100_000))
        await door.start()
        return door

    # ── one run ──

    async def run(self, scene: str, plan: Plan) -> dict[str, Any]:
        """What the disk says of it."""
        home = self.folder / "home"
        shutil.rmtree(home, ignore_errors=True)
        client = Client("a", ("", "own"), "fresh", self.book)
        if scene != "new home":
            shutil.copytree(self.template, home, ignore=shutil.ignore_patterns("reserve"))
            client = copy.deepcopy(self.mounted if scene == "mount" else self.client)
            client.book = self.book
        before = len(self.book.faults)
        try:
            return await self._run(client, home, scene, plan)
        finally:
            for n in range(before, len(self.book.faults)):
                self.book.faults[n] = f"[{scene}, {shown(plan)}] {self.book.faults[n]}"
                self.tell(self.book.faults[n])

    async def _run(self, client: Client, home: Path, scene: str, plan: Plan) -> dict[str, Any]:
        door = await self.begun(home, plan)
        said: dict[str, Any] = {"failed": True, "counts": {}}
        try:
            await door.ready()
            if scene in LOADS:
                await door.look("noted")
                await door.look("arm")
                await self._load(client, door)
            said = await door.look("disarm")
            if scene in LOADS:
                await self._go_on(client, door)
            if plan.number % 2:
                await door.look("stop")
        except AiosError as error:
            self._judge(client, "to boot", error, also=("home_unusable", "home_not_writable"))
        except Dead:
            client.blame("the kernel ended with no word of why")
        door.kill()
        await self._audit(client, home)
        return said

    async def _load(self, client: Client, door: Door) -> None:
        for step in client.steps.one_of_each(lambda: client.known):
            client.pending = step
            client.is_dropping = client.is_dropping or step.args.get("trash", False)
            for _ in range(TRIES if step.key is not None else 1):
                if client.pending is not None:
                    await self._ask(client, door)
            if client.pending is not None:
                return  # what becomes of it the next kernel tells

    async def _ask(self, client: Client, door: Door) -> AiosError | None:
        """Ask the pending call. It is pending no more once it is known what became of it."""
        step = client.pending
        assert step is not None
        try:
            client.take(step, await client.ask(door.ask, step.name, step.args, step.key))
        except AiosError as error:
            self._judge(client, step.name, error)
            if error.code != "storage_failed":
                await self._either(client, door, error)
            return error
        client.pending = None
        return None

    async def _either(self, client: Client, door: Door, error: AiosError) -> None:
        """After a refusal: the agent sees what was before, or what is after. A mounted folder on a disk that fails
        shows nothing while a call is half undone there, so that is well again then."""
        if client.is_in_mount:
            await door.look("disarm")
        step = client.pending
        try:
            found = await client.seen(door.ask)
        except AiosError as unseen:  # after a failed sync it is the next kernel that shows the mount again
            self._judge(client, "to look", unseen)
            return
        assert step is not None
        before = client.known
        if client.plain(before) != found and (known := client.done(step, found)) is not None:
            client.known, client.pending = known, None
            self.book.counts["refused and done"] += 1
            if error.message.startswith(NOT_TOLD) and step.key is not None:
                client.unheard.append((step, before.answer(step.name, step.args)))
            elif any(each in error.message for each in NOTHING_DONE):
                client.blame(f"{step.name} was refused, and done: {error.message}")
            return
        self.book.counts["refused"] += 1
        client.take_folders(step, found)
        before = client.known
        if (where := audit.difference(client.plain(before), found)) is not None:
            client.blame(f"{step.name} was refused and left something else than before or after:{where}")
        if step.key is None:  # with one, it may be done at the next start
            client.pending = None

    async def _go_on(self, client: Client, door: Door) -> None:
        """The disk is well again. Unless a sync failed that was promised, so is the kernel."""
        if client.pending is not None and client.pending.key is None:
            return
        client.pending = client.pending or client.steps.next(client.known)
        name = client.pending.name
        for _ in range(PATIENCE):
            error = await self._ask(client, door)
            if error is None or error.code == "storage_failed" or not error.message.startswith(NOT_TOLD):
                break
            await asyncio.sleep(0.25)  # its end is recorded when the kernel looks again whether the disk is well
        if error is not None:
            self.book.counts["refused until a restart"] += 1
            if error.code not in ("storage_failed", "mount_gone") or self.options.mode != "durable":
                client.blame(f"{name} is refused on a disk that is well again: {error.message}")

    async def _audit(self, client: Client, home: Path) -> None:
        door = await self.begun(home, None)
        try:
            await door.ready()
            await door.look("noted")
            client.is_dropping = False
            await client.settle(door.ask)
            for wrong in await door.look("check"):
                client.blame(f"after a restart: {wrong}")
        except Lost:
            pass
        except (AiosError, Dead) as error:
            client.blame(f"after a restart on a disk that works: {error!r}")
        door.kill()

    def _judge(self, client: Client, what: str, error: AiosError, also: tuple[str, ...] = ()) -> None:
        self.errors[f"{error.status} {error.code}"] += 1
        text = error.message
        if client.is_in_mount and self.options.mode == "durable":
            also = (*also, "mount_gone")
        if error.code not in (*CLEAR_CODES, *also):
            client.blame(f"{what} was refused with {error.code}: {text}")
        elif "\n" in text or "Traceback" in text or not 20 < len(text) < 600:
            client.blame(f"{what} was refused in no clear sentence: {text!r}")

    # ── all ──

    async def all(self) -> None:
        await self.set_up()
        started, self.is_over = time.monotonic(), False
        jobs = self.drawn(await self.totals()) if self.options.count else self.every()
        for num, (scene, plan) in enumerate(jobs, 1):
            self.is_over = not (await self.run(scene, plan))["failed"]
            if not self.is_over:
                self.failed[f"{scene}: {plan.what}"] += 1
            if num % 10 == 0:
                self.tell(f"{num} runs, {scene}: {shown(plan)}, {self.failed.total()} failures,"
                          f" {len(self.book.faults)} faults, {time.monotonic() - started:.0f} s")  # fmt: skip

    def every(self) -> Iterator[tuple[str, Plan]]:
        """Each series ends with the first run that nothing failed in."""
        series = itertools.product(self.options.scenes, self.options.only, (FULL, BROKEN), MANNERS)
        for scene, what, error, then in series:
            for number in itertools.chain(range(1, FIRST), itertools.count(FIRST, self.options.each)):
                yield scene, Plan(what, number, error, then, scene not in LOADS)
                if self.is_over:
                    break

    async def totals(self) -> dict[tuple[str, str], int]:
        """How many operations of each kind there are in a scene, when nothing fails."""
        found = {}
        for scene in self.options.scenes:
            counts = (await self.run(scene, Plan("none", 0, armed=scene not in LOADS)))["counts"]
            found |= {(scene, what): counts[what] for what in self.options.only if counts.get(what)}
        self.tell(", ".join(f"{scene}: {count} {what}" for (scene, what), count in found.items()))
        return found

    def drawn(self, totals: dict[tuple[str, str], int]) -> Iterator[tuple[str, Plan]]:
        draw = random.Random(self.options.seed)
        kinds = list(totals)
        for n in range(self.options.count):
            scene, what = kinds[n % len(kinds)]
            number = draw.randint(1, totals[scene, what])
            yield scene, Plan(what, number, draw.choice((FULL, BROKEN)), draw.choice(MANNERS), scene not in LOADS)

    def tell(self, text: str) -> None:
        print(text, file=sys.stderr if self.options.json else sys.stdout, flush=True)


def shown(plan: Plan) -> str:
    return f"{plan.what} {plan.number} ({plan.then}): {errno.errorcode[plan.error]}"


def report(sweep: Sweep) -> dict[str, Any]:
    return {
        "mode": sweep.options.mode,
        "seed": sweep.options.seed,
        "runs_with_a_failure": dict(sweep.failed),
        "errors": dict(sweep.errors),
        "counts": dict(sweep.book.counts),
        "faults": len(sweep.book.faults),
        "first_faults": sweep.book.faults[:5],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--count", type=int, default=0, help="so many runs, drawn at random, instead of all")
    parser.add_argument("--each", type=int, default=1, help="beyond the first ten of a kind, only each so many-th")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", choices=["fast", "durable"], default="fast")
    parser.add_argument("--only", choices=KINDS, action="append", help="this kind of operation")
    parser.add_argument("--scenes", choices=SCENES, action="append", help="when it fails")
    parser.add_argument("--json", action="store_true", help="figures only, as one JSON object")
    options = parser.parse_args()
    options.only, options.scenes = options.only or list(KINDS), options.scenes or list(SCENES)
    prepare()
    folder = Path(tempfile.mkdtemp(prefix="aios-fails-"))
    sweep = Sweep(options, folder)
    asyncio.run(sweep.all())
    outcome = report(sweep)
    print(json.dumps(outcome))
    if outcome["faults"]:
        print(f"the kernels' log is kept: {folder / 'kernel.log'}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())

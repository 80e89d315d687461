"""Which processes stay on record: all that run and have called, and of the others only the young ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, cast

import pytest

from aios.abi import calls as abi
from aios.abi.errors import AiosError, Stopping
from aios.kernel import Config, Kernel, Principal, Process
from aios.kernel.config import JournalSection
from aios.kernel.database import Database, rows
from aios.kernel.journal.processes import ProcessRecords
from aios.testing import MockClock, booted, principal

pytestmark = pytest.mark.anyio

KEEP = 1000.0


class World:
    """Agents that come, call and go, while time passes and old things are forgotten."""

    def __init__(self, kernel: Kernel, clock: MockClock, chance: random.Random) -> None:
        self.kernel, self.clock, self.chance = kernel, clock, chance
        self.admin = principal(kernel, "admin", is_admin=True)
        self.callers: list[Principal] = []
        self.called: set[int] = set()

    async def come(self) -> None:
        if self.chance.random() < 0.5:
            self.callers.append(principal(self.kernel, f"agent{len(self.callers)}"))
            return
        spawned = await self.kernel.call(self.admin, "proc_spawn", abi.ProcSpawn(agent="child"))
        self.callers.append(self.kernel.authenticate(spawned.key))

    async def ask(self) -> None:
        if not self.callers:
            return
        who = self.chance.choice(self.callers)
        key = f"k{self.chance.random()}" if self.chance.random() < 0.3 else None
        call = self.kernel.submit(who, "mem_write", abi.MemWrite(content="x"), key=key)
        await self.kernel.wait(call)
        self.called.add(call.process.pid)

    async def go(self) -> None:
        spawned = [who for who in self.callers if who.pid is not None]
        if spawned:
            who = self.chance.choice(spawned)
            self.callers.remove(who)
            await self.kernel.call(self.admin, "proc_signal", abi.ProcSignal(pid=who.pid or 0, signal="exit"))

    async def wait(self) -> None:
        self.clock.advance(self.chance.choice([1.0, KEEP / 3, 2 * KEEP]))

    async def forget(self) -> None:
        await self.kernel.house.purge()
        self.check(is_purged=True)

    def check(self, *, is_purged: bool = False) -> None:
        found = self.kernel.database.read(lambda c: rows(c, "SELECT pid, started FROM processes"))
        recorded = dict(found)
        live = {process.pid for process in self.kernel.processes.list()}
        assert live & self.called <= recorded.keys(), "a process that runs is not on record"
        if is_purged:
            old = {pid for pid, started in found if started < self.clock.wall() - KEEP}
            assert old - live <= {max(recorded, default=0)}, "a process that ended long ago is still on record"


@pytest.mark.parametrize("seed", range(6))
async def test_a_process_that_runs_stays_on_record_however_old_and_one_that_ended_does_not(seed: int) -> None:
    clock, chance = MockClock(), random.Random(seed)
    async with booted(config=Config(journal=JournalSection(keep=KEEP)), clock=clock) as kernel:
        world = World(kernel, clock, chance)
        deeds = [world.come, world.ask, world.ask, world.ask, world.go, world.wait, world.forget]
        for _ in range(80):
            await chance.choice(deeds)()
            world.check()


async def test_what_the_journal_holds_of_processes_does_not_grow_with_those_that_ended() -> None:
    async with booted() as kernel:
        admin = principal(kernel, "admin", is_admin=True)
        sizes = set()
        for _ in range(20):
            spawned = await kernel.call(admin, "proc_spawn", abi.ProcSpawn(agent="child"))
            await kernel.call(kernel.authenticate(spawned.key), "mem_write", abi.MemWrite(content="x"))
            assert kernel.processes.get(spawned.pid).is_recorded
            await kernel.call(admin, "proc_signal", abi.ProcSignal(pid=spawned.pid, signal="exit"))
            held = vars(kernel.journal._processes).values()
            sizes.add(sum(len(each) for each in held if isinstance(each, set | dict | list)))
        assert len(sizes) == 1


def test_a_process_whose_record_was_refused_is_recorded_with_its_next_call() -> None:
    answers: list[Callable[[Any, AiosError | None], None]] = []

    class Disk:
        def submit(self, job: Any, then: Callable[[Any, AiosError | None], None]) -> None:
            answers.append(then)

    records, process = ProcessRecords(cast("Database", Disk())), Process(1, "a", "o")
    for error, is_recorded in ((Stopping("the disk is full", code="storage_full"), False), (None, True)):
        records.add(process)
        assert process.is_recorded  # on its way: nobody else is to write it too
        answers.pop()(None, error)
        assert process.is_recorded is is_recorded

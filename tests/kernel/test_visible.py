"""Who sees which process: one look at it and at those above it says the same as the whole list."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, cast

import pytest

from aios.gateway.events import View
from aios.kernel import Kernel, Principal, Process, Row
from aios.kernel.control import Access, Control
from aios.kernel.process import ProcessTable
from aios.kernel.scheduler import Queue
from aios.testing import MockClock

AGENTS = ["ann", "bob", "ann/child"]
OWNERS = ["house", "guest"]


class CountingTable(ProcessTable):
    num_looks = 0

    def find(self, pid: int) -> Process | None:
        self.num_looks += 1
        return super().find(pid)

    def list(self, *, ended: bool = False) -> list[Process]:
        self.num_looks += len(self)
        return super().list(ended=ended)


def control_of(table: ProcessTable) -> Control:
    nothing: Mapping[str, Queue[Any]] = {}
    return Control(table, cast("Access", None), nothing, MockClock(), lambda call, error: None)


def below(who: Principal, table: ProcessTable) -> set[int]:
    """The pids of `who`'s agent and of all that they spawned, from the top down."""
    pids: set[int] = set()
    for each in sorted(table.list(ended=True), key=lambda process: process.pid):
        if who.is_admin or (each.owner, each.agent) == (who.owner, who.agent) or each.parent in pids:
            pids.add(each.pid)
    return pids


@pytest.mark.parametrize("seed", range(30))
def test_a_process_is_found_exactly_by_those_whose_list_it_stands_in(seed: int) -> None:
    chance, table = random.Random(seed), ProcessTable(keep=20)
    control = control_of(table)
    for _ in range(60):
        live = table.list()
        if live and chance.random() < 0.4:
            table.end(chance.choice(live), 0.0)
            continue
        parent = chance.choice(live) if live and chance.random() < 0.7 else None
        owner = parent.owner if parent else chance.choice(OWNERS)
        table.spawn(chance.choice(AGENTS), owner, wall=0.0, parent=parent.pid if parent else None)
    people = [Principal(owner, agent) for owner in OWNERS for agent in AGENTS] + [Principal("root", "root", None, True)]
    for who in people:
        expected = below(who, table)
        assert {process.pid for process in control.visible(who, ended=True)} == expected
        assert {process.pid for process in control.visible(who)} == expected & {each.pid for each in table.list()}
        assert {pid for pid in range(1, 70) if control.find(who, pid) is not None} == expected


def test_an_event_of_a_process_that_is_new_costs_no_more_when_there_are_many() -> None:
    table = CountingTable()

    class Door:
        """As much of a kernel as a view asks for."""

        clock = MockClock()
        find = staticmethod(control_of(table).find)

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"a view asked for the kernel's {name}")

    view = View(cast("Kernel", Door()), Principal("house", "ann"))
    costs = []
    for _ in range(500):
        parent = table.spawn("ann", "house", wall=0.0)
        child = table.spawn("helper", "house", wall=0.0, parent=parent.pid)
        before = table.num_looks
        assert view.event(Row(1.0, "c", child.pid, "llm_generate", "queued", None, None))
        assert view.event(Row(1.0, "c", child.pid, "llm_generate", "running", None, None))
        costs.append(table.num_looks - before)
    assert set(costs) == {2}

"""The process table."""

from __future__ import annotations

import pytest

from aios.abi.errors import Conflict, NotFound
from aios.kernel.process import PROCESS_TRANSITIONS, Principal, Process, ProcessState, ProcessTable


def test_every_process_state_has_a_row_in_the_table() -> None:
    assert set(PROCESS_TRANSITIONS) == set(ProcessState)


def test_pids_only_grow_and_an_ended_process_is_still_found() -> None:
    table = ProcessTable()
    first, second = (table.spawn("a", "o", wall=0.0) for _ in range(2))
    table.end(first, wall=1.0, code=0)
    assert second.pid > first.pid
    assert table.get(first.pid).exit_code == 0
    assert table.list() == [second]
    assert table.list(ended=True) == [first, second]


def test_only_the_last_ended_processes_are_remembered() -> None:
    table = ProcessTable(keep=2)
    for _ in range(5):
        table.end(table.spawn("a", "o", wall=0.0), wall=1.0)
    assert [p.pid for p in table.list(ended=True)] == [4, 5]
    with pytest.raises(NotFound, match="no process 1"):
        table.get(1)


def test_an_ended_process_cannot_be_stopped_again() -> None:
    table = ProcessTable()
    process = table.spawn("a", "o", wall=0.0)
    table.end(process, wall=1.0)
    with pytest.raises(Conflict, match="is ended and cannot become stopped"):
        process.move(ProcessState.STOPPED)


def test_a_key_without_a_process_gets_one_of_its_own_and_keeps_it() -> None:
    table = ProcessTable()
    ann, bob = Principal("o", "ann", key_id="k1"), Principal("o", "bob", key_id="k2")
    assert table.implicit(ann, 0.0) is table.implicit(ann, 1.0)
    assert table.implicit(ann, 0.0) is not table.implicit(bob, 0.0)


def test_nice_weighs_as_unix_does() -> None:
    table = ProcessTable()
    weights = [table.spawn("a", "o", wall=0.0, nice=n).weight for n in (-1, 0, 1)]
    assert weights == [1.25, 1.0, 0.8]


def test_a_revived_process_keeps_its_pid_and_no_new_one_gets_it() -> None:
    table = ProcessTable()
    first = table.revive(Process(7, "a", "o", nice=3))
    assert table.revive(Process(7, "a", "o")) is first is table.get(7)
    assert table.spawn("b", "o", wall=0.0).pid == 8

"""The call's state machine and its timings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.abi.calls import CALLS, MemRead
from aios.kernel.process import Process
from aios.kernel.syscall import TERMINAL, TRANSITIONS, IllegalMove, State, Syscall, move
from aios.kernel.trace import Trace


def a_call() -> Syscall:
    return Syscall("c1", CALLS["mem_read"], MemRead(id="x"), Process(1, "ann", "owner"), now=0.0)


def test_every_state_has_a_row_in_the_table() -> None:
    assert set(TRANSITIONS) == set(State)


def test_no_move_leads_out_of_a_terminal_state() -> None:
    assert all(not TRANSITIONS[state] for state in TERMINAL)


def test_every_state_that_is_not_terminal_can_be_cancelled_or_failed() -> None:
    for state in set(State) - TERMINAL:
        assert {State.FAILED, State.CANCELLED} <= TRANSITIONS[state]


def test_a_call_runs_from_its_queue_only_and_is_done_or_suspended_only_while_it_runs() -> None:
    def before(state: State) -> set[State]:
        return {old for old in State if state in TRANSITIONS[old]}

    assert before(State.RUNNING) == {State.QUEUED}
    assert before(State.DONE) == before(State.SUSPENDED) == {State.RUNNING}
    assert before(State.NEW) == set()


def test_an_illegal_move_raises_with_the_calls_story_and_changes_nothing() -> None:
    call, trace = a_call(), Trace()
    move(call, State.QUEUED, 1.0, trace)
    with pytest.raises(IllegalMove, match=r"from queued to done; its story: queued"):
        move(call, State.DONE, 2.0, trace)
    assert call.state is State.QUEUED
    assert len(trace.rows) == 1


def test_waiting_and_running_are_counted_apart() -> None:
    call, trace = a_call(), Trace()
    for now, state in [(1, State.QUEUED), (4, State.RUNNING), (6, State.SUSPENDED), (6, State.QUEUED)]:
        move(call, state, now, trace)
    move(call, State.RUNNING, 10.0, trace)
    move(call, State.DONE, 15.0, trace)
    assert (call.wait_s, call.run_s) == (8.0, 7.0)
    assert (call.num_slices, call.num_switches) == (2, 1)
    assert (call.process.wait_s, call.process.run_s) == (8.0, 7.0)


@given(st.lists(st.sampled_from(State), max_size=20))
def test_any_sequence_of_moves_stays_on_the_table_and_time_adds_up(states: list[State]) -> None:
    call, trace, now = a_call(), Trace(), 0.0
    for state in states:
        now += 1.0
        if state in TRANSITIONS[call.state]:
            move(call, state, now, trace)
        else:
            with pytest.raises(IllegalMove):
                move(call, state, now, trace)
    assert call.wait_s + call.run_s == (trace.rows[-1].time if trace.rows else 0.0)
    assert [r.state for r in trace.story("c1")] == [r.state for r in trace.rows]

"""The contract of every policy, and what each one promises beyond it. Plain decisions: no clock, no loop."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.abi.calls import CALLS, MemRead
from aios.kernel.process import Process, ProcessTable
from aios.kernel.scheduler import POLICIES, Fifo, Policy, RoundRobin
from aios.kernel.scheduler.round_robin import MAX_OWED
from aios.kernel.syscall import Syscall

every_policy = pytest.mark.parametrize("make", list(POLICIES.values()), ids=list(POLICIES))
Make = Callable[[int], Policy]
_ids = count()


def call_of(process: Process) -> Syscall:
    n = next(_ids)
    return Syscall(f"c{n}", CALLS["mem_read"], MemRead(id="x"), process, now=float(n))


def anything(call: Syscall) -> bool:
    return True


@every_policy
def test_a_pushed_call_comes_out_once(make: Make) -> None:
    policy, call = make(8), call_of(Process(1, "a", "o"))
    policy.push(call)
    assert len(policy) == 1
    assert policy.next(anything) is call
    assert policy.next(anything) is None
    assert len(policy) == 0


@every_policy
def test_a_call_that_does_not_fit_is_skipped_and_keeps_its_place(make: Make) -> None:
    policy, process = make(8), Process(1, "a", "o")
    big, small = call_of(process), call_of(process)
    policy.push(big)
    policy.push(small)
    assert policy.next(lambda c: c is not big) is small
    assert policy.next(anything) is big


@every_policy
def test_a_removed_call_never_comes_out(make: Make) -> None:
    policy, call = make(8), call_of(Process(1, "a", "o"))
    policy.push(call)
    assert policy.remove(call)
    assert not policy.remove(call)
    assert policy.next(anything) is None
    assert policy.position(call) is None


@every_policy
def test_nobody_yields_when_nobody_waits(make: Make) -> None:
    policy, call = make(8), call_of(Process(1, "a", "o"))
    assert not policy.should_yield(call, anything)


Op = tuple[str, int]
ops = st.lists(st.tuples(st.sampled_from(["push", "push", "next", "remove", "skip"]), st.integers(0, 4)), max_size=80)


@every_policy
@settings(max_examples=150, deadline=None)
@given(script=ops)
def test_no_call_is_lost_or_doubled(make: Make, script: list[Op]) -> None:
    policy = make(8)
    processes = [Process(pid, "a", "o") for pid in range(5)]
    waiting: dict[str, Syscall] = {}
    for op, n in script:
        if op == "push":
            call = call_of(processes[n])
            waiting[call.id] = call
            policy.push(call)
        elif op == "remove" and waiting:
            call = waiting.pop(sorted(waiting)[n % len(waiting)])
            assert policy.remove(call)
        else:
            if op == "skip":
                policy.charge(call_of(processes[n]), 8 * n)  # owing may delay a call, never lose it
            odd = (lambda c: c.process.pid % 2 == 1) if op == "skip" else anything
            got = policy.next(odd)
            assert (got is None) == (not any(odd(c) for c in waiting.values()))
            if got is not None:
                waiting.pop(got.id)
        assert len(policy) == len(waiting)
    while waiting:
        assert (got := policy.next(anything)) is not None
        waiting.pop(got.id)
    assert policy.next(anything) is None


@every_policy
@settings(max_examples=100, deadline=None)
@given(pids=st.lists(st.integers(0, 4), max_size=30))
def test_positions_tell_the_true_order(make: Make, pids: list[int]) -> None:
    policy = make(8)
    processes = [Process(pid, "a", "o") for pid in range(5)]
    calls = [call_of(processes[pid]) for pid in pids]
    for call in calls:
        policy.push(call)
    places = sorted((policy.position(call) or 0, call.id) for call in calls)
    assert [place for place, _ in places] == list(range(1, len(calls) + 1))
    assert [policy.next(anything).id for _ in calls] == [id for _, id in places]


def test_fifo_lets_a_call_run_to_its_end() -> None:
    policy, process = Fifo(8), Process(1, "a", "o")
    running = call_of(process)
    policy.push(call_of(Process(2, "b", "o")))
    assert policy.quantum(running) is None
    assert not policy.should_yield(running, anything)


def test_round_robin_gives_ten_parallel_calls_one_share() -> None:
    policy = RoundRobin(8)
    greedy, modest = Process(1, "greedy", "o"), Process(2, "modest", "o")
    for _ in range(10):
        policy.push(call_of(greedy))
    for _ in range(3):
        policy.push(call_of(modest))
    turns = [policy.next(anything).process.agent for _ in range(6)]
    assert turns.count("modest") == 3


def test_round_robin_is_first_in_first_out_inside_one_process() -> None:
    policy, process = RoundRobin(8), Process(1, "a", "o")
    calls = [call_of(process) for _ in range(4)]
    for call in calls:
        policy.push(call)
    assert [policy.next(anything) for _ in calls] == calls


def test_an_interrupted_call_goes_on_before_a_younger_one_of_its_process() -> None:
    policy, process = RoundRobin(8), Process(1, "a", "o")
    old, young = call_of(process), call_of(process)
    old.num_slices = 1
    policy.push(young)
    policy.push(old)
    assert policy.next(anything) is old


def test_round_robin_never_preempts_a_process_for_its_own_calls() -> None:
    policy, process = RoundRobin(8), Process(1, "a", "o")
    policy.push(call_of(process))
    assert not policy.should_yield(call_of(process), anything)
    policy.push(call_of(Process(2, "b", "o")))
    assert policy.should_yield(call_of(process), anything)


def test_round_robin_never_preempts_for_a_call_that_the_slot_cannot_take() -> None:
    policy, big = RoundRobin(8), call_of(Process(2, "b", "o"))
    policy.push(big)
    running = call_of(Process(1, "a", "o"))
    assert not policy.should_yield(running, lambda c: c is not big)
    policy.push(call_of(Process(3, "c", "o")))
    assert policy.should_yield(running, lambda c: c is not big)


def test_children_share_the_turn_of_the_task_they_belong_to() -> None:
    policy, table = RoundRobin(8), ProcessTable()
    parent, other = (table.spawn(name, "o", wall=0.0) for name in ("parent", "other"))
    family = [parent, *(table.spawn("child", "o", wall=0.0, parent=parent.pid) for _ in range(4))]
    for process in family:
        policy.push(call_of(process))
    for _ in range(3):
        policy.push(call_of(other))
    turns = [policy.next(anything).process.root.agent for _ in range(6)]
    assert turns == ["parent", "other"] * 3


def test_a_turn_that_took_four_quanta_while_others_waited_is_paid_for_by_sitting_out_three() -> None:
    policy, long, short = RoundRobin(8), Process(1, "long", "o"), Process(2, "short", "o")
    first = call_of(long)
    for _ in range(6):
        policy.push(call_of(short))
    policy.charge(first, 32)
    policy.push(call_of(long))
    turns = [policy.next(anything).process.agent for _ in range(5)]
    assert turns == ["short", "short", "short", "short", "long"]


def test_what_a_child_took_too_much_its_whole_task_owes() -> None:
    policy, table = RoundRobin(8), ProcessTable()
    parent, short = (table.spawn(name, "o", wall=0.0) for name in ("parent", "short"))
    child = table.spawn("child", "o", wall=0.0, parent=parent.pid)
    for _ in range(6):
        policy.push(call_of(short))
    policy.charge(call_of(child), 32)
    policy.push(call_of(parent))
    turns = [policy.next(anything).process.agent for _ in range(5)]
    assert turns == ["short", "short", "short", "short", "parent"]


def test_nobody_sits_out_more_turns_than_the_bound_however_much_it_took() -> None:
    policy, long, short = RoundRobin(8), Process(1, "long", "o"), Process(2, "short", "o")
    for _ in range(int(MAX_OWED) + 10):
        policy.push(call_of(short))
    for _ in range(3):
        policy.charge(call_of(long), 1_000_000)
    policy.push(call_of(long))
    turns = [policy.next(anything).process.agent for _ in range(int(MAX_OWED) + 2)]
    assert turns.index("long") == MAX_OWED + 1


def test_a_debt_is_forgotten_when_nobody_waits_any_more() -> None:
    policy, long, short = RoundRobin(8), Process(1, "long", "o"), Process(2, "short", "o")
    policy.push(call_of(short))
    policy.charge(call_of(long), 800)
    assert policy.next(anything).process is short
    policy.push(call_of(long))
    policy.push(call_of(short))
    assert policy.next(anything).process is long


def test_nobody_owes_for_what_it_used_while_nobody_waited() -> None:
    policy, long, short = RoundRobin(8), Process(1, "long", "o"), Process(2, "short", "o")
    policy.charge(call_of(long), 800)
    policy.push(call_of(long))
    policy.push(call_of(short))
    assert policy.next(anything).process is long


def test_a_debtor_that_is_alone_is_served_at_once() -> None:
    policy, long, short = RoundRobin(8), Process(1, "long", "o"), Process(2, "short", "o")
    policy.push(call_of(short))
    policy.charge(call_of(long), 800)
    policy.push(call_of(long))
    assert policy.next(lambda c: c.process is long).process is long


def test_nice_makes_turns_longer_or_shorter() -> None:
    policy = RoundRobin(32)
    quanta = [policy.quantum(call_of(Process(1, "a", "o", nice=n))) for n in (-5, 0, 5, 19)]
    assert quanta == [98, 32, 10, 1]


@given(counts=st.lists(st.integers(1, 8), min_size=2, max_size=6))
def test_between_two_turns_of_a_process_each_other_has_at_most_one(counts: list[int]) -> None:
    policy = RoundRobin(8)
    for pid, n in enumerate(counts):
        for _ in range(n):
            policy.push(call_of(Process(pid, "a", "o")))
    order = [policy.next(anything).process.pid for _ in range(sum(counts))]
    for pid in range(len(counts)):
        turns = [n for n, p in enumerate(order) if p == pid]
        for a, b in pairwise(turns):
            between = order[a + 1 : b]
            assert len(between) == len(set(between))

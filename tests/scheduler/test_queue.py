"""The worker loop: pulling, slicing, aborting, holding. A runner whose every step the test decides; no sleeps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import pytest

from aios.abi.calls import CALLS, MemRead
from aios.abi.errors import BadRequest, Cancelled, Full, TimedOut
from aios.kernel.process import Process, ProcessState
from aios.kernel.scheduler import Fifo, Policy, Queue, RoundRobin
from aios.kernel.syscall import State, Suspended, Syscall
from aios.kernel.trace import Trace
from aios.testing import MockClock, settle

pytestmark = pytest.mark.anyio


class Stepper:
    """A runner with `slots` slots. Each run of a call waits until the test says what it comes to."""

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.taken = 0
        self.steps: dict[str, asyncio.Future[Any]] = {}
        self.quanta: list[int | None] = []
        self.aborted: list[str] = []
        self.dropped: list[str] = []
        self.refuses: set[str] = set()

    def check(self, call: Syscall) -> None: ...

    def free(self) -> Iterable[str]:
        return ("slot",) if self.taken < self.slots else ()

    def fits(self, call: Syscall, slot: str) -> bool:
        return self.taken < self.slots and call.id not in self.refuses

    def take(self, call: Syscall, slot: str) -> None:
        self.taken += 1
        assert self.taken <= self.slots

    def release(self, call: Syscall, slot: str) -> None:
        self.taken -= 1

    def drop(self, call: Syscall) -> None:
        self.dropped.append(call.id)

    async def run(self, call: Syscall, slot: str, quantum: int | None) -> Any:
        self.quanta.append(quantum)
        step = self.steps[call.id] = asyncio.get_running_loop().create_future()
        try:
            return await step
        except asyncio.CancelledError:
            self.aborted.append(call.id)
            raise

    async def finish(self, call: Syscall, outcome: Any) -> None:
        step = self.steps.pop(call.id)
        step.set_exception(outcome) if isinstance(outcome, Exception) else step.set_result(outcome)
        await settle()


class House:
    def __init__(self, policy: Policy, slots: int = 1, max_waiting: int = 100) -> None:
        self.runner = Stepper(slots)
        self.ended: list[Syscall] = []
        self.trace = Trace()
        self.clock = MockClock()
        self._ids = count(1)
        self.queue = Queue(
            "llm",
            policy,
            self.runner,
            clock=self.clock,
            trace=self.trace,
            on_end=self.ended.append,
            max_waiting=max_waiting,
        )

    async def push(self, process: Process) -> Syscall:
        call = Syscall(f"c{next(self._ids)}", CALLS["mem_read"], MemRead(id="x"), process, now=0.0)
        self.queue.push(call)
        await settle()
        self.queue.check_integrity()
        return call


ANN, BOB = Process(1, "ann", "o"), Process(2, "bob", "o")


@pytest.fixture(autouse=True)
def fresh() -> None:
    for process in (ANN, BOB):
        process.state = ProcessState.RUNNING


async def test_a_free_slot_pulls_at_once_and_the_next_call_waits() -> None:
    house = House(Fifo())
    first, second = await house.push(ANN), await house.push(BOB)
    assert (first.state, second.state) == (State.RUNNING, State.QUEUED)
    await house.runner.finish(first, "answer")
    assert (first.state, first.result, second.state) == (State.DONE, "answer", State.RUNNING)


async def test_a_used_up_quantum_means_nothing_while_nobody_waits() -> None:
    house = House(RoundRobin(8))
    call = await house.push(ANN)
    for n in range(3):
        await house.runner.finish(call, Suspended(n, 8))
    assert call.state is State.RUNNING
    assert call.num_switches == 0
    assert house.runner.quanta == [8, 8, 8, 8]


async def test_a_suspended_call_goes_to_the_back_of_the_ring_and_resumes_from_its_snapshot() -> None:
    house = House(RoundRobin(8))
    first, second = await house.push(ANN), await house.push(BOB)
    await house.runner.finish(first, Suspended("half", 8))
    assert (first.state, first.snapshot, second.state) == (State.QUEUED, "half", State.RUNNING)
    await house.runner.finish(second, "done")
    assert (first.state, first.num_switches) == (State.RUNNING, 1)


async def test_fifo_never_interrupts() -> None:
    house = House(Fifo())
    first, second = await house.push(ANN), await house.push(BOB)
    await house.runner.finish(first, Suspended("half", 8))
    assert (first.state, second.state) == (State.RUNNING, State.QUEUED)
    assert house.runner.quanta == [None, None]


async def test_a_call_that_does_not_fit_lets_others_go_on() -> None:
    house = House(Fifo())
    house.runner.refuses = {"c1"}
    first, second = await house.push(ANN), await house.push(BOB)
    assert (first.state, second.state) == (State.QUEUED, State.RUNNING)


async def test_whatever_a_module_raises_is_that_calls_failure_only() -> None:
    house = House(Fifo())
    first, second = await house.push(ANN), await house.push(BOB)
    await house.runner.finish(first, ZeroDivisionError("secret"))
    assert first.state is State.FAILED
    assert first.error is not None
    assert (first.error.fault, first.error.call_id) == ("module", "c1")
    assert "secret" not in first.error.message
    assert second.state is State.RUNNING


async def test_an_error_that_says_whose_fault_it_is_is_kept() -> None:
    house = House(Fifo())
    call = await house.push(ANN)
    await house.runner.finish(call, BadRequest("no"))
    assert (call.state, call.error and call.error.fault) == (State.FAILED, "agent")


async def test_aborting_a_running_call_frees_its_slot_for_the_next() -> None:
    house = House(Fifo())
    first, second = await house.push(ANN), await house.push(BOB)
    house.queue.abort(first, Cancelled("gone"))
    await settle()
    assert (first.state, second.state) == (State.CANCELLED, State.RUNNING)
    assert house.runner.aborted == ["c1"]
    assert house.runner.dropped == ["c1"]


async def test_aborting_a_call_before_its_task_took_a_step_still_ends_it() -> None:
    house = House(Fifo())
    call = Syscall("c1", CALLS["mem_read"], MemRead(id="x"), ANN, now=0.0)
    house.queue.push(call)
    house.queue.abort(call, Cancelled("gone"))
    await settle()
    assert call.state is State.CANCELLED
    assert house.runner.taken == 0


@pytest.mark.parametrize("outcome", [Suspended("half", 8), "answer"])
async def test_a_call_aborted_in_the_instant_its_slice_ends_is_over(outcome: Any) -> None:
    house = House(RoundRobin(8))
    first, second = await house.push(ANN), await house.push(BOB)
    house.runner.steps.pop(first.id).set_result(outcome)
    house.queue.abort(first, Cancelled("gone"))
    await settle()
    assert (first.state, second.state) == (State.CANCELLED, State.RUNNING)
    assert house.ended == [first]
    assert house.runner.dropped == [first.id]


async def test_a_call_aborted_twice_ends_with_the_first_reason() -> None:
    house = House(Fifo())
    call = await house.push(ANN)
    house.queue.abort(call, TimedOut("late"))
    house.queue.abort(call, Cancelled("gone"))
    await settle()
    assert call.state is State.FAILED
    assert isinstance(call.error, TimedOut)


async def test_aborting_a_waiting_call_with_a_timeout_makes_it_failed() -> None:
    house = House(Fifo())
    first, second = await house.push(ANN), await house.push(BOB)
    house.queue.abort(second, TimedOut("late"))
    assert second.state is State.FAILED
    await house.runner.finish(first, "done")
    assert [c.id for c in house.ended] == ["c2", "c1"]


async def test_an_aborted_suspended_call_drops_its_snapshot() -> None:
    house = House(RoundRobin(8))
    first, _ = await house.push(ANN), await house.push(BOB)
    await house.runner.finish(first, Suspended("half", 8))
    house.queue.abort(first, Cancelled("gone"))
    assert house.runner.dropped == ["c1"]


async def test_a_stopped_process_is_held_at_its_next_quantum_and_goes_on_when_continued() -> None:
    house = House(RoundRobin(8))
    running, waiting = await house.push(ANN), await house.push(ANN)
    ANN.state = ProcessState.STOPPED
    for call in (running, waiting):
        house.queue.hold(call)
    assert waiting.state is State.BLOCKED
    await house.runner.finish(running, Suspended("half", 8))
    assert (running.state, running.why) == (State.BLOCKED, "process stopped")
    house.queue.check_integrity()
    ANN.state = ProcessState.RUNNING
    for call in (running, waiting):
        house.queue.unhold(call)
    await settle()
    assert (running.state, waiting.state) == (State.RUNNING, State.QUEUED)


async def test_a_held_call_that_was_aborted_is_not_queued_again_when_its_process_goes_on() -> None:
    house = House(Fifo(), max_waiting=1)
    ANN.state = ProcessState.STOPPED
    call = await house.push(ANN)
    house.queue.abort(call, Cancelled("gone"))
    house.queue.check_integrity()
    house.queue.check_room()
    ANN.state = ProcessState.RUNNING
    house.queue.unhold(call)
    await settle()
    assert (call.state, house.ended, house.runner.taken) == (State.CANCELLED, [call], 0)


async def test_beyond_its_bound_the_queue_says_so_and_when_to_return() -> None:
    house = House(Fifo(), max_waiting=2)
    for _ in range(3):
        await house.push(ANN)
    with pytest.raises(Full) as caught:
        house.queue.check_room()
    assert caught.value.retry_after is not None
    assert "2 calls wait" in caught.value.message


async def test_an_estimate_is_known_after_the_first_slice_and_counts_slices_not_calls() -> None:
    house = House(RoundRobin(8))
    first, second = await house.push(ANN), await house.push(BOB)
    assert house.queue.estimate(1) == 0.0
    house.clock.advance(2.0)
    await house.runner.finish(first, Suspended("half", 8))
    assert house.queue.estimate(3) == 6.0
    house.clock.advance(1.0)
    await house.runner.finish(second, "done")
    assert house.queue.estimate(1) == 1.5


async def test_calls_of_stopped_processes_count_towards_the_bound() -> None:
    house = House(Fifo(), max_waiting=2)
    ANN.state = ProcessState.STOPPED
    for _ in range(2):
        house.queue.check_room()
        await house.push(ANN)
    with pytest.raises(Full, match="2 calls wait"):
        house.queue.check_room()


@pytest.mark.parametrize("seed", range(8))
async def test_any_interleaving_ends_every_call_once_and_leaves_no_slot_taken(seed: int) -> None:
    rng = random.Random(seed)
    house = House(RoundRobin(4), slots=3)
    processes = [Process(pid, "a", "o") for pid in range(1, 5)]
    calls: list[Syscall] = []
    acts: list[Callable[[], Any]] = []
    for _ in range(120):
        running = [c for c in calls if c.state is State.RUNNING and c.id in house.runner.steps]
        acts = [lambda: house.push(rng.choice(processes))]
        if running:
            call = rng.choice(running)
            acts += [lambda c=call: house.runner.finish(c, Suspended("s", 4))] * 2
            acts += [
                lambda c=call: house.runner.finish(c, "done"),
                lambda c=call: house.runner.finish(c, OSError()),
            ]
        live = [c for c in calls if c not in house.ended]
        if live:
            doomed = rng.choice(live)
            acts.append(lambda c=doomed: _abort(house, c))
        made = await rng.choice(acts)()
        if made is not None:
            calls.append(made)
        house.queue.check_integrity()
    for call in calls:
        if call not in house.ended:
            await _abort(house, call)
    assert sorted(c.id for c in house.ended) == sorted(c.id for c in calls)
    assert house.runner.taken == 0
    assert len(house.queue.policy) == 0


async def _abort(house: House, call: Syscall) -> None:
    house.queue.abort(call, Cancelled("gone"))
    await settle()

"""The worker loop: a free slot pulls the next call, runs it for a quantum, and decides what comes of it.

Holds the kernel's only wide catch: whatever a module raises becomes that call's FAILED and nobody else's trouble.
Knows modules only as a `Runner`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Generic, Protocol

from aios.abi.errors import AiosError, Cancelled, CutShort, Full, KernelFault, ModuleFault

from ..clock import Clock
from ..process import ProcessState
from ..syscall import State, Suspended, Syscall, move
from ..trace import Trace
from .base import Policy, Slot

log = logging.getLogger("aios.worker")


class Runner(Protocol[Slot]):
    """A module, as its queue sees it."""

    def check(self, call: Syscall) -> None:
        """Raise BadRequest, NotFound, … for a call that can never run, before it is queued."""

    def free(self) -> Iterable[Slot]:
        """Slots with room now, the preferred first."""

    def fits(self, call: Syscall, slot: Slot) -> bool:
        """Whether `slot` can take `call` now. Cheap, no side effect, never raises."""

    def take(self, call: Syscall, slot: Slot) -> None:
        """`slot` is given to `call` until `release`."""

    def release(self, call: Syscall, slot: Slot) -> None: ...

    async def run(self, call: Syscall, slot: Slot, quantum: int | None) -> Any:
        """Carry `call` on for at most `quantum` tokens: the result when done, else `Suspended`.

        Cancelling the task aborts what runs and frees it at once.
        """

    def drop(self, call: Syscall) -> None:
        """`call` will not be resumed: forget its snapshot."""


class Queue(Generic[Slot]):
    """One module's queue and its workers. `on_end` hears of each call that reached a terminal state."""

    def __init__(
        self,
        name: str,
        policy: Policy,
        runner: Runner[Slot],
        *,
        clock: Clock,
        trace: Trace,
        on_end: Callable[[Syscall], None],
        max_waiting: int = 1000,
        is_held: bool = True,
    ) -> None:
        """`is_held`: calls of a stopped process wait; a queue without it is for calls that start it again."""
        self.name = name
        self.policy = policy
        self.runner = runner
        self.max_waiting = max_waiting
        self._is_held = is_held
        self.running: dict[str, tuple[Syscall, Slot]] = {}
        self._blocked: dict[str, Syscall] = {}
        self._clock = clock
        self._trace = trace
        self._on_end = on_end
        self._pumping = False
        self.num_expected = 0
        """Calls that will be pushed once the journal has them."""
        self._num_stays = 0
        self._mean_stay_s = 0.0
        """Seconds that a call keeps a slot before it is done or makes room: about the last ten, or all while few."""

    # ── from the kernel ──

    def check_room(self) -> None:
        """Raises Full when the queue is at its bound; says when to come back."""
        if len(self.policy) + len(self._blocked) + self.num_expected >= self.max_waiting:
            after = min(round(max(1.0, self.estimate(self.max_waiting)), 1), 60.0)
            raise Full(
                f"the {self.name} queue is full ({self.max_waiting} calls wait); try again in {after:g} s",
                retry_after=after,
            )

    def push(self, call: Syscall) -> None:
        """A NEW, SUSPENDED or parked call joins the queue, or waits outside while its process is stopped."""
        if self._is_held and call.process.state is ProcessState.STOPPED:
            if call.state is not State.BLOCKED:
                self._move(call, State.BLOCKED, "process stopped")
            self._blocked[call.id] = call
            return
        self._move(call, State.QUEUED)
        self.policy.push(call)
        self.pump()

    def park(self, call: Syscall, why: str) -> None:
        """A NEW call waits outside until whoever parked it pushes it. `num_expected` has to count it so long."""
        self._move(call, State.BLOCKED, why)

    def hold(self, call: Syscall) -> None:
        """The call's process was stopped. A running call is taken off its slot at its next quantum."""
        if self.policy.remove(call):
            self._move(call, State.BLOCKED, "process stopped")
            self._blocked[call.id] = call

    def unhold(self, call: Syscall) -> None:
        if self._blocked.pop(call.id, None) is not None:
            self.push(call)

    def abort(self, call: Syscall, fate: AiosError) -> None:
        """End `call` with `fate`, wherever it is. A running one is cancelled and its slot freed at once."""
        if call.id in self.running:
            call.fate = call.fate or fate
            if call.task is not None:
                # Not cancel() itself: a task cancelled before its first step would never reach its own catch.
                asyncio.get_running_loop().call_soon(call.task.cancel)
            return
        self.policy.remove(call)
        self._blocked.pop(call.id, None)
        self._fail(call, fate)

    def restart(self, call: Syscall) -> None:
        """Take `call` off its slot, wherever it is: it goes on waiting, as one that has not begun. Nobody may have
        heard a piece of its answer."""
        if call.id in self.running:
            if call.task is not None and not call.is_restarting:
                call.is_restarting = True
                asyncio.get_running_loop().call_soon(call.task.cancel)
            return
        self.runner.drop(call)
        call.unsay()
        self.pump()

    def estimate(self, position: int) -> float:
        """Seconds until the call at `position` runs, by how long calls kept a slot lately; 0 when nothing is known."""
        return position * self._mean_stay_s / max(1, len(self.running))

    def pump(self) -> None:
        """Give every free slot the next call that fits it. Called whenever a call or a slot came free."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._start_one():
                pass
        finally:
            self._pumping = False

    # ── the workers ──

    def _start_one(self) -> bool:
        if not len(self.policy):
            return False
        for slot in self.runner.free():
            call = self.policy.next(partial(self._fits, slot))
            if call is not None:
                self.runner.take(call, slot)
                self.running[call.id] = (call, slot)
                self._move(call, State.RUNNING)
                call.task = asyncio.get_running_loop().create_task(self._work(call, slot))
                return True
        return False

    def _fits(self, slot: Slot, call: Syscall) -> bool:
        return self.runner.fits(call, slot)

    async def _work(self, call: Syscall, slot: Slot) -> None:
        result: Any = None
        fate: AiosError | None = None
        try:
            result = await self._slices(call, slot)
        except asyncio.CancelledError:
            fate = call.fate
            if fate is None and call.is_restarting and not call.is_heard:  # a piece may have been on its way
                result = self._forgotten(call)
            elif fate is None:
                fate = CutShort("the kernel broke this call off in the middle; ask again", retry_after=1)
        except AiosError as error:
            fate = error
        except Exception as error:
            log.exception("%s raised while running %s", self.name, call.spec.name)
            fate = ModuleFault(f"the {self.name} module broke on this call: {type(error).__name__}")
        self._leave(call, slot)
        self._settle(call, result, fate)
        self.pump()

    def _forgotten(self, call: Syscall) -> Suspended:
        self.runner.drop(call)
        call.unsay()
        return Suspended(None, 0, is_refusal=True)

    async def _slices(self, call: Syscall, slot: Slot) -> Any:
        """Run quantum after quantum on `slot` until the call is done or must make room."""
        while True:
            outcome = await self.runner.run(call, slot, self.policy.quantum(call))
            if not isinstance(outcome, Suspended):
                return outcome
            call.snapshot = outcome.snapshot
            if outcome.is_refusal:
                return outcome
            self.policy.charge(call, outcome.tokens)
            call.tokens_charged += outcome.tokens
            if call.process.state is ProcessState.STOPPED or self._must_yield(call, slot):
                return outcome

    def _must_yield(self, call: Syscall, slot: Slot) -> bool:
        # Asked as if this call's slot were free: a waiting call that fits there may have it.
        self.runner.release(call, slot)
        try:
            return self.policy.should_yield(call, partial(self._fits, slot))
        finally:
            self.runner.take(call, slot)

    def _leave(self, call: Syscall, slot: Slot) -> None:
        call.task = None
        call.is_restarting = False
        del self.running[call.id]
        self.runner.release(call, slot)

    def _settle(self, call: Syscall, result: Any, fate: AiosError | None) -> None:
        fate = fate or call.fate
        if fate is not None:
            self._fail(call, fate)
        elif isinstance(result, Suspended):
            self._come_back(call, result)
        else:
            self._learn(call)
            call.result = result
            self.policy.charge(call, call.tokens_out - call.tokens_charged)
            self._move(call, State.DONE)
            self._on_end(call)

    def _learn(self, call: Syscall) -> None:
        """A call that ran since `call.since` leaves its slot."""
        self._num_stays += 1
        stay = self._clock.now() - call.since
        self._mean_stay_s += max(0.1, 1 / self._num_stays) * (stay - self._mean_stay_s)

    def _come_back(self, call: Syscall, result: Suspended) -> None:
        """The call joins the queue again, interrupted, or because its slot could not take it after all."""
        if not result.is_refusal:
            self._learn(call)
        why = "not begun, to be tried again" if result.snapshot is None else "broken off, to be carried on"
        self._move(call, State.SUSPENDED, why if result.is_refusal else None)
        if result.after:
            self._clock.call_later(result.after, self.pump)
        self.push(call)

    def _fail(self, call: Syscall, fate: AiosError) -> None:
        call.error = fate
        fate.call_id = call.id
        self.runner.drop(call)
        is_cancelled = isinstance(fate, Cancelled)
        self._move(call, State.CANCELLED if is_cancelled else State.FAILED, fate.code)
        self._on_end(call)

    def _move(self, call: Syscall, state: State, why: str | None = None) -> None:
        move(call, state, self._clock.now(), self._trace, why)

    def check_integrity(self) -> None:
        """Each call is in one place only. For tests, when idle or not."""
        for call, _ in self.running.values():
            if call.state is not State.RUNNING or self.policy.position(call) is not None:
                raise KernelFault(f"{call!r} runs and waits")
        for call in self._blocked.values():
            if call.state is not State.BLOCKED:
                raise KernelFault(f"{call!r} is held and not BLOCKED")

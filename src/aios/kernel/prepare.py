"""What a call needs before it is queued, step by step, while it is BLOCKED. Knows no step's inside, and no queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from aios.abi.errors import AiosError, KernelFault

from .syscall import Syscall

log = logging.getLogger("aios.kernel")


class Prepared(Enum):
    """How the steps of a call came to their end, where none of them failed."""

    READY = "ready"
    CANCELLED = "cancelled"
    """Broken off: what the call needs is not done."""


Fate = Prepared | AiosError
"""An error is what the call is to end with."""
Then = Callable[[Fate], None]


class Step(Protocol):
    """May change what the call asks, and takes its time for it."""

    why: str
    """What the call waits for meanwhile, in words."""

    def wants(self, call: Syscall) -> bool:
        """Whether there is anything to do for it."""

    async def prepare(self, call: Syscall) -> None:
        """Do it. Raises the AiosError that the call is to end with; is cancelled when the call is over before."""


class Preparation:
    """The steps of one kernel, in their order, and the calls that are at one."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self._under_way: dict[str, asyncio.Task[None]] = {}

    def steps(self, call: Syscall) -> list[Step]:
        """What is to be done for `call`."""
        return [step for step in self._steps if step.wants(call)]

    def begin(self, call: Syscall, steps: Sequence[Step], then: Then) -> None:
        """Do `steps`, then call `then`, once in any case."""

        def is_over(task: asyncio.Task[None]) -> None:
            del self._under_way[call.id]
            then(_fate(task))

        task = asyncio.get_running_loop().create_task(_do(call, steps))
        self._under_way[call.id] = task
        task.add_done_callback(is_over)

    def forget(self, call: Syscall) -> None:
        """`call` is over: what is made for it is not wanted any more."""
        if (task := self._under_way.get(call.id)) is not None:
            task.cancel()

    def __len__(self) -> int:
        return len(self._under_way)


def _fate(task: asyncio.Task[None]) -> Fate:
    if task.cancelled():
        return Prepared.CANCELLED
    error = task.exception()
    if error is None:
        return Prepared.READY
    if isinstance(error, AiosError):
        return error
    log.error("a call could not be prepared", exc_info=error)
    return KernelFault(f"the kernel broke while a call was prepared: {type(error).__name__}: {error}")


async def _do(call: Syscall, steps: Sequence[Step]) -> None:
    for step in steps:
        call.why = step.why
        await step.prepare(call)

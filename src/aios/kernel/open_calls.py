"""The calls that are not over: found by id, counted with their process, waited for. Knows no queue and no module."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, KeysView

from aios.abi.errors import Full

from .syscall import State, Syscall


class OpenCalls:
    """At most `limit` of one process and its children together, and as many more that only wait."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._calls: dict[str, Syscall] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def check_room(self, call: Syscall) -> None:
        """Raises Full for one more than its process may have."""
        root = call.process.root
        # Waits are counted apart: a parent that waits for its children must not take the room that they need.
        if (root.num_waits if call.spec.is_wait else root.num_open) >= self._limit:
            raise Full(
                f"process {root.pid} and its children have {self._limit} calls open already; wait for some of them",
                code="too_many_open_calls",
                retry_after=1,
            )

    def add(self, call: Syscall) -> None:
        call.process.open_calls[call.id] = call
        call.process.num_calls += 1
        call.process.root.num_open += not call.spec.is_wait
        call.process.root.num_waits += call.spec.is_wait
        self._calls[call.id] = call
        self._idle.clear()

    def ended(self, call: Syscall) -> None:
        """`call` reached its last state, though it may not have been answered yet: its process bears what it cost."""
        process = call.process
        process.open_calls.pop(call.id, None)
        process.tokens_in += call.tokens_in
        process.tokens_cached += call.tokens_cached
        process.tokens_out += call.tokens_out
        if call.cost is not None:
            process.cost = (process.cost or 0.0) + call.cost
        process.num_failed += call.state is not State.DONE
        process.root.num_open -= not call.spec.is_wait
        process.root.num_waits -= call.spec.is_wait

    def forget(self, call: Syscall) -> None:
        """`call` is answered."""
        self._calls.pop(call.id, None)
        if not self._calls:
            self._idle.set()

    async def over(self, seconds: float) -> None:
        """Wait until none is left, at most so long, and no longer than until somebody says `hurry`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        if self._calls:
            self._idle.clear()

    def hurry(self) -> None:
        """Whoever waits until none is left waits no longer."""
        self._idle.set()

    @property
    def ids(self) -> KeysView[str]:
        return self._calls.keys()

    def __contains__(self, call: Syscall) -> bool:
        return call.id in self._calls

    def __iter__(self) -> Iterator[Syscall]:
        """As they are now: they may end while one goes through them."""
        return iter(list(self._calls.values()))

    def __len__(self) -> int:
        return len(self._calls)

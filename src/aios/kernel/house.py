"""Keeps house: forgets every now and then what was kept for long enough. Knows no call."""

from __future__ import annotations

import asyncio
import contextlib

from aios.abi.errors import AiosError

from .access import AccessManager
from .clock import Clock, Timer
from .journal import Journal
from .memory import MemoryManager
from .process import ProcessTable
from .storage import StorageManager

HOUSE_SECONDS = 300.0
LAST_SECONDS = 5.0
"""So long a stop waits for what is being forgotten."""
LOST_KEY_SECONDS = 7 * 86_400.0
"""So long after it was made, the key of a process that vanished with an earlier kernel still works: its program may
run. How long answers are kept is another matter, and configured."""


class House:
    def __init__(
        self,
        clock: Clock,
        processes: ProcessTable,
        journal: Journal,
        access: AccessManager,
        storage: StorageManager,
        memory: MemoryManager,
    ) -> None:
        self._clock = clock
        self._processes = processes
        self._journal = journal
        self._access = access
        self._storage = storage
        self._memory = memory
        self._timer: Timer | None = None
        self.purging: asyncio.Task[None] | None = None

    def keep(self) -> None:
        """Now, and again every HOUSE_SECONDS until `rest`; one that takes longer is not joined by another."""
        self._timer = self._clock.call_later(HOUSE_SECONDS, self.keep)
        if self.purging is None or self.purging.done():
            self.purging = asyncio.get_running_loop().create_task(self.purge())

    def rest(self) -> None:
        """Begin no more."""
        if self._timer is not None:
            self._timer.cancel()

    async def close(self) -> None:
        """What is not forgotten yet goes at the next boot."""
        if self.purging is not None:
            self.purging.cancel()
            await asyncio.wait([self.purging], timeout=LAST_SECONDS)

    async def purge(self) -> None:
        wall = self._clock.wall()
        with contextlib.suppress(AiosError):  # a full disk is told to those who write
            await self._journal.purge(wall, self._alive())
            await self._storage.keep_house()
            await self._memory.finish_clearing()
        self._access.purge(wall - LOST_KEY_SECONDS, self._alive())

    def _alive(self) -> set[int]:
        return {process.pid for process in self._processes.list()}

"""Reads that take long, in threads with a connection each, interrupted when nobody waits any more. Knows no query."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import apsw

from .health import closed
from .query import Job
from .turns import Turns

T = TypeVar("T")

NUM_SLOW_READERS = 3
"""Reads that take long at the same time; one that scans must not hold up all others."""


class SlowReads:
    """Threads that do nothing else, each with a connection of its own that is opened when first needed."""

    def __init__(self, connect: Callable[[], apsw.Connection]) -> None:
        self._connect = connect
        self._own = threading.local()
        self._opened: list[apsw.Connection] = []
        self._running: set[_SlowRead[Any]] = set()
        self._is_closed = False
        self._threads = ThreadPoolExecutor(NUM_SLOW_READERS, "aios_read")
        self._turns = Turns(NUM_SLOW_READERS)

    async def run(self, job: Job[T], whose: Hashable) -> T:
        async with self._turns.turn(whose):
            return await self._run_now(job)

    async def _run_now(self, job: Job[T]) -> T:
        read = _SlowRead(job)
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, self._run, read)
        except RuntimeError:  # its threads have ended
            raise closed() from None
        try:
            return await future
        except asyncio.CancelledError:
            read.give_up()
            raise

    def _run(self, read: _SlowRead[T]) -> T:
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = self._connect()
            self._opened.append(connection)
        self._running.add(read)
        try:
            if self._is_closed:
                raise closed()
            return read.run(connection)
        finally:
            self._running.discard(read)

    def close(self) -> None:
        """Interrupt what runs, refuse what waits, end the threads."""
        self._is_closed = True
        for read in list(self._running):
            read.give_up()
        self._threads.shutdown()
        for connection in self._opened:
            connection.close()


class _SlowRead(Generic[T]):
    """A read under way. `give_up` interrupts it, and never another that has its connection by then."""

    def __init__(self, job: Job[T]) -> None:
        self._job = job
        self._lock = threading.Lock()
        self._connection: apsw.Connection | None = None
        self._is_given_up = False

    def run(self, connection: apsw.Connection) -> T:
        with self._lock:
            self._connection = connection
        # SQLite forgets an interrupt that comes between two statements: the second one asks.
        connection.set_progress_handler(lambda: self._is_given_up, 5000)
        try:
            return self._job(connection)
        finally:
            with self._lock:
                self._connection = None

    def give_up(self) -> None:
        self._is_given_up = True
        with self._lock:
            if self._connection is not None:
                self._connection.interrupt()

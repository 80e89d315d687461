"""The threads that wait for a mounted folder's disk, so that the event loop does not. Knows nothing of what they do.

A disk may be a network's, and never answer. A thread that waits for it cannot be ended; whoever waits for the thread is
told so after a while, and nobody else begins to wait until the disk has answered.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ...unbroken import unbroken
from .faults import Gone

NUM_QUICK, NUM_LONG = 4, 2
ANSWER = 30.0
"""Seconds in which a disk has to answer."""
T = TypeVar("T")


class Disk:
    """Of one mounted folder: one whose disk does not answer holds up no other. For one event loop."""

    def __init__(self) -> None:
        self._quick = ThreadPoolExecutor(NUM_QUICK, "aios_mount")
        self._long = ThreadPoolExecutor(NUM_LONG, "aios_mount_long")
        self._stuck: set[asyncio.Future[Any]] = set()
        self._is_closed = False

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """What `work` returns or raises. Raises Gone when the disk does not answer, and after `close`. Who is cancelled
        waits for its end all the same: it has files open."""
        self._check()
        return await self._wait(asyncio.get_running_loop().run_in_executor(self._quick, work, *args), ANSWER)

    async def run_long(self, work: Callable[..., T], *args: Any) -> T:
        """As `run`, for work on very many files."""
        self._check()
        return await self._wait(asyncio.get_running_loop().run_in_executor(self._long, work, *args), None)

    async def open(self, work: Callable[..., T], *args: Any, undo: Callable[[T], object]) -> T:
        """As `run`, for work that opens something: it is closed again when nobody is left to do that."""
        opened: list[T] = []
        is_left = False

        def close() -> None:
            try:
                last = opened.pop()  # by one thread only
            except IndexError:
                return
            undo(last)

        def opening() -> None:
            opened.append(work(*args))
            if is_left:
                close()

        try:
            await self.run(opening)
        except (asyncio.CancelledError, Gone):
            is_left = True
            self.later(close)
            raise
        return opened.pop()

    def later(self, work: Callable[..., object], *args: Any) -> None:
        """Have something done that nobody waits for."""
        if self._is_closed:
            threading.Thread(target=work, args=args, daemon=True).start()
        else:
            self._quick.submit(work, *args)

    def close(self) -> None:
        """Take no more work. What hangs is left to hang."""
        self._is_closed = True
        for pool in (self._quick, self._long):
            pool.shutdown(wait=False, cancel_futures=True)

    def _check(self) -> None:
        if self._is_closed:
            raise Gone.because("it was unmounted")
        if self._stuck:
            raise Gone.because("its disk does not answer")

    async def _wait(self, future: asyncio.Future[T], limit: float | None) -> T:
        loop = asyncio.get_running_loop()
        end = None if limit is None else loop.time() + limit

        async def turn() -> None:
            left = None if end is None else end - loop.time()
            if left is not None and left <= 0:
                self._stuck.add(future)
                future.add_done_callback(self._answered)
                raise Gone.because("its disk does not answer")
            await asyncio.wait((future,), timeout=left)

        return await unbroken(future, turn)

    def _answered(self, future: asyncio.Future[Any]) -> None:
        self._stuck.discard(future)
        if not future.cancelled():
            future.exception()  # nobody waits for it any more

"""Work that blocks, in a few threads of its own; and steps that are not left half done. Knows nothing of the work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from .faults import Gone

T = TypeVar("T")


class Threads:
    """Of one mounted folder: one whose disk does not answer holds up no other."""

    def __init__(self, num: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(num, name)
        self._is_closed = False

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """What `work` returns or raises; Gone after `close`. Who is cancelled waits for its end: it has files open."""
        if self._is_closed:
            raise Gone("it was unmounted")
        return await _to_the_end(asyncio.get_running_loop().run_in_executor(self._pool, work, *args))

    async def open(self, work: Callable[..., T], *args: Any, undo: Callable[[T], object]) -> T:
        """As `run`, for work that opens something: it is closed again when nobody is left to do that."""
        opened: list[T] = []

        def opening() -> T:
            opened.append(work(*args))
            return opened[0]

        try:
            return await self.run(opening)
        except asyncio.CancelledError:
            for each in opened:
                await self.run(undo, each)
            raise

    def close(self) -> None:
        """Take no more work. What hangs is left to hang."""
        self._is_closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)


async def unbroken(steps: Coroutine[Any, Any, T]) -> T:
    """What `steps` return, done to their end though who waits is cancelled meanwhile."""
    return await _to_the_end(asyncio.get_running_loop().create_task(steps))


async def _to_the_end(future: asyncio.Future[T]) -> T:
    was_cancelled = False
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError:
            was_cancelled = True
    if was_cancelled:
        if not future.cancelled():
            future.exception()  # nobody is left to hear it
        raise asyncio.CancelledError
    return future.result()

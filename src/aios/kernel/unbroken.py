"""Waiting on, though whoever waits is cancelled: for what must be over before others take its place. Knows nothing of
what that is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
Turn = Callable[[], Awaitable[object]]
"""What is awaited, time after time. What it raises but for a cancellation ends the waiting."""


async def wait_out(is_over: Callable[[], bool], turn: Turn) -> bool:
    """Await `turn` again and again until `is_over`. Returns whether the caller was cancelled meanwhile: whoever has
    nothing to raise already raises that then."""
    was_cancelled = False
    while not is_over():
        try:
            await turn()
        except asyncio.CancelledError:
            was_cancelled = True
    return was_cancelled


async def over(future: asyncio.Future[Any], turn: Turn | None = None) -> bool:
    """As `wait_out`, for `future`, however that ends."""
    was_cancelled = await wait_out(future.done, turn or (lambda: asyncio.wait((future,))))
    if not future.cancelled():
        future.exception()  # nobody may be left to hear it
    return was_cancelled


async def unbroken(steps: Coroutine[Any, Any, T] | asyncio.Future[T], turn: Turn | None = None) -> T:
    """What `steps` return, done to their end though who waits is cancelled meanwhile."""
    future = asyncio.ensure_future(steps)
    if await over(future, turn):
        raise asyncio.CancelledError
    return future.result()

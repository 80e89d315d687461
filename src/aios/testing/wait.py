"""Letting an event loop go on until something is so: for what cannot be awaited. Knows no kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

LONGEST = 60.0
"""Seconds until what was waited for is taken never to come true."""


async def settle(turns: int = 50) -> None:
    """Give every task that is ready its turns."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(is_so: Callable[[], object]) -> None:
    """Let the loop turn until `is_so()`; threads and other processes may have a part in that. Raises TimeoutError."""
    async with asyncio.timeout(LONGEST):
        for turn in count():
            if is_so():
                return
            await asyncio.sleep(0 if turn < 2000 else 0.002)

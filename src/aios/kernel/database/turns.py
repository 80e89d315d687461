"""Whose turn it is at a few threads: those who wait in turn, each one's own in the order they came. Knows no job."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable


class Turns:
    """For one event loop. One who asks for a hundred things at once holds up another for one thing a thread."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._ring: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def turn(self, whose: Hashable) -> AsyncIterator[None]:
        """Wait for a place, and have it until the end."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(whose)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, whose: Hashable) -> None:
        place = asyncio.get_running_loop().create_future()
        self._ring.setdefault(whose, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # it was given in the same moment
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._ring:
            whose, waiting = self._ring.popitem(last=False)
            place = waiting.popleft()
            if waiting:
                self._ring[whose] = waiting
            if not place.done():  # else nobody waits for it any more
                place.set_result(None)
                return
        self._free += 1

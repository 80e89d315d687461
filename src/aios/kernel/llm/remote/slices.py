"""One answer of a server, heard in slices: it can be left between two tokens and gone on with, until it is let go.

Knows how to wait and nothing of what is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from ...unbroken import over
from .connection import Heard, OnData, Response
from .openai_stream import Events

Post = Callable[[OnData], Coroutine[None, None, Response]]


class Slices:
    """`post` asks the server, and `events` hears what comes. `is_safe` says whether the answer may be left here."""

    def __init__(self, events: Events, post: Post, is_safe: Callable[[], bool]) -> None:
        self.events = events
        self._is_safe = is_safe
        self._goal = 0
        self._is_paused = False
        self._unheard = b""
        self._bell = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(post(self._hear))
        self._task.add_done_callback(lambda _: self._bell.set())

    async def listen(self, quantum: int) -> Response | None:
        """The end of the answer, or None when it was left after about `quantum` tokens. Raises what `post` does, and
        what the listener does. When this is cancelled the connection is closed before the cancellation leaves."""
        self._goal = self.events.answer.num_tokens + quantum
        is_well = False
        try:
            response = await self._listen()
            is_well = True
        finally:
            if not is_well:
                await self.close()
        return response

    async def _listen(self) -> Response | None:
        self._is_paused = False
        data, self._unheard = self._unheard, b""
        if data and self.events.feed(data) is Heard.ALL:  # the connection was not told, and might wait for more
            await self.close()
            return _ended()
        while not self._task.done():
            await self._bell.wait()
            self._bell.clear()
            if not self._task.done() and self._is_at_edge():
                self._is_paused = True
                return None
        return self._task.result()

    def _is_at_edge(self) -> bool:
        return self.events.answer.num_tokens >= self._goal and self._is_safe()

    def _hear(self, data: bytes) -> Heard:
        if self._is_paused:
            self._unheard += data
            return Heard.SOMETHING
        heard = self.events.feed(data)
        if heard is not Heard.ALL and self._is_at_edge():
            self._bell.set()
        return heard

    def let_go(self) -> None:
        """Nobody goes on with it: close the connection, so that the server's slot is free."""
        self._task.cancel()

    async def close(self) -> None:
        """Let go, and return when it is gone."""
        self._task.cancel()
        await over(self._task)


def _ended() -> Response:
    response = Response()
    response.status, response.is_streamed = 200, True
    return response

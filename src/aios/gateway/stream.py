"""A stream of server-sent events: a bounded buffer between who makes them and a client that reads them.

Knows no wire format. The maker never waits: past the bound the client is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .exchange import Exchange, Watch

MAX_BUFFERED = 4 << 20
"""Bytes a client may lag behind before it is cut off."""
PING = 2.0
"""Seconds of silence after which a comment is sent, so that no read time-out fires."""


class EventStream:
    """`put` events from anywhere on the loop, `finish` when there are no more; `run` sends them.

    `on_gone` is called once when the client left or was cut off. `comment` makes the line sent in silence.
    """

    def __init__(self, exchange: Exchange, on_gone: Callable[[], None], comment: Callable[[], bytes]) -> None:
        self.is_cut = False
        self._exchange = exchange
        self._on_gone = on_gone
        self._comment = comment
        self._parts: list[bytes] = []
        self._size = 0
        self._is_finished = False
        self._was_silent = True
        self._waiter: asyncio.Future[None] | None = None

    def put(self, data: bytes) -> None:
        if self.is_cut:
            return
        self._parts.append(data)
        self._size += len(data)
        self._was_silent = False
        if self._size > MAX_BUFFERED:
            self.cut()
        elif self._waiter is not None:
            self._wake()

    def finish(self) -> None:
        self._is_finished = True
        self._wake()

    def cut(self) -> None:
        """Send nothing more: the client left, or does not read."""
        if not self.is_cut:
            self.is_cut = True
            self._parts.clear()
            self._on_gone()
            self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def run(self) -> None:
        """Send until finished or cut off. The status line goes out with the first event or comment, not before:
        until then the answer can still become an error."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(PING, self._tick)
        self._timer = timer
        try:
            with Watch(self._exchange, self.cut):
                await self._send_all(loop)
        finally:
            self._timer.cancel()

    async def _send_all(self, loop: asyncio.AbstractEventLoop) -> None:
        exchange = self._exchange
        while not self.is_cut:
            if self._parts:
                data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                self._parts.clear()
                self._size = 0
                if not exchange.is_started:
                    await exchange.start_events()
                await exchange.write(data)
            elif self._is_finished:
                return
            else:
                self._waiter = loop.create_future()
                await self._waiter

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PING, self._tick)
        if self._was_silent and not self._parts:
            self.put(self._comment())
        self._was_silent = True

"""A stream of server-sent events: a bounded buffer between who makes them and a client that reads them.

Knows no wire format; an `Encoder` does. The maker never waits: a client that does not read is cut off at the bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from aios.abi.calls import Args
from aios.abi.errors import AiosError, Cancelled
from aios.abi.messages import Chunk

from .exchange import WRITE_NOW, Exchange, Headers, Watch, call_headers

if TYPE_CHECKING:
    from aios.kernel import Syscall

MAX_BUFFERED = 4 << 20
"""Bytes that may wait while a client leaves earlier ones unread. One event is taken whatever its size: a large one says
nothing of how its client reads."""
PING = 2.0
"""Seconds of silence after which a comment is sent, so that no read time-out fires."""


class EventStream:
    """`put` events from anywhere on the loop, `finish` when there are no more; `run` sends them.

    `on_gone` is called once when the client left or was cut off. `comment` makes the line sent in silence.
    """

    def __init__(self, exchange: Exchange, on_gone: Callable[[], None], comment: Callable[[], bytes]) -> None:
        self.is_cut = False
        self.is_late = False
        """Cut off because it did not read."""
        self.headers: Callable[[], Headers] = list
        """Asked for when the status line goes out."""
        self._exchange = exchange
        self._on_gone = on_gone
        self._comment = comment
        self._parts: list[bytes] = []
        self._size = 0
        self._is_finished = False
        self._was_silent = True
        self._waiter: asyncio.Future[None] | None = None
        self._is_writing = False
        """Something is on its way that the client has not taken yet."""
        self._is_idle = False
        """The status line is out, all before is sent, and `run` waits: a piece may go out at once."""
        self._write_now: Callable[[bytes], bool] | None = exchange.scope.get(WRITE_NOW)

    def put(self, data: bytes) -> None:
        if self.is_cut or not data:
            return
        self._was_silent = False
        if self._is_idle and self._write_now is not None and self._write_now(data):
            return
        if self._is_writing and self._size > MAX_BUFFERED:
            self.is_late = True
            self.cut()
            return
        self._parts.append(data)
        self._size += len(data)
        if self._waiter is not None:
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
        self._is_idle = False
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
                self._is_writing = True
                if not exchange.is_started:
                    await exchange.start_events(self.headers())
                await exchange.write(data)
                self._is_writing = False
            elif self._is_finished:
                return
            else:
                self._waiter = loop.create_future()
                self._is_idle = exchange.is_started
                await self._waiter
                self._is_idle = False

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PING, self._tick)
        comment = self._comment()  # asked for in any case: whoever makes it may see that the stream is to end
        if self._was_silent and not self._parts:
            self.put(comment)
        self._was_silent = True


class Encoder(Protocol):
    """A surface's way to write down a call's answer as it comes."""

    def begin(self, call: Syscall) -> None: ...

    def chunk(self, chunk: Chunk) -> bytes:
        """The events for a piece; empty when there is nothing to say yet."""

    def tail(self, result: Any) -> bytes:
        """What ends the stream well."""

    def error(self, error: AiosError) -> bytes:
        """What ends a stream that has begun and fails."""


async def stream_call(exchange: Exchange, name: str, args: Args, encoder: Encoder) -> None:
    """Submit a call and stream its answer. Until the first event is out, an error is an ordinary error answer."""
    kernel = exchange.kernel
    call: Syscall | None = None
    early: list[Chunk] = []

    def on_chunk(chunk: Chunk) -> None:
        if call is None:
            early.append(chunk)  # a recorded answer is told before `submit` returns
        else:
            stream.put(encoder.chunk(chunk))

    def gone() -> None:
        if call is not None:
            kernel.cancel(call)

    def comment() -> bytes:
        return b": %s\n\n" % (call.state.value if call is not None else "new").encode()

    stream = EventStream(exchange, gone, comment)
    key, timeout = exchange.idempotency_key(), exchange.timeout()
    call = kernel.submit(
        exchange.principal,
        name,
        args,
        key=key,
        on_chunk=on_chunk,
        timeout=timeout,
        session=exchange.session(),
        nice=exchange.nice(),
    )
    stream.headers = lambda: call_headers(call)
    encoder.begin(call)
    for chunk in early:
        stream.put(encoder.chunk(chunk))
    assert call.future is not None
    call.future.add_done_callback(lambda _: stream.finish())
    try:
        await stream.run()
    finally:
        call.unlisten(on_chunk)
        if not call.future.done():
            kernel.cancel(call)
    if stream.is_late:
        await _fail(exchange, encoder, _late())
    elif not stream.is_cut:
        await _end(exchange, encoder, call.future, stream.headers)


async def _end(
    exchange: Exchange, encoder: Encoder, future: asyncio.Future[Any], headers: Callable[[], Headers]
) -> None:
    error = future.exception()
    if error is not None:
        await _fail(exchange, encoder, error)
        return
    tail = encoder.tail(future.result())
    if not exchange.is_started:
        await exchange.start_events(headers())
    await exchange.end(tail)


async def _fail(exchange: Exchange, encoder: Encoder, error: BaseException) -> None:
    """An event in a stream that has begun, an ordinary error answer before."""
    if not (isinstance(error, AiosError) and exchange.is_started):
        raise error
    await exchange.end(encoder.error(error))


def _late() -> AiosError:
    why = f"more than {MAX_BUFFERED} bytes of this answer waited to be read; read the stream while it comes"
    return Cancelled(why, code="client_too_slow")

"""Pooled HTTP/1.1 connections to one server, for requests that post JSON. Knows nothing of what is in them.

Written on a Protocol since each streamed token would otherwise wake a reader's task: what arrives is handed on inside
the callback that received it. ARCHITECTURE.md has the figures.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Callable
from enum import Enum, auto
from urllib.parse import urlsplit

import httptools

from aios.abi.errors import AiosError

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 30.0
"""An idle connection older than this is not used again: something between may have forgotten it."""
LINGER_SECONDS = 1.0
"""How long a connection whose answer is complete for us may take to end it, before it is closed instead of kept."""
MAX_HEAD = 64 << 10
MAX_WHOLE = 64 << 20


class Heard(Enum):
    """What a piece of a stream was: something said, the last of it, or nothing but a sign that the server is there."""

    NOTHING = auto()
    SOMETHING = auto()
    ALL = auto()


OnData = Callable[[bytes], Heard]
"""Takes a piece of a stream. May raise an AiosError, which ends the request."""


class Broken(ConnectionError):
    """The server closed, or did not speak HTTP. `is_stale`: a kept connection was closed before it said a word."""

    def __init__(self, why: str, *, is_stale: bool = False) -> None:
        super().__init__(why)
        self.is_stale = is_stale


class Unreadable(Broken):
    """Something came, and it is no answer that can be read."""


class Unfinished(TimeoutError):
    """An answer that does not come as a stream was begun, and did not end in time."""


class Unreachable(ConnectionError):
    """No connection could be made."""


class Response:
    """What came back. `is_streamed`: the body went to the listener, and `body` is empty."""

    __slots__ = ("body", "headers", "is_streamed", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.is_streamed = False
        self.body = b""


class Pool:
    """Connections to the origin of `url`. `headers` go with each request; they may hold a key and are never shown."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self._is_tls = parts.scheme == "https"
        netloc = parts.netloc.rpartition("@")[2]
        self.origin = f"{parts.scheme}://{netloc}"
        self._target = parts._replace(scheme="", netloc="", fragment="").geturl()
        self._host_line = f"host: {netloc}"
        self.set_headers(headers)
        self._idle: list[Connection] = []
        self._is_closed = False

    def set_headers(self, headers: dict[str, str]) -> None:
        """What goes with each request from now on."""
        lines = [self._host_line, *(f"{name}: {value}" for name, value in headers.items())]
        self._headers = "\r\n".join(lines).encode("latin-1")
        self._head = self._head_of(self._target)

    def _head_of(self, target: str) -> bytes:
        return b"POST %s HTTP/1.1\r\n%s\r\ncontent-length: " % (target.encode(), self._headers)

    async def post(
        self,
        body: bytes,
        timeout: float,
        on_data: OnData | None,
        *,
        first: float | None = None,
        target: str | None = None,
    ) -> Response:
        """Post `body`. An event stream goes to `on_data`, if there is one. Cancelling closes the connection.

        `target` is another path of the same server than the url's. Raises TimeoutError when the answer has not ended
        after `timeout` seconds, or, as an event stream, said nothing for so long, or for `first` seconds before it has
        said anything; Unreachable, and Broken.
        """
        head = self._head if target is None else self._head_of(target)
        data = b"%s%d\r\n\r\n%s" % (head, len(body), body)
        return await self._send(data, timeout, on_data, first)

    async def get(self, target: str, timeout: float) -> Response:
        """Get the path `target`. Raises as `post` does."""
        return await self._send(b"GET %s HTTP/1.1\r\n%s\r\n\r\n" % (target.encode(), self._headers), timeout)

    async def _send(
        self, data: bytes, timeout: float, on_data: OnData | None = None, first: float | None = None
    ) -> Response:
        connection = self._take()
        if connection is not None:
            try:
                return await connection.ask(data, timeout, on_data, first)
            except Broken as error:
                if not error.is_stale:
                    raise
        return await (await self._connect()).ask(data, timeout, on_data, first)

    def _take(self) -> Connection | None:
        oldest = asyncio.get_running_loop().time() - IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        name = self.host if self._is_tls else None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                tls = await asyncio.to_thread(_trusted) if self._is_tls else None
                _, connection = await loop.create_connection(
                    lambda: Connection(self), self.host, self.port, ssl=tls, server_hostname=name
                )
        except TimeoutError:
            raise Unreachable(f"cannot connect to {self.origin} within {CONNECT_SECONDS:g} s") from None
        except OSError as error:
            raise Unreachable(f"cannot connect to {self.origin} ({error.strerror or type(error).__name__})") from None
        return connection

    def keep(self, connection: Connection) -> None:
        assert connection not in self._idle, "a connection is kept once, or two requests would share it"
        if self._is_closed:
            connection.close()
        else:
            self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        self._is_closed = True
        for connection in self._idle[:]:
            connection.close()


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Whose certificates are good. Reading the machine's takes some 30 ms: once for all, and not on the event loop."""
    return ssl.create_default_context()


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    _transport: asyncio.Transport

    def __init__(self, pool: Pool) -> None:
        self.idle_since = 0.0
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[Response] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._was_used = False
        self._keeps_alive = False
        self._parser = httptools.HttpResponseParser(self)
        self._is_closing = False
        self._reset()

    def _reset(self) -> None:
        self._response = Response()
        self._parts: list[bytes] = []
        self._size = 0
        self._on_data: OnData | None = None
        self._error: AiosError | Broken | None = None
        self._has_head = self._has_body = self._is_complete = self._is_packed = False
        self._heard = self._spoke = 0.0

    async def ask(self, data: bytes, timeout: float, on_data: OnData | None, first: float | None = None) -> Response:
        if self._is_closing:
            raise Broken("its server closed the connection", is_stale=self._was_used)
        self._reset()
        self._on_data = on_data
        self._timeout = timeout
        self._limit = timeout if first is None else first
        self._sent = self._loop.time()
        self._waiter = self._loop.create_future()
        self._timer = self._loop.call_later(self._limit, self._check)
        self._transport.write(data)
        try:
            return await self._waiter
        finally:
            self._timer.cancel()
            self._waiter = None
            self._was_used = True
            self._leave()

    def _leave(self) -> None:
        """Nobody waits here any more: keep the connection if its answer has ended well, or soon will."""
        if self._is_complete:
            self._release()
        elif self._has_body and not self._is_closing:
            self._on_data = None
            self._timer = self._loop.call_later(LINGER_SECONDS, self.close)
        else:
            self.close()

    def _release(self) -> None:
        if self._is_closing or not self._keeps_alive:
            self.close()
        else:
            self.idle_since = self._loop.time()
            self._pool.keep(self)

    def close(self) -> None:
        self._is_closing = True
        self._pool.forget(self)
        self._transport.abort()

    def _check(self) -> None:
        """Whether the server has said nothing for too long. Set once, and again only when it fires too early. Bytes of
        a head, of a body that is one answer, and signs of life say nothing: dripping buys no time."""
        silent = self._loop.time() - max(self._sent, self._spoke)
        if silent < self._limit:
            self._timer = self._loop.call_later(self._limit - silent, self._check)
        else:
            is_begun = self._has_head and not self._response.is_streamed
            self._fail(Unfinished() if is_begun else TimeoutError())

    def _begin_to_hear(self) -> None:
        """The first piece is here: from now on it is the time between two that counts."""
        self._limit = self._timeout
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._limit, self._check)

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
        self.close()

    def _finish(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            if not self._response.is_streamed:
                self._response.body = b"".join(self._parts)
            self._waiter.set_result(self._response)

    # ── from the transport ──

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a TCP one
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._waiter is None and not self._is_awaited():
            self.close()  # nothing was asked: what comes here would be taken for the answer to the next request
            return
        self._heard = self._loop.time()
        if not self._response.is_streamed:
            self._size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(self._error or Unreadable("its server does not speak HTTP/1.1"))
            return
        if self._parts and self._response.is_streamed:
            self._hand_on()
        if self._error is not None:
            self._fail(self._error)
        elif not self._has_head and self._size > MAX_HEAD:
            self._fail(Unreadable("its server sends endless headers"))
        elif not self._response.is_streamed and self._size > MAX_WHOLE:
            self._fail(Unreadable(f"its server answered with more than {MAX_WHOLE} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        self._pool.forget(self)
        if self._waiter is None or self._waiter.done():
            return
        if self._has_head and exc is None and self._ends_by_closing():
            self._is_complete, self._keeps_alive = True, False
            self._finish()
        elif self._has_head:
            self._fail(Broken("its server cut the answer short"))
        else:
            self._fail(Broken("its server closed the connection", is_stale=self._was_used and not self._heard))

    def _ends_by_closing(self) -> bool:
        headers = self._response.headers
        return "content-length" not in headers and "transfer-encoding" not in headers

    def _is_awaited(self) -> bool:
        """Nobody waits, and yet the end of the answer is still to come."""
        return self._has_body and not self._is_complete

    # ── from the parser ──

    def on_message_begin(self) -> None:
        if self._is_complete:  # raised through the parser, which ends the connection and leaves the first answer alone
            raise Broken("its server answers what nobody asked")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._has_head:  # behind the body of a chunked answer; nothing there matters
            return
        self._response.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        response = self._response
        response.status = self._parser.get_status_code()
        if response.status < 200:
            return
        self._has_head = True
        packing = response.headers.get("content-encoding", "").strip().lower()
        self._is_packed = packing not in ("", "identity")
        if self._is_packed and response.status == 200:
            why = f"its server packs what it says ({packing[:40]}) though it was asked not to; turn that off there"
            self._error = Unreadable(why)
        elif self._on_data is not None:
            kind = response.headers.get("content-type", "")
            response.is_streamed = response.status == 200 and kind.startswith("text/event-stream")
            if not response.is_streamed:
                self._spoke = self._heard  # whoever waits for a stream waits no shorter for all of it at once

    def on_body(self, data: bytes) -> None:
        if not self._is_packed:  # what a refusal says is lost then, and its status is not
            self._parts.append(data)

    def _hand_on(self) -> None:
        """Give the listener what came in one read, in one piece."""
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        if self._on_data is None or self._error is not None:
            return
        try:
            heard = self._on_data(data)
        except AiosError as error:
            self._error = error
            return
        if heard is not Heard.NOTHING:
            self._spoke = self._heard
            if self._limit != self._timeout:
                self._begin_to_hear()
        if heard is Heard.ALL:
            self._has_body = True
            self._finish()

    def on_message_complete(self) -> None:
        if self._response.status < 200:
            self._response = Response()
            return
        if self._parts and self._response.is_streamed:
            self._hand_on()
        self._keeps_alive = self._parser.should_keep_alive()
        self._is_complete = True
        if self._waiter is not None:
            if self._error is None:
                self._finish()
        elif self._timer is not None:
            self._timer.cancel()
            self._release()

"""Sockets: binding, bounds on what connections may do, and a stop that drains. Knows no route.

What uvicorn does not bound is bounded here: how many connections, how large and how slow a request's head and body,
and how long a client may leave its answer unread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from aios.abi.errors import AiosError, BadRequest, Conflict, Full, TooLarge

from .app import create_app
from .errors import error_body
from .exchange import WRITE_NOW

if TYPE_CHECKING:
    from aios.kernel import Kernel

HEAD_BYTES = 64 << 10
HEAD_SECONDS = 10.0
REQUEST_SECONDS = 60.0
FILES = b"/aios/v1/files/"
SLOWEST = 64 << 10
"""Bytes a second at which a file may come: those bodies have no bound but their own."""
UNREAD_SECONDS = 30.0
KEEP_ALIVE = 75
BACKLOG = 2048
HEAD = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n"


def bind(host: str, port: int) -> socket.socket:
    """A listening address (port 0: any free one). Raises Conflict or BadRequest that says what to do."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BadRequest(
            f"cannot listen on {host}: {error.strerror or error}; check [server] host", code="bad_host"
        ) from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)  # two kernels may bind one port, but only one may listen on it
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"port {port} on {host} is taken; stop what uses it, or choose another with --port or [server] port",
                code="port_taken",
            ) from None
        raise BadRequest(f"cannot listen on {host}:{port}: {error.strerror}", code="bad_address") from None
    return sock


def url_of(sock: socket.socket) -> str:
    """Where a bound socket is reached from this machine."""
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with bounds. The three times say since when it has been at what may take too long."""

    max_connections = 4096

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.url = b""
        self._head_since = self._body_since = self._unread_since = 0.0
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a TCP one
        super().connection_made(transport)
        self._head_since = self.loop.time()
        if len(self.connections) > self.max_connections:
            full = Full(f"{self.max_connections} connections are open, the most allowed", code="too_many_connections")
            self.turn_away(429, full)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._body_since and self.url.startswith(FILES):
            self._body_since = min(self.loop.time(), self._body_since + len(data) / SLOWEST)
        if self._head_since:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.turn_away(431, TooLarge(f"the head is larger than {HEAD_BYTES} bytes", code="head_too_large"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_since = self.loop.time()
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._body_since, self._head_since = self._head_since, 0.0
        super().on_headers_complete()
        self.scope[WRITE_NOW] = partial(_write_now, self.cycle)  # type: ignore[literal-required]  # a key of ours

    def on_message_complete(self) -> None:
        self._body_since = 0.0
        super().on_message_complete()

    def pause_writing(self) -> None:
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = 0.0
        super().resume_writing()

    def check(self, now: float) -> None:
        """Cut off a client that sends or reads too slowly."""
        if self._head_since and now - self._head_since > HEAD_SECONDS:
            self.turn_away(408, BadRequest("the request's head did not arrive in time", code="request_timeout"))
        elif self._body_since and not self.flow.read_paused and now - self._body_since > REQUEST_SECONDS:
            self.turn_away(408, BadRequest("the request's body did not arrive in time", code="request_timeout"))
        elif self._unread_since and now - self._unread_since > UNREAD_SECONDS:
            self.transport.abort()

    def turn_away(self, status: int, error: AiosError) -> None:
        """Answer without the application, and close."""
        self._head_since = self._body_since = 0.0
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = error_body(self.url.decode("latin-1"), error)
            head = HEAD % (status, HTTPStatus(status).phrase.encode(), len(body))
            self.transport.write(head + (b"retry-after: 1\r\n\r\n" if status == 429 else b"\r\n") + body)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self.turn_away(400, BadRequest("this is not a valid HTTP/1.1 request", code="invalid_http"))


def _write_now(cycle: RequestResponseCycle, data: bytes) -> bool:
    """Write a piece of a chunked answer past the application's `send`, which costs a task's turn for each token."""
    if cycle.flow.write_paused or cycle.disconnected or cycle.response_complete or not cycle.chunked_encoding:
        return False
    cycle.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
    return True


class Server(uvicorn.Server):
    """uvicorn's server around one kernel: SIGTERM or SIGINT drains, a second one does not wait."""

    def __init__(
        self,
        kernel: Kernel,
        address: str,
        on_ready: Callable[[], None] | None,
        on_stop: Callable[[bool], None] | None = None,
    ) -> None:
        """`address` is what its socket is bound to."""
        bounded = type("Connection", (Connection,), {"max_connections": kernel.config.server.max_connections})
        super().__init__(
            uvicorn.Config(
                create_app(kernel, address),
                http=bounded,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=5,
            )
        )
        self._kernel = kernel
        self._on_ready = on_ready
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self._kernel.hurry()
        if self._on_stop is not None:
            self._on_stop(self.should_exit)
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._on_ready is not None:
            self._on_ready()

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.check(now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, let the kernel drain, let the last answers go out."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._kernel.stop()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        caught: list[signal.Signals] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            # Outside the main thread, and on Windows, there is no way to hear them: whoever serves there cancels.
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                loop.add_signal_handler(number, self.handle_exit, signal.SIGINT, None)
                caught.append(number)
        try:
            yield
        finally:
            for number in caught:
                loop.remove_signal_handler(number)


async def serve(
    kernel: Kernel,
    sock: socket.socket | None = None,
    *,
    on_ready: Callable[[], None] | None = None,
    on_stop: Callable[[bool], None] | None = None,
) -> None:
    """Serve `kernel` until SIGTERM, SIGINT or this task's cancelling; then drain and stop it.

    `sock` is what `bind` gave; without it the configured address is bound here. `on_stop` hears of each signal, and
    whether the stop was under way already.
    """
    settings = kernel.config.server
    sock = sock or bind(settings.host, settings.port)
    server = Server(kernel, sock.getsockname()[0], on_ready, on_stop)
    serving = asyncio.ensure_future(server.serve(sockets=[sock]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise
    finally:
        sock.close()

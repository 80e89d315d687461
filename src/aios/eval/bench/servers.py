"""Small servers to measure against, each a process of its own: a model that answers at once, a proxy, a pipe.

Knows nothing of the kernel. `python -m aios.eval.bench.servers stub TOKENS GAP_MS | proxy PORT | pipe PORT`; prints its
port.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import httptools
import msgspec
import uvloop

WORDS = " ".join(["word"] * 80)
USAGE = {"prompt_tokens": 200, "completion_tokens": 80, "total_tokens": 280}
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _answer() -> bytes:
    message = {"role": "assistant", "content": WORDS}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    common = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "stub"}
    body = msgspec.json.encode({**common, "choices": [choice], "usage": USAGE})
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "stub"}
    return _chunk(b"data: %b\n\n" % msgspec.json.encode({**common, "choices": [choice]}))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Stub(asyncio.Protocol):
    """Answers every request with the same text, whole or as `tokens` events `gap` seconds apart."""

    whole = _answer()
    token = _event({"role": "assistant", "content": "word "})
    end = _event({}, "stop") + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"

    def __init__(self, tokens: int, gap: float) -> None:
        self._tokens = tokens
        self._gap = gap
        self._body = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a TCP one
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        if b'"stream":true' in body:
            self._transport.write(SSE)
            self._say(self._tokens)
        else:
            self._transport.write(self.whole)

    def _say(self, left: int) -> None:
        if self._transport.is_closing():
            return
        if left:
            self._transport.write(self.token)
            asyncio.get_running_loop().call_later(self._gap, self._say, left - 1)
        else:
            self._transport.write(self.end)


async def stub(tokens: int, gap: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Stub(tokens, gap), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def proxy(upstream: int) -> None:
    """What a proxy costs that does nothing: aiohttp in front, aiohttp behind, bytes in between."""
    from aiohttp import ClientSession, DummyCookieJar, TCPConnector, web

    url = f"http://127.0.0.1:{upstream}/v1/chat/completions"
    headers = {"content-type": "application/json"}

    async def forward(request: web.Request) -> web.Response:
        async with session.post(url, data=await request.read(), headers=headers) as answer:
            return web.Response(body=await answer.read(), status=answer.status, content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", forward)
    async with ClientSession(connector=TCPConnector(limit=0), cookie_jar=DummyCookieJar()) as session:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        sock = socket.create_server(("127.0.0.1", 0), backlog=4096)
        await web.SockSite(runner, sock, backlog=4096).start()
        print(sock.getsockname()[1], flush=True)
        await asyncio.Event().wait()


class Pipe(asyncio.Protocol):
    """One end of a connection that goes on to another server: bytes out as they came in, and nothing read."""

    def __init__(self, upstream: int = 0) -> None:
        self._upstream = upstream
        self._early: list[bytes] = []
        self._other: Pipe | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a TCP one
        self.transport = transport
        if self._upstream:
            self._joining = asyncio.ensure_future(self._join())

    async def _join(self) -> None:
        _, other = await asyncio.get_running_loop().create_connection(Pipe, "127.0.0.1", self._upstream)
        self._other, other._other = other, self
        for data in self._early:
            other.transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            self._early.append(data)
        else:
            self._other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._other is not None:
            self._other.transport.close()


async def pipe(upstream: int) -> None:
    """What reading and writing a packet costs with Python between, and nothing else."""
    server = await asyncio.get_running_loop().create_server(lambda: Pipe(upstream), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main(arguments: list[str]) -> None:
    kind, *numbers = arguments
    work: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
        "stub": lambda: stub(int(numbers[0]), float(numbers[1]) / 1e3),
        "proxy": lambda: proxy(int(numbers[0])),
        "pipe": lambda: pipe(int(numbers[0])),
    }
    uvloop.run(work[kind]())


if __name__ == "__main__":
    main(sys.argv[1:])

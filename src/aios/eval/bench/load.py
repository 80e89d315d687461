"""A client that asks again as soon as it is answered, over many connections, cheaply. Measures nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import httptools
import msgspec


class LoadError(RuntimeError):
    """Something else than 200 came back, or nothing."""


def request(port: int, key: str = "", *, is_streamed: bool = False, size: int = 800) -> bytes:
    """A chat completion as bytes, ready to send."""
    messages = [{"role": "system", "content": "You are a helpful agent."}, {"role": "user", "content": "x" * size}]
    stream = {"stream": True} if is_streamed else {}
    body = msgspec.json.encode({"model": "stub", "messages": messages, "max_tokens": 80, **stream})
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        f"host: 127.0.0.1:{port}",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Asker(asyncio.Protocol):
    """One connection: sends `data` `times` times, each when the one before is answered."""

    def __init__(self, data: bytes, times: int, done: asyncio.Future[None]) -> None:
        self._data = data
        self._left = times
        self._done = done

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a TCP one
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)
        transport.write(self._data)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self._left -= 1
        if status != 200:
            self._end(LoadError(f"a request was answered with {status}"))
        elif self._left:
            self._transport.write(self._data)
        else:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(LoadError("the connection was closed"))

    def _end(self, error: LoadError | None) -> None:
        if not self._done.done():
            self._done.set_exception(error) if error else self._done.set_result(None)
        self._transport.close()


async def ask_all(port: int, requests: Sequence[bytes], times: int) -> None:
    """One connection for each of `requests`, `times` answers on each. Raises LoadError."""
    loop = asyncio.get_running_loop()
    ends: list[asyncio.Future[None]] = [loop.create_future() for _ in requests]
    for data, done in zip(requests, ends, strict=True):
        await loop.create_connection(partial(Asker, data, times, done), "127.0.0.1", port)
    await asyncio.gather(*ends)

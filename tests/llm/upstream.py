"""A server that answers what a test wrote, byte for byte, on a free loopback port."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Step = bytes | asyncio.Event
"""Bytes to send, or an event to wait for before going on."""


@dataclass
class Upstream:
    """`answers` are played one a request, the last one for all further ones. `seen` holds the bodies asked."""

    answers: Sequence[Sequence[Step]]
    url: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    num_connections: int = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(int(x[15:]) for x in head.lower().split("\r\n") if x.startswith("content-length:"))
                self.heads.append(head)
                self.seen.append(json.loads(await reader.readexactly(length)))
                self.asked.set()
                await self._play(reader, writer, self.answers[min(len(self.seen), len(self.answers)) - 1])
        writer.close()

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Sequence[Step]) -> None:
        for step in answer:
            if isinstance(step, asyncio.Event):
                if not await self._wait(reader, step):
                    return
            elif step:
                writer.write(step)
                await writer.drain()
            else:
                raise ConnectionError  # an empty step: cut the connection here

    async def _wait(self, reader: asyncio.StreamReader, event: asyncio.Event) -> bool:
        """Whether `event` came before the client left."""
        leaving = asyncio.ensure_future(reader.read(1))
        waiting = asyncio.ensure_future(event.wait())
        await asyncio.wait({leaving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            self.left.set()
            waiting.cancel()
            raise ConnectionError
        leaving.cancel()
        await asyncio.wait({leaving})
        return True


@contextlib.asynccontextmanager
async def upstream(*answers: Sequence[Step]) -> AsyncIterator[Upstream]:
    server_of: Upstream = Upstream(answers)
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] = server_of.handle
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    server_of.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield server_of
    finally:
        server.close()


def whole(body: Any, status: str = "200 OK", **headers: str) -> list[Step]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{more}content-length: {len(data)}\r\n\r\n"
    return [head.encode() + data]


def chat(message: dict[str, Any], finish: str = "stop", **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, **more}
    return {"id": "x", "object": "chat.completion", "model": "m-1", "choices": [choice], "usage": usage}


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({"id": "x", "model": "m-1", "choices": choices, **more}).encode() + b"\n\n"


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
DONE = b"data: [DONE]\n\n"

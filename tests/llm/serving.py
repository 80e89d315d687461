"""The loop of a scripted server on a free loopback port: requests in, whatever the script says out."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, TypeVar

NOT_THERE = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


class Scripted:
    """Serves each connection until the client leaves, or `answer` raises ConnectionError, which cuts it."""

    url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                if head.startswith("GET "):
                    writer.write(self.page(head.split(" ")[1]))
                    continue
                length = next(int(x[15:]) for x in head.lower().split("\r\n") if x.startswith("content-length:"))
                body = json.loads(await reader.readexactly(length))
                await self.answer(reader, writer, head, body)
        writer.close()

    def page(self, path: str) -> bytes:
        """What a GET of `path` gets."""
        return NOT_THERE

    async def answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str, body: dict[str, Any]
    ) -> None:
        raise NotImplementedError


S = TypeVar("S", bound=Scripted)


@contextlib.asynccontextmanager
async def serving(scripted: S) -> AsyncIterator[S]:
    """`scripted`, while it can be reached at its `url`."""
    server = await asyncio.start_server(scripted.handle, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield scripted
    finally:
        server.close()

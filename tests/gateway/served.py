"""A kernel behind a real server on a free loopback port, and a client to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from aios.gateway import bind, serve, url_of
from aios.kernel import Kernel, Row
from aios.testing import ScriptedCore, booted


@dataclass
class Served:
    kernel: Kernel
    core: Any
    url: str
    key: str
    session: aiohttp.ClientSession
    serving: asyncio.Task[None]

    def key_of(self, agent: str, *, is_admin: bool = False) -> str:
        _, text = self.kernel.access.mint(owner="test", agent=agent, is_admin=is_admin)
        return text

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any, aiohttp.ClientResponse]:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(self.url + path, data=data, headers=named) as response:
            return response.status, msgspec.json.decode(await response.read()), response

    async def get(self, path: str, key: str | None = None) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        async with self.session.get(self.url + path, headers=headers) as response:
            return response.status, msgspec.json.decode(await response.read())

    async def chat(self, text: str = "hello", **more: Any) -> tuple[int, Any, aiohttp.ClientResponse]:
        return await self.post("/v1/chat/completions", ask(text, **more))

    async def stream(self, path: str, body: Any, **headers: str) -> str:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(self.url + path, data=msgspec.json.encode(body), headers=named) as response:
            assert response.status == 200, await response.text()
            return await response.text()

    async def moved(self, state: str) -> Row:
        """Wait until a call enters `state`."""
        seen: asyncio.Future[Row] = asyncio.get_running_loop().create_future()

        def listen(row: Row) -> None:
            if row.state == state and not seen.done():
                seen.set_result(row)

        stop = self.kernel.trace.listen(listen)
        try:
            async with asyncio.timeout(10):
                return await seen
        finally:
            stop()


def ask(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": "user", "content": text}], **more}


def events(text: str) -> list[Any]:
    """The data of each event of an OpenAI stream, decoded; `[DONE]` stays text."""
    datas = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    return [data if data == "[DONE]" else msgspec.json.decode(data) for data in datas]


@contextlib.asynccontextmanager
async def served(core: Any = None, **more: Any) -> AsyncIterator[Served]:
    """A kernel behind its gateway, with one core, or with all of a list."""
    cores = core if isinstance(core, list) else [core or ScriptedCore("hello big world")]
    core = cores[0]
    async with booted(cores=cores, **more) as kernel:
        _, key = kernel.access.mint(owner="test", agent="tester")
        sock = bind("127.0.0.1", 0)
        url = url_of(sock)
        ready = asyncio.Event()
        serving = asyncio.create_task(serve(kernel, sock, on_ready=ready.set))
        await ready.wait()
        try:
            async with aiohttp.ClientSession(
                headers={"authorization": f"Bearer {key}"}, timeout=aiohttp.ClientTimeout(total=60)
            ) as session:
                yield Served(kernel, core, url, key, session, serving)
        finally:
            if isinstance(core, ScriptedCore):
                core.gate.set()
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving

"""A server that says "good" slowly to who asks for good and something bad to others, and a kernel with a core on it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import messages_server
import pytest
from serving import Scripted, serving
from upstream import DONE, HEAD, LAST, event, framed

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError
from aios.abi.messages import Message
from aios.kernel import Kernel, Principal
from aios.kernel.config import CoreSection
from aios.kernel.llm.cores import make_core
from aios.kernel.llm.remote.upstream import WHOLE_FACTOR
from aios.testing import booted, principal

Reply = Sequence[Any]
"""Bytes; None to hang; b"" to cut the connection; FLOOD or DRIP to repeat what stands before it for ever."""
FLOOD, DRIP = "flood", "drip"
DRIP_SECONDS = 0.01
LIMIT = 0.1

GOOD = {
    "openai": (event({"content": "go"}), event({"content": "od"}) + event({}, "stop") + DONE),
    "anthropic": (
        messages_server.begun() + messages_server.text(0, "go"),
        messages_server.text(1, "od") + messages_server.ended(),
    ),
}


class Server(Scripted):
    def __init__(self, kind: str, reply: Reply) -> None:
        self.reply = reply
        self.gate = asyncio.Event()
        self.is_good_begun = asyncio.Event()
        self._good_begin, self._good_end = GOOD[kind]

    async def answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str, body: dict[str, Any]
    ) -> None:
        if "good" in str(body["messages"][0]["content"]):
            await self._good(writer)
        else:
            await self._bad(reader, writer)

    async def _good(self, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + framed(self._good_begin))
        self.is_good_begun.set()
        await self.gate.wait()
        writer.write(framed(self._good_end) + LAST)

    async def _bad(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for place, step in enumerate(self.reply):
            if step is None:
                await reader.read(1)
                raise ConnectionError
            if step in (FLOOD, DRIP):
                while not reader.at_eof():
                    writer.write(self.reply[place - 1])
                    await writer.drain()
                    await asyncio.sleep(0 if step == FLOOD else DRIP_SECONDS)
                raise ConnectionError
            if not step:
                raise ConnectionError
            writer.write(step)
            await writer.drain()


@contextlib.asynccontextmanager
async def asked(kind: str, reply: Reply, **section: Any) -> AsyncIterator[tuple[Server, Any, Kernel, Principal]]:
    given = {"timeout": 60.0, "api_key_env": "FAR_KEY"} | section
    async with serving(Server(kind, reply)) as at:
        url = at.url if kind == "openai" else at.url.removesuffix("/v1")
        core: Any = make_core(CoreSection(name="far", kind=kind, base_url=url, **given))  # type: ignore[arg-type]
        async with booted(cores=[core]) as kernel:
            yield at, core, kernel, principal(kernel)


def args(what: str, **more: Any) -> LLMGenerate:
    return LLMGenerate(messages=[Message("user", what)], **more)


async def prove(kind: str, reply: Reply, error: type[AiosError], why: str, *, is_streamed: bool = True) -> None:
    """A call that gets `reply` ends in one `error` that says `why`; one beside it goes on, and so does the core."""
    hear = {"on_chunk": lambda chunk: None}
    bad_hear = hear if is_streamed else {}
    async with asked(kind, reply) as (at, core, kernel, who), asyncio.timeout(20):
        good = kernel.submit(who, "llm_generate", args("good"), **hear)
        assert good.future is not None
        await at.is_good_begun.wait()
        # The good one, asked before, may take its time. An answer that comes whole has some times more.
        core._upstream.timeout = LIMIT if is_streamed else LIMIT / WHOLE_FACTOR
        bad = kernel.submit(who, "llm_generate", args("bad"), **bad_hear)
        with pytest.raises(error, match=why) as caught:
            await bad.future  # type: ignore[misc]
        assert "sk-very-secret" not in str(caught.value.to_dict())
        assert caught.value.fault in ("upstream", "module")
        assert not good.future.done()
        core._upstream.timeout = 60.0
        at.gate.set()
        assert (await good.future).message.content == "good"
        assert (await kernel.call(who, "llm_generate", args("good"), **hear)).core == "far"
        assert core.statistics()["active"] == 0
        kernel.check_integrity()

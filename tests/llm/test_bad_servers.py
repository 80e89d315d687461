"""Servers that lie, break, hang and never end: one clear error each, while the core and its other calls go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from serving import Scripted, serving
from upstream import DONE, HEAD, LAST, chat, event, framed, whole

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError, TimedOut, UpstreamFault
from aios.abi.messages import Message
from aios.kernel import Kernel, Principal
from aios.kernel.config import CoreSection
from aios.kernel.llm.remote import connection, hearing, openai_stream, pace
from aios.kernel.llm.remote.openai import OpenAICore
from aios.testing import booted, principal

pytestmark = pytest.mark.anyio

Reply = Sequence[Any]
"""Bytes; None to hang; b"" to cut the connection; "…" to repeat what stands before it for ever."""

HALF = "é".encode()[:1]
CALL = {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x": '}}


def streamed(*events: bytes) -> list[bytes]:
    return [HEAD + framed(b"".join(events)) + LAST]


def usage(**counts: int) -> dict[str, Any]:
    return {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, **counts}


HELLO = event({"content": "hel"})
BAD: dict[str, tuple[Reply, type[AiosError], str]] = {
    "garbage": ([b"\x00\xff\x17 what?\r\n\r\n"], UpstreamFault, "does not speak HTTP"),
    "a page": (whole(b"<!doctype html><h1>Hi</h1>"), UpstreamFault, "page for people, not JSON; does .* base_url"),
    "not a chat": (whole({"hello": "world"}), UpstreamFault, "holds no message"),
    "no choices": (whole({"choices": []}), UpstreamFault, "holds no message"),
    "a stream without choices": (streamed(event(None), DONE), UpstreamFault, "holds no choice"),
    "nothing": (whole(b""), UpstreamFault, "is not a chat completion"),
    "500": (whole({"error": {"message": "boom"}}, "500 Oops"), UpstreamFault, r"\(500\): boom"),
    "a hang": ([None], TimedOut, "said nothing for"),
    "a hang in the middle": ([HEAD + framed(HELLO), None], TimedOut, "said nothing for"),
    "comments only": ([HEAD, framed(b": ping\n\n"), "…"], TimedOut, "said nothing for"),
    "a cut": ([b""], UpstreamFault, "closed the connection"),
    "a cut stream": ([HEAD + framed(HELLO), b""], UpstreamFault, "cut the answer short"),
    "half an event": (streamed(HELLO, HELLO[:30]), UpstreamFault, "cut the stream short"),
    "half a character": (streamed(HELLO, HELLO.replace(b"hel", HALF)), UpstreamFault, "not a chat completion"),
    "half a character at the end": ([HEAD + framed(HELLO + b'data: {"x": "' + HALF), b""], UpstreamFault, "cut"),
    "an unfinished tool call": (streamed(event({"tool_calls": [CALL]})), UpstreamFault, "cut the stream short"),
    "a wrong key": (whole({"error": {"message": "bad key sk-very-secret"}}, "401 No"), UpstreamFault, r"see \$FAR_KEY"),
    "negative usage": (whole(chat({"content": "x"}) | {"usage": usage(completion_tokens=-3)}), UpstreamFault, "usage"),
    "a negative cache": (
        whole(chat({"content": "x"}) | {"usage": usage() | {"prompt_tokens_details": {"cached_tokens": -9}}}),
        UpstreamFault,
        "usage",
    ),
    "usage that no database holds": (
        whole(chat({"content": "x"}) | {"usage": usage(completion_tokens=1 << 63)}),
        UpstreamFault,
        "usage",
    ),
    "negative usage at the end": (
        streamed(HELLO, event({}, "stop", usage=usage(prompt_tokens=-1)), DONE),
        UpstreamFault,
        "usage",
    ),
    "a length that is too long": (
        [b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{}", b""],
        UpstreamFault,
        "cut the answer short",
    ),
    "a length that is too short": (
        [b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n" + b'{"choices": []}'],
        UpstreamFault,
        "not a chat completion",
    ),
    "a length that is none": (
        [b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n{}"],
        UpstreamFault,
        "does not speak HTTP",
    ),
    "a redirect": (whole(b"", "302 Found", location="http://127.0.0.1:1/x"), UpstreamFault, "redirects to http://127"),
    "endless headers": ([b"HTTP/1.1 200 OK\r\n", b"x-more: and more of it\r\n", "…"], UpstreamFault, "endless headers"),
    "endless patience": ([b"HTTP/1.1 100 Continue\r\n\r\n", "…"], UpstreamFault, "endless headers"),
    "a huge line": (
        [HEAD, framed(b"data: " + b"x" * 4000), framed(b"x" * 4000), "…"],
        UpstreamFault,
        "no end of event",
    ),
    "a stream that never ends": ([HEAD, framed(HELLO), "…"], UpstreamFault, "has no end"),
    "a body that never ends": (
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", framed(b"x" * 4000), "…"],
        UpstreamFault,
        "more than 1000000 bytes",
    ),
}


class Server(Scripted):
    """Says "good" slowly to who asks for good, `reply` to others."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.gate = asyncio.Event()
        self.num_good = 0
        self.is_good_begun = asyncio.Event()

    async def answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str, body: dict[str, Any]
    ) -> None:
        if "good" in str(body["messages"][0]["content"]):
            await self._good(writer)
        else:
            await self._bad(reader, writer)

    async def _good(self, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + framed(event({"content": "go"})))
        self.is_good_begun.set()
        await self.gate.wait()
        writer.write(framed(event({"content": "od"}) + event({}, "stop") + DONE) + LAST)

    async def _bad(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for place, step in enumerate(self.reply):
            if step is None:
                await reader.read(1)
                raise ConnectionError
            if step == "…":
                while not reader.at_eof():
                    writer.write(self.reply[place - 1])
                    await writer.drain()
                    await asyncio.sleep(0)
                raise ConnectionError
            if not step:
                raise ConnectionError
            writer.write(step)
            await writer.drain()


@contextlib.asynccontextmanager
async def asked(reply: Reply, **section: Any) -> AsyncIterator[tuple[Server, OpenAICore, Kernel, Principal]]:
    given = {"timeout": 60.0, "api_key_env": "FAR_KEY"} | section
    async with serving(Server(reply)) as at:
        core = OpenAICore(CoreSection(name="far", kind="openai", base_url=at.url, **given))
        async with booted(cores=[core]) as kernel:
            yield at, core, kernel, principal(kernel)


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", "sk-very-secret")
    monkeypatch.setattr(pace, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(pace, "LONGEST_PAUSE", 0.002)
    monkeypatch.setattr(connection, "MAX_WHOLE", 1_000_000)
    monkeypatch.setattr(openai_stream, "MAX_EVENT", 100_000)
    monkeypatch.setattr(hearing, "MAX_ANSWER", 1_000_000)


def args(what: str, **more: Any) -> LLMGenerate:
    return LLMGenerate(messages=[Message("user", what)], **more)


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_answer_is_one_clear_error_and_others_go_on(what: str) -> None:
    reply, kind, why = BAD[what]
    async with asked(reply) as (at, core, kernel, who):
        good = kernel.submit(who, "llm_generate", args("good"), on_chunk=lambda chunk: None)
        assert good.future is not None
        await at.is_good_begun.wait()
        core._upstream.timeout = 0.2  # the good one, asked before, may take its time
        bad = kernel.submit(who, "llm_generate", args("bad"), on_chunk=lambda chunk: None)
        with pytest.raises(kind, match=why) as caught:
            await bad.future  # type: ignore[misc]
        assert "sk-very-secret" not in str(caught.value.to_dict())
        assert caught.value.fault in ("upstream", "module")
        assert not good.future.done()
        at.gate.set()
        assert (await good.future).message.content == "good"
        assert (await kernel.call(who, "llm_generate", args("good"), on_chunk=lambda chunk: None)).core == "far"
        assert core.statistics()["active"] == 0
        kernel.check_integrity()

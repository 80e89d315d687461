"""A llama-server that somebody else started, as a core of kind "openai": chat, stream, tools, abort, resume."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aios.abi.calls import LLMGenerate
from aios.abi.messages import Chunk, FunctionSpec, Generation, Message, ToolSpec
from aios.kernel.config import CoreSection
from aios.kernel.llm.base import Request, Said
from aios.kernel.llm.remote.openai import OpenAICore
from aios.kernel.syscall import Suspended

pytest.importorskip("xllamacpp")
from llama_server import llama_server, slots_of
from tiny_gguf import TEXT_OF_A_CALL

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@asynccontextmanager
async def asked(model: Path, **section: Any) -> AsyncIterator[tuple[OpenAICore, str]]:
    async with llama_server(model, context=2048) as url:
        core = OpenAICore(CoreSection(name="l", kind="openai", base_url=url, **{"server": "llama", **section}))
        await core.open()
        try:
            yield core, url
        finally:
            await core.close()


def args(text: str = "hi there", **more: Any) -> LLMGenerate:
    given = {"temperature": 0.0, "max_tokens": 60, "seed": 1, **more}
    return LLMGenerate(messages=[Message(role="user", content=text)], **given)


async def whole(core: OpenAICore, given: LLMGenerate, heard: list[Chunk] | None = None) -> Generation:
    request = Request("c", given, (heard if heard is not None else []).append, None, heard is not None)
    done = await core.run(request, None)
    assert isinstance(done, Generation)
    return done


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.001)


def said(heard: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in heard)


async def test_it_chats_streams_and_calls_tools(model: Path) -> None:
    async with asked(model) as (core, _):
        heard: list[Chunk] = []
        done = await whole(core, args(), heard)
        assert done.message.content == said(heard) == (await whole(core, args())).message.content
        assert (done.finish_reason, done.usage.completion_tokens) == ("length", 60)
        parameters = {"properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"], "type": "object"}
        tool = ToolSpec(FunctionSpec("weather", parameters={**parameters, "additionalProperties": False}))
        given = args(tools=[tool], tool_choice="required", logit_bias=TEXT_OF_A_CALL)
        for done in (await whole(core, given), await whole(core, given, [])):
            call = (done.message.tool_calls or [])[0]
            assert (call.function.name, done.finish_reason) == ("weather", "tool_calls")
            assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")


@pytest.mark.parametrize("declared", ["llama", None])
async def test_what_it_can_do_is_found_out(model: Path, declared: str | None) -> None:
    async with asked(model, server=declared) as (core, _):
        await until(lambda: core.statistics()["found"] == "as its server says")
        assert (core.slots, core.context_length, core.resume) == (2, 2048, "prefill_text")


@pytest.mark.parametrize("quantum", [1, 7, 30])
async def test_an_answer_cut_at_quanta_is_the_uncut_one(model: Path, quantum: int) -> None:
    async with asked(model) as (core, _):
        solo = await whole(core, args())
        heard: list[Chunk] = []
        done: Any = Suspended(None, 0)
        while isinstance(done, Suspended):
            done = await core.run(Request("c", args(), heard.append, None, True, done.snapshot), quantum)
            await asyncio.sleep(0)  # somebody else has its slot now: the stream is closed
            await whole(core, args("somebody else", max_tokens=1))
        assert done.message.content == solo.message.content == said(heard)
        assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (solo.usage.prompt_tokens, 60)


async def test_half_an_answer_is_gone_on_with(model: Path) -> None:
    async with asked(model) as (core, _):
        solo = await whole(core, args())
        half = Said(solo.message.text()[:25], 25)
        heard: list[Chunk] = []
        done = await core.run(Request("c", args(), heard.append, None, True, half), None)
        assert isinstance(done, Generation)
        assert done.message.content == solo.message.content == half.text + said(heard)


async def test_an_aborted_call_frees_the_servers_slot(model: Path) -> None:
    async with asked(model) as (core, url):
        heard: list[Chunk] = []
        task = asyncio.create_task(whole(core, args(max_tokens=1900, logprobs=True, top_logprobs=20), heard))
        await until(lambda: len(heard) > 3)
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: not any(slot["is_processing"] for slot in slots_of(url)))
        assert len(said(heard)) < 1900

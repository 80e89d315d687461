"""A real llama.cpp server, asked as anybody's server is: what it can do is found, and its answers are interrupted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aios.abi.calls import LLMGenerate
from aios.abi.messages import Chunk, FunctionSpec, Generation, Message, ToolSpec
from aios.kernel.config import CoreSection
from aios.kernel.llm.base import Request, Said
from aios.kernel.llm.gguf.process import Process
from aios.kernel.llm.remote.openai import OpenAICore
from aios.testing import until

pytest.importorskip("xllamacpp")
from tiny_gguf import TEXT_OF_A_CALL

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened(
    model: Path, monkeypatch: pytest.MonkeyPatch, context: int = 512, **section: Any
) -> AsyncIterator[OpenAICore]:
    folder = model.parent / "slots"
    folder.mkdir(exist_ok=True)
    order = {"path": str(model), "slots": 2, "context": context, "folder": f"{folder}/", "threads": 1}
    process = Process("far", order)
    await process.start()
    monkeypatch.setenv("FAR_KEY", process._key)
    url = f"{process._address}/v1"
    core = OpenAICore(CoreSection(name="far", kind="openai", base_url=url, api_key_env="FAR_KEY", **section))
    await core.open()
    try:
        await until(lambda: core.statistics()["found"] == "as its server says")
        yield core
    finally:
        await core.close()
        await process.stop()


def args(**more: Any) -> LLMGenerate:
    given = {"temperature": 0.0, "max_tokens": 60, "seed": 1, **more}
    return LLMGenerate(messages=[Message("user", "hi there")], **given)


async def hear(core: OpenAICore, given: LLMGenerate, quantum: int | None) -> tuple[Generation, list[Chunk], int]:
    said: Said | None = None
    chunks: list[Chunk] = []
    for number in range(1000):
        outcome = await core.run(Request("c1", given, chunks.append, None, True, said), quantum)
        if isinstance(outcome, Generation):
            return outcome, chunks, number
        said = outcome.snapshot
        await asyncio.sleep(0)  # another call has the slot: the stream is closed
    raise AssertionError("an answer without end")


async def test_a_llama_server_is_known_and_its_answers_are_interrupted_without_a_seam(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(model, monkeypatch) as core:
        assert (core.resume, core.slots, core.context_length) == ("prefill_text", 2, 512)
        alone, _, _ = await hear(core, args(), None)
        done, chunks, num_interrupts = await hear(core, args(), 5)
        assert num_interrupts > 0
        assert done.message.content == "".join(chunk.text for chunk in chunks)
        assert done.message.content == alone.message.content
        assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (alone.usage.prompt_tokens, 60)
        assert done.usage.prompt_tokens_details.cached_tokens <= done.usage.prompt_tokens


async def test_its_slot_is_free_at_once_when_a_call_is_aborted(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(model, monkeypatch, context=16_384) as core:
        chunks: list[Chunk] = []
        request = Request("c1", args(max_tokens=16_000, logit_bias={"2": -100.0}), chunks.append, None, True)
        asking = asyncio.create_task(core.run(request, 10_000))
        await until(lambda: len(chunks) > 3)
        assert await num_busy(core) == 1
        asking.cancel()
        async with asyncio.timeout(5):
            while await num_busy(core):
                pass


async def num_busy(core: OpenAICore) -> int:
    response = await core._upstream.get("/slots", 5.0, is_beside=True)
    return sum(slot["is_processing"] for slot in json.loads(response.body))


async def test_tools_and_schemas_are_the_servers_to_keep(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    city = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
    tool = ToolSpec(FunctionSpec("weather", parameters={**city, "additionalProperties": False}))
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {**city, "additionalProperties": False}}}
    async with opened(model, monkeypatch) as core:
        given = args(tools=[tool], tool_choice="required", logit_bias=TEXT_OF_A_CALL, max_tokens=120)
        done, _, num_interrupts = await hear(core, given, 1)
        assert num_interrupts == 0  # a grammar would begin anew
        (call,) = done.message.tool_calls or []
        assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")
        done, _, num_interrupts = await hear(core, args(response_format=form, max_tokens=120), 1)
        assert num_interrupts == 0
        assert json.loads(done.message.text())["city"] in ("Rome", "Oslo")

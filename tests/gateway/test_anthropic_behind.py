"""A program written for OpenAI's API, unchanged, on a core that is Anthropic's."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from messages_server import begun, ended, failed, streamed, text, thinking, tool
from openai.types.chat import ChatCompletionMessageParam
from served import Served, served
from upstream import Step, Upstream, upstream, whole

from aios.kernel.config import CoreSection
from aios.kernel.llm.remote.anthropic import AnthropicCore

pytestmark = pytest.mark.anyio

TOOLS: Any = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]


@contextlib.asynccontextmanager
async def behind(*answers: list[Step]) -> AsyncIterator[tuple[openai.AsyncOpenAI, Upstream, Served]]:
    async with upstream(*answers) as up:
        core = AnthropicCore(CoreSection(name="claude", kind="anthropic", base_url=up.url, model="claude-x"))
        async with served(core) as at, openai.AsyncOpenAI(base_url=f"{at.url}/v1", api_key=at.key) as sdk:
            yield sdk, up, at


async def test_a_loop_with_tools_runs_as_on_any_other_core() -> None:
    first = streamed(begun(), thinking(0, "hm", "sig"), tool(1, "find", '{"q": "x"}', id="t1"), ended("tool_use"))
    second = streamed(begun(), text(0, "It is", " 42."), ended())
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "what is x?"}]
    async with behind(first, second) as (sdk, up, _):
        done = await sdk.chat.completions.create(model="claude", messages=messages, tools=TOOLS)
        message = done.choices[0].message
        assert done.choices[0].finish_reason == "tool_calls"
        (call,) = message.tool_calls or ()
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("find", {"q": "x"})
        messages += [message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "42"}]
        done = await sdk.chat.completions.create(model="claude", messages=messages, tools=TOOLS)
        assert done.choices[0].message.content == "It is 42."
        assert done.usage is not None
        assert done.usage.prompt_tokens == 127
        assert done.usage.prompt_tokens_details is not None
        assert done.usage.prompt_tokens_details.cached_tokens == 100
        sent = up.seen[1]["messages"]
        assert [block["type"] for block in sent[1]["content"]] == ["thinking", "tool_use"]
        assert sent[2]["content"][0]["tool_use_id"] == "t1"


async def test_a_stream_reads_like_openais() -> None:
    events = [begun(), thinking(0, "hm", "sig"), text(1, "I look"), tool(2, "find", '{"q":', '"x"}', id="t1")]
    async with behind(streamed(*events, ended("tool_use"))) as (sdk, _, at):
        stream = await sdk.chat.completions.create(
            model="claude",
            messages=[{"role": "user", "content": "x?"}],
            tools=TOOLS,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
        assert choices[0].delta.role == "assistant"
        assert "".join(c.delta.content or "" for c in choices) == "I look"
        assert "".join(getattr(c.delta, "reasoning_content", None) or "" for c in choices) == "hm"
        calls = [piece for c in choices for piece in c.delta.tool_calls or ()]
        assert (calls[0].index, calls[0].id) == (0, "t1")
        assert "".join((c.function and c.function.arguments) or "" for c in calls) == '{"q":"x"}'
        assert choices[-1].finish_reason == "tool_calls"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 9
        at.kernel.check_integrity()


async def test_errors_arrive_as_the_clients_own() -> None:
    refusal = whole(failed("invalid_request_error", "top_p: not for this model"), "400 Bad Request")
    denied = whole(failed("authentication_error", "invalid x-api-key"), "401 Unauthorized")
    async with behind(refusal, denied) as (sdk, up, _):
        sdk = sdk.with_options(max_retries=0)
        user: list[ChatCompletionMessageParam] = [{"role": "user", "content": "x?"}]
        with pytest.raises(openai.BadRequestError) as bad:
            await sdk.chat.completions.create(model="claude", messages=user, top_p=0.5)
        assert bad.value.param == "top_p"
        with pytest.raises(openai.InternalServerError, match="Your own key is not at fault"):
            await sdk.chat.completions.create(model="claude", messages=user)
        with pytest.raises(openai.BadRequestError, match='ignore = \\["logprobs"\\]'):
            await sdk.chat.completions.create(model="claude", messages=user, logprobs=True)
        assert len(up.seen) == 2

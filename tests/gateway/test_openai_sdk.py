"""The official OpenAI client against a real server: what agents write must work unchanged."""

from __future__ import annotations

import json

import openai
import pytest
from pydantic import BaseModel
from served import Served, served

from aios.abi.errors import UpstreamFault
from aios.kernel.config import Config, Scheduler
from aios.testing import ScriptedCore, tool_call

pytestmark = pytest.mark.anyio

USER = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "calculator", "parameters": {"type": "object"}}}]


def client(at: Served, key: str | None = None) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{at.url}/v1", api_key=key or at.key, max_retries=0)


async def test_a_chat_is_answered_with_message_usage_and_reason() -> None:
    async with served() as at, client(at) as sdk:
        done = await sdk.chat.completions.create(model="scripted", messages=USER, user="me", metadata={"a": "b"})
        assert done.choices[0].message.content == "hello big world"
        assert done.choices[0].finish_reason == "stop"
        assert done.usage is not None
        assert done.usage.completion_tokens == 3
        assert at.core.seen[0].extra == {"user": "me", "metadata": {"a": "b"}}


async def test_a_stream_adds_up_to_the_answer() -> None:
    async with served() as at, client(at) as sdk:
        stream = await sdk.chat.completions.create(
            model="scripted", messages=USER, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "hello big world"
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-2].usage == chunks[-1].usage
        assert chunks[-1].choices == []


async def test_the_clients_own_stream_helper_accumulates() -> None:
    async with served() as at, client(at) as sdk, sdk.chat.completions.stream(model="scripted", messages=USER) as s:
        final = await s.get_final_completion()
        assert final.choices[0].message.content == "hello big world"


async def test_tool_calls_come_whole_and_streamed() -> None:
    core = ScriptedCore(tool_call("calculator", expression="19 * 23"))
    async with served(core) as at, client(at) as sdk:
        done = await sdk.chat.completions.create(model="scripted", messages=USER, tools=TOOLS)
        assert done.choices[0].finish_reason == "tool_calls"
        [call] = done.choices[0].message.tool_calls
        assert json.loads(call.function.arguments) == {"expression": "19 * 23"}
        async with sdk.chat.completions.stream(model="scripted", messages=USER, tools=TOOLS) as stream:
            final = (await stream.get_final_completion()).choices[0]
        assert final.finish_reason == "tool_calls"
        [streamed] = final.message.tool_calls
        assert (streamed.id, streamed.function.name) == (call.id, "calculator")
        assert json.loads(streamed.function.arguments) == {"expression": "19 * 23"}


async def test_a_whole_tool_conversation_is_taken() -> None:
    async with served() as at, client(at) as sdk:
        first = tool_call("calculator", expression="1+1").tool_calls
        assert first is not None
        messages = [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "1+1?"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "calculator", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "2"},
        ]
        await sdk.chat.completions.create(model="scripted", messages=messages, stop=["\n"], max_completion_tokens=9)
        seen = at.core.seen[0]
        assert [m.role for m in seen.messages] == ["developer", "user", "assistant", "tool"]
        assert (seen.max_tokens, seen.stop) == (9, ["\n"])


async def test_structured_output_is_parsed_by_the_client() -> None:
    class Answer(BaseModel):
        city: str

    async with served(ScriptedCore('{"city": "Oslo"}')) as at, client(at) as sdk:
        done = await sdk.chat.completions.parse(model="scripted", messages=USER, response_format=Answer)
        assert done.choices[0].message.parsed == Answer(city="Oslo")
        assert (at.core.seen[0].response_format or {})["type"] == "json_schema"


async def test_a_wrong_key_is_an_authentication_error() -> None:
    async with served() as at, client(at, "sk-aios-wrong") as sdk:
        with pytest.raises(openai.AuthenticationError) as caught:
            await sdk.chat.completions.create(model="scripted", messages=USER)
        assert caught.value.code == "invalid_api_key"
        assert caught.value.request_id


async def test_bad_arguments_are_a_bad_request_that_names_the_field() -> None:
    async with served() as at, client(at) as sdk:
        with pytest.raises(openai.BadRequestError) as caught:
            await sdk.chat.completions.create(model="scripted", messages=USER, temperature=9)
        assert caught.value.param == "temperature"
        with pytest.raises(openai.BadRequestError, match="n must be 1"):
            await sdk.chat.completions.create(model="scripted", messages=USER, n=2)


async def test_models_are_listed_and_found() -> None:
    async with served() as at, client(at) as sdk:
        assert [m.id async for m in sdk.models.list()] == ["scripted", "scripted-1"]
        assert (await sdk.models.retrieve("scripted")).id == "scripted"
        with pytest.raises(openai.NotFoundError, match="did you mean 'scripted'"):
            await sdk.models.retrieve("scriptde")


async def test_a_full_queue_is_a_rate_limit_that_says_when_to_return() -> None:
    core = ScriptedCore("ok", slots=1)
    core.gate.clear()
    config = Config(scheduler=Scheduler(max_waiting=1))
    async with served(core, config=config) as at, client(at) as sdk:
        import asyncio

        first = asyncio.create_task(sdk.chat.completions.create(model="scripted", messages=USER))
        await core.entered(1)
        queued = asyncio.create_task(at.moved("queued"))
        second = asyncio.create_task(sdk.chat.completions.create(model="scripted", messages=USER))
        await queued
        with pytest.raises(openai.RateLimitError) as caught:
            await sdk.chat.completions.create(model="scripted", messages=USER)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        core.gate.set()
        await asyncio.gather(first, second)


async def test_an_upstreams_failure_is_a_server_error_of_the_client() -> None:
    async with served(ScriptedCore(UpstreamFault("core 'x': down"))) as at, client(at) as sdk:
        with pytest.raises(openai.InternalServerError) as caught:
            await sdk.chat.completions.create(model="scripted", messages=USER, stream=True)
        assert caught.value.status_code == 502
        assert caught.value.type == "upstream_error"

"""The same Idempotency-Key again is the first answer again: to the byte when whole, in its sum when streamed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from served import Served, ask, events, served
from upstream import DONE, HEAD, LAST, USAGE, event, framed, upstream, whole

from aios.abi.messages import FunctionCall, Message, ToolCall
from aios.kernel.config import CoreSection
from aios.kernel.llm.remote.openai import OpenAICore
from aios.testing import MockClock, ScriptedCore

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
CALLS = Message(
    role="assistant",
    content="I look",
    tool_calls=[ToolCall("c1", FunctionCall("look", '{"at":"ä"}')), ToolCall("c2", FunctionCall("listen"))],
)


async def asked(at: Served, key: str = "k", **more: Any) -> bytes:
    """The body of an answer, byte for byte."""
    body = msgspec.json.encode(ask(**more))
    async with at.session.post(at.url + CHAT, data=body, headers={"idempotency-key": key}) as response:
        assert response.status == 200, await response.text()
        return await response.read()


def added_up(stream: bytes) -> dict[str, Any]:
    """What a client makes of a stream. A field of all events that differs among them comes back as a list."""
    *said, last = events(stream.decode())
    assert last == "[DONE]"
    deltas = [event["choices"][0]["delta"] for event in said if event["choices"]]
    calls: dict[int, list[str]] = {}
    for piece in (piece for delta in deltas for piece in delta.get("tool_calls", ())):
        call = calls.setdefault(piece["index"], ["", "", ""])
        function = piece.get("function", {})
        for n, text in enumerate((piece.get("id"), function.get("name"), function.get("arguments"))):
            call[n] += text or ""
    same = {name: sorted({str(event.get(name)) for event in said}) for name in ("id", "created", "model", "object")}
    text = {name: "".join(d.get(name) or "" for d in deltas) for name in ("content", "reasoning_content", "refusal")}
    ends = [event["choices"][0]["finish_reason"] for event in said if event["choices"]]
    usage = [event["usage"] for event in said if event.get("usage")]
    return {**same, **text, "calls": calls, "finish": [end for end in ends if end], "usage": usage}


@pytest.mark.parametrize("script", ["hello big world", CALLS])
async def test_a_repeated_answer_is_the_first_one_to_the_byte_also_later_and_after_a_restart(
    tmp_path: Path, script: str | Message
) -> None:
    clock = MockClock()
    async with served(ScriptedCore(script), home=tmp_path, clock=clock) as at:
        first = await asked(at)
        clock.advance(100)
        assert await asked(at) == first
        _, fresh, _ = await at.chat()
        assert fresh["created"] == msgspec.json.decode(first)["created"] + 100
    clock.advance(100)
    async with served(ScriptedCore("another"), home=tmp_path, clock=clock) as at:
        assert await asked(at) == first


@pytest.mark.parametrize("script", ["hello big world", CALLS])
@pytest.mark.parametrize("is_streamed_first", [True, False])
async def test_streamed_and_whole_answers_under_one_key_tell_the_same(
    tmp_path: Path, script: str | Message, is_streamed_first: bool
) -> None:
    clock = MockClock()
    async with served(ScriptedCore(script), home=tmp_path, clock=clock) as at:
        first = await asked(at, stream=is_streamed_first)
        clock.advance(100)
        other = await asked(at, stream=not is_streamed_first)
    async with served(ScriptedCore("another"), home=tmp_path, clock=clock) as at:
        clock.advance(100)
        again = await asked(at, stream=True)
        assert await asked(at, stream=True) == again
    streamed, whole = (first, other) if is_streamed_first else (other, first)
    told, body = added_up(streamed), msgspec.json.decode(whole)
    assert added_up(again) == told
    assert (told["id"], told["created"], told["model"]) == ([body["id"]], [str(body["created"])], [body["model"]])
    assert told["usage"] == [body["usage"]]


async def test_who_joins_a_call_under_way_gets_its_answer_to_the_byte() -> None:
    core, clock = ScriptedCore("hello big world"), MockClock()
    core.gate.clear()
    async with served(core, clock=clock) as at:
        first = asyncio.create_task(asked(at, stream=True))
        await core.entered(1)
        clock.advance(100)
        second = asyncio.create_task(asked(at, stream=True))
        (call,) = (call for process in at.kernel.processes.list() for call in process.open_calls.values())
        for _ in range(5000):
            if len(call.listeners) == 2:
                break
            await asyncio.sleep(0.001)
        core.gate.set()
        told = [[part for part in each.split(b"\n\n") if part[:1] != b":"] for each in (await first, await second)]
        assert told[0] == told[1]


def remote(url: str) -> OpenAICore:
    return OpenAICore(CoreSection(name="gpu", kind="openai", base_url=url, model="qwen"))


async def test_an_upstreams_stream_is_repeated_under_the_name_that_it_had(tmp_path: Path) -> None:
    named = {"id": "chatcmpl-theirs", "created": 1_600_000_000, "object": "chat.completion.chunk"}
    pieces = [
        event({"role": "assistant", "reasoning_content": "hm"}, **named),
        event({"content": "hel"}, **named),
        event({"content": "lo"}, **named),
        event({}, "stop", **named) + event(None, usage=USAGE, **named) + DONE,
    ]
    steps = [HEAD + framed(b"".join(pieces)) + LAST]
    async with upstream(steps) as up, served(remote(up.url), home=tmp_path) as at:
        first = await asked(at, model="gpu", stream=True)
        again = await asked(at, model="gpu", stream=True)
        body = msgspec.json.decode(await asked(at, model="gpu"))
    async with served(ScriptedCore(), home=tmp_path) as at:
        later = await asked(at, model="gpu", stream=True)
    told = added_up(first)
    assert (told["id"], told["reasoning_content"], told["content"]) == (["chatcmpl-theirs"], "hm", "hello")
    assert added_up(again) == added_up(later) == told
    assert (body["id"], body["created"], body["model"]) == ("chatcmpl-theirs", 1_600_000_000, "m-1")


async def test_a_server_that_does_not_stream_is_repeated_as_it_was_told(tmp_path: Path) -> None:
    answer = {"id": "x", "model": "m-1", "choices": [{"message": {"content": "hello"}}], "usage": USAGE}
    async with upstream(whole(answer)) as up, served(remote(up.url), home=tmp_path) as at:
        first = await asked(at, model="gpu", stream=True)
        assert added_up(await asked(at, model="gpu", stream=True)) == added_up(first)

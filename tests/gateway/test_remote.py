"""A real server behind the kernel: its stream reaches the client as it came."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from served import ask, events, served
from serving import serving
from upstream import DONE, HEAD, LAST, STORY, USAGE, Server, chat, event, framed, upstream, whole

from aios.gateway import stream
from aios.kernel.config import CoreSection
from aios.kernel.llm.remote.openai import OpenAICore
from aios.testing import ScriptedCore

pytestmark = pytest.mark.anyio

PIECES = [event({"role": "assistant", "content": ""}), event({"content": "hel"}, odd=[1]), event({"content": "lo"})]
TAIL = event({}, "stop") + event(None, usage=USAGE) + DONE


def remote(url: str, **more: Any) -> OpenAICore:
    return OpenAICore(CoreSection(name="gpu", kind="openai", base_url=url, model="qwen", **more))


async def test_an_upstreams_events_pass_untouched() -> None:
    async with upstream([HEAD + framed(b"".join(PIECES)) + framed(TAIL) + LAST]) as up, served(remote(up.url)) as at:
        text = await at.stream("/v1/chat/completions", ask(model="gpu", stream=True, odd_parameter={"a": 1}))
        assert text.encode().startswith(b"".join(PIECES))
        said = events(text)
        assert said[-2]["choices"][0]["finish_reason"] == "stop"
        assert said[-2]["usage"] == USAGE
        assert said[-1] == "[DONE]"
        assert len(said) == 5  # the client did not ask for the usage event
        assert up.seen[0]["odd_parameter"] == {"a": 1}
        assert up.seen[0]["model"] == "qwen"


async def test_names_of_tools_that_this_wire_does_not_know_are_for_the_server_behind_to_judge() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("maps.find", "maps.find", "x" * 65)]
    refusal = whole({"error": {"message": "bad name", "param": "tools[0].function.name"}}, "400 Bad Request")
    async with upstream(whole(chat({"content": "yes"})), refusal) as up, served(remote(up.url)) as at:
        status, _, _ = await at.chat(model="gpu", tools=tools)
        assert status == 200
        assert [tool["function"]["name"] for tool in up.seen[0]["tools"]] == ["maps.find", "maps.find", "x" * 65]
        status, body, _ = await at.chat(model="gpu", tools=tools)
        assert (status, body["error"]["param"]) == (400, "tools[0].function.name")


async def test_each_event_is_on_its_way_before_the_next_one_comes() -> None:
    gates = [asyncio.Event(), asyncio.Event(), asyncio.Event()]
    steps: list[Any] = [HEAD]
    for piece, gate in zip(PIECES, gates, strict=True):
        steps += [framed(piece), gate]
    steps += [framed(TAIL) + LAST]
    async with upstream(steps) as up, served(remote(up.url)) as at:
        body = ask(model="gpu", stream=True, stream_options={"include_usage": True})
        async with at.session.post(f"{at.url}/v1/chat/completions", json=body) as response:
            for piece, gate in zip(PIECES, gates, strict=True):
                assert await response.content.readexactly(len(piece)) == piece
                gate.set()
            said = events(await response.text())
        assert [e if e == "[DONE]" else e["choices"] == [] for e in said] == [False, True, "[DONE]"]
        assert said[1]["usage"] == USAGE


async def test_an_event_larger_than_what_may_wait_for_a_client_reaches_it_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "MAX_BUFFERED", 1000)
    large = event({"content": "x" * 50_000})
    async with upstream([HEAD + framed(large) + framed(TAIL) + LAST]) as up, served(remote(up.url)) as at:
        text = await at.stream("/v1/chat/completions", ask(model="gpu", stream=True))
        assert text.encode().startswith(large)
        assert events(text)[-1] == "[DONE]"


async def test_a_whole_answer_and_its_usage_are_counted() -> None:
    async with upstream(whole(chat({"content": "hello"}))) as up, served(remote(up.url)) as at:
        _, body, _ = await at.chat(model="gpu")
        assert body["choices"][0]["message"]["content"] == "hello"
        assert body["usage"] == USAGE
        _, seen = await at.get("/aios/v1/processes")
        assert (seen["processes"][0]["tokens_in"], seen["processes"][0]["tokens_out"]) == (7, 3)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_an_upstreams_usage_is_told_as_the_server_wrote_it(is_streamed: bool) -> None:
    odd = b'{"prompt_tokens":7, "completion_tokens": 3,"cost":1.50e-2,"details":{"audio":null}}'
    written = json.dumps(chat({"content": "hello"}) | {"usage": "here"}).encode().replace(b'"here"', odd)
    last = event(None, usage="here").replace(b'"here"', odd)
    streamed = [HEAD + framed(b"".join(PIECES)) + framed(event({}, "stop") + last + DONE) + LAST]
    async with upstream(streamed if is_streamed else whole(written)) as up, served(remote(up.url)) as at:
        options = {"stream": True, "stream_options": {"include_usage": True}} if is_streamed else {}
        asked = at.session.post(f"{at.url}/v1/chat/completions", json=ask(model="gpu", **options))
        async with asked as response:
            assert (await response.read()).count(odd) == 1 + is_streamed  # with the finish, and in an event of its own
        _, seen = await at.get("/aios/v1/processes")
        assert (seen["processes"][0]["tokens_in"], seen["processes"][0]["tokens_out"]) == (7, 3)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_client_that_leaves_closes_the_upstreams_connection(is_streamed: bool) -> None:
    never = asyncio.Event()
    steps: list[Any] = [HEAD + framed(PIECES[0]), never] if is_streamed else [never]
    async with upstream(steps) as up, served(remote(up.url)) as at:
        asking = asyncio.create_task(at.chat(model="gpu", stream=is_streamed))
        await up.asked.wait()
        asking.cancel()
        async with asyncio.timeout(10):
            await up.left.wait()


async def test_a_key_that_the_upstream_refuses_is_not_the_agents_fault() -> None:
    async with upstream(whole({"error": {"message": "no"}}, "401 No")) as up, served(remote(up.url)) as at:
        status, body, response = await at.chat(model="gpu")
        assert (status, body["error"]["code"], body["error"]["fault"]) == (502, "upstream_refused", "upstream")
        assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("is_ours", [False, True])
async def test_an_answer_that_two_servers_gave_is_one_stream_for_its_client(is_ours: bool) -> None:
    """One id, one role, one end, though the first server died, and the second may be no server at all."""
    async with serving(Server("vllm", dies_after=7)) as dying, serving(Server("llama")) as other:
        far = OpenAICore(CoreSection(name="a", kind="openai", base_url=dying.url, model="tale", server="vllm"))
        near = OpenAICore(CoreSection(name="b", kind="openai", base_url=other.url, model="tale", server="llama"))
        cores = [far, ScriptedCore("".join(STORY), name="b", model="tale") if is_ours else near]
        async with served(cores) as at:
            text = await at.stream("/v1/chat/completions", ask(model="tale", stream=True))
    *said, end = events(text)
    choices = [each["choices"][0] for each in said if each["choices"]]
    assert end == "[DONE]"
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "".join(STORY)
    assert ({each["id"] for each in said}, {each["model"] for each in said}) == ({"chat-1"}, {"tale"})
    assert [choice["delta"].get("role") for choice in choices].count("assistant") == 1
    assert [choice["finish_reason"] for choice in choices].count("stop") == 1
    assert choices[-1]["finish_reason"] == "stop"


async def test_a_call_may_stand_back_behind_its_process_and_not_before_it() -> None:
    async with serving(Server("vllm")) as up, served(remote(up.url, server="vllm", priority="low_first")) as at:
        for priority in ("7", "-5", "900"):
            status, _, _ = await at.post("/v1/chat/completions", ask(model="gpu"), **{"X-AIOS-Priority": priority})
            assert status == 200
        assert [body["priority"] for body in up.seen] == [7, 0, 19]
        status, body, _ = await at.post("/v1/chat/completions", ask(model="gpu"), **{"X-AIOS-Priority": "high"})
        assert (status, body["error"]["param"]) == (400, "X-AIOS-Priority")

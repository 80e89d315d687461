"""A core that is Anthropic's Messages API: what is asked, what comes back, and whose fault a failure is."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from messages_server import USAGE, begun, block, ended, failed, sse, streamed, text, thinking, tool
from upstream import HEAD, LAST, Step, Upstream, framed, upstream, whole

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError, BadRequest, ContextLengthExceeded, TimedOut, TooLarge, UpstreamFault
from aios.abi.messages import Chunk, FunctionCall, FunctionSpec, Generation, Message, ToolCall, ToolSpec
from aios.kernel.config import CoreSection
from aios.kernel.llm.base import NotBegun, Request
from aios.kernel.llm.remote import hearing
from aios.kernel.llm.remote.anthropic import MAX_TOKENS, AnthropicCore
from aios.kernel.llm.remote.anthropic_thoughts import Thoughts

pytestmark = pytest.mark.anyio

USER = Message(role="user", content="hi")
HELLO = streamed(begun(), text(0, "hello"), ended())
FIND = ToolSpec(FunctionSpec("find", "Finds.", {"type": "object", "properties": {"q": {"type": "string"}}}))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


def core_at(url: str, **section: Any) -> AnthropicCore:
    return AnthropicCore(
        CoreSection(name="claude", kind="anthropic", base_url=url.removesuffix("/v1"), model="claude-x", **section)
    )


def args(*messages: Message, **more: Any) -> LLMGenerate:
    return LLMGenerate(messages=list(messages) or [USER], seed=1, **more)


async def run(core: AnthropicCore, given: LLMGenerate, *, is_streamed: bool = False) -> tuple[Generation, list[Chunk]]:
    core.check(given)
    chunks: list[Chunk] = []
    try:
        return await core.run(Request("c1", given, chunks.append, None, is_streamed), 4), chunks
    finally:
        assert core.statistics()["active"] == 0


async def ask(
    at: Upstream, given: LLMGenerate | None = None, *, is_streamed: bool = False, **section: Any
) -> tuple[Generation, list[Chunk]]:
    core = core_at(at.url, **section)
    await core.open()
    try:
        return await run(core, given or args(), is_streamed=is_streamed)
    except NotBegun as refusal:
        raise refusal.error from None
    finally:
        await core.close()


async def asked(given: LLMGenerate, **section: Any) -> dict[str, Any]:
    """The body that `given` becomes."""
    async with upstream(HELLO) as at:
        await ask(at, given, **section)
        return at.seen[0]


def called(*calls: tuple[str, str, str], **more: Any) -> Message:
    return Message("assistant", tool_calls=[ToolCall(i, FunctionCall(n, a)) for i, n, a in calls], **more)


# ── what is asked ──


async def test_a_request_is_posted_with_key_version_and_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_KEY", "sk-ant-1")
    async with upstream(HELLO) as at:
        await ask(at, api_key_env="CLAUDE_KEY")
        head = at.heads[0].lower()
        assert head.startswith("post /v1/messages http/1.1")
        assert "x-api-key: sk-ant-1" in head
        assert "anthropic-version: 2023-06-01" in head
        assert at.seen[0] == {
            "model": "claude-x",
            "max_tokens": MAX_TOKENS,
            "stream": True,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        }


async def test_the_bound_of_the_request_goes_before_that_of_the_core() -> None:
    assert (await asked(args(), max_tokens=100))["max_tokens"] == 100
    assert (await asked(args(max_tokens=7), max_tokens=100))["max_tokens"] == 7


async def test_system_messages_are_said_once_before_the_conversation() -> None:
    messages = [Message("system", "Be brief."), USER, Message("developer", [{"type": "text", "text": "Be kind."}])]
    body = await asked(args(*messages))
    assert body["system"] == "Be brief.\n\nBe kind."
    assert [turn["role"] for turn in body["messages"]] == ["user"]


async def test_sampling_and_stops_are_called_as_the_api_calls_them() -> None:
    body = await asked(args(temperature=0.5, top_p=0.9, top_k=3, stop="END", min_tokens=0, logprobs=False))
    assert (body["temperature"], body["top_p"], body["top_k"], body["stop_sequences"]) == (0.5, 0.9, 3, ["END"])
    assert not body.keys() & {"seed", "stop", "logprobs", "min_tokens"}


async def test_results_of_tools_stand_together_in_the_turn_behind_their_calls() -> None:
    calls = called(("a", "find", '{"q": "x"}'), ("b", "find", ""), content="I look.")
    results = [
        Message("tool", "one", tool_call_id="a"),
        Message("tool", [{"type": "text", "text": "two"}], tool_call_id="b"),
    ]
    turns = (await asked(args(USER, calls, *results, Message("user", "and?"), tools=[FIND])))["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[1]["content"] == [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "a", "name": "find", "input": {"q": "x"}},
        {"type": "tool_use", "id": "b", "name": "find", "input": {}},
    ]
    assert [b["type"] for b in turns[2]["content"]] == ["tool_result", "tool_result", "text"]
    assert turns[2]["content"][1] == {
        "type": "tool_result",
        "tool_use_id": "b",
        "content": [{"type": "text", "text": "two"}],
    }


async def test_arguments_that_a_model_left_unfinished_still_reach_the_api_as_an_object() -> None:
    turns = (await asked(args(USER, called(("a", "find", '{"q": "x')), Message("tool", "?", tool_call_id="a"))))[
        "messages"
    ]
    assert turns[1]["content"][0]["input"] == {"INVALID_JSON": '{"q": "x'}


async def test_images_and_documents_go_up_as_bytes_or_as_addresses() -> None:
    parts = [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,BBBB"}},
        {"type": "text", "text": ""},
    ]
    blocks = (await asked(args(Message("user", parts))))["messages"][0]["content"]
    assert blocks == [
        {"type": "text", "text": "what?"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "BBBB"},
            "title": "a.pdf",
        },
    ]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (Message("user", [{"type": "input_audio"}]), "messages[0].content[0]"),
        (
            Message("user", [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]),
            "messages[0].content[0]",
        ),
        (Message("user", [{"type": "image_url", "image_url": {"url": "data:image/png,x"}}]), "messages[0].content[0]"),
        (Message("tool", "x"), "messages[0].tool_call_id"),
        (Message("function", "x", name="find"), "messages[0].role"),
    ],
)
async def test_what_cannot_be_said_in_a_message_is_refused_by_its_place(message: Message, param: str) -> None:
    async with upstream(HELLO) as at:
        with pytest.raises(BadRequest) as caught:
            await ask(at, args(message))
        assert caught.value.param == param
        assert at.seen == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": {"type": "function", "function": {"name": "find"}}}, {"type": "tool", "name": "find"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"parallel_tool_calls": False, "tool_choice": "required"},
            {"type": "any", "disable_parallel_tool_use": True},
        ),
        ({"parallel_tool_calls": False, "tool_choice": "none"}, {"type": "none"}),
    ],
)
async def test_tools_and_the_choice_among_them(given: dict[str, Any], expected: dict[str, Any] | None) -> None:
    strict = ToolSpec(FunctionSpec("bare", strict=True))
    body = await asked(args(tools=[FIND, strict], **given))
    assert body["tools"] == [
        {"name": "find", "description": "Finds.", "input_schema": FIND.function.parameters},
        {"name": "bare", "input_schema": {"type": "object", "properties": {}}, "strict": True},
    ]
    assert body.get("tool_choice") == expected


async def test_tools_of_the_past_are_named_but_not_to_be_used() -> None:
    body = await asked(args(USER, called(("a", "find", "{}")), Message("tool", "x", tool_call_id="a")))
    assert [tool["name"] for tool in body["tools"]] == ["find"]
    assert body["tool_choice"] == {"type": "none"}


async def test_a_schema_and_an_effort_become_the_form_of_the_output() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    given = args(
        response_format={"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}},
        extra={"reasoning_effort": "minimal"},
    )
    assert (await asked(given))["output_config"] == {
        "format": {"type": "json_schema", "schema": schema},
        "effort": "low",
    }


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": "x"}}, "response_format.json_schema.schema"),
        ({"extra": {"output_config": "x"}}, "output_config"),
        ({"extra": {"reasoning_effort": ["low"]}}, "reasoning_effort"),
    ],
)
async def test_a_parameter_of_a_wrong_kind_is_the_callers_fault(given: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        await asked(args(**given))
    assert caught.value.param == param


async def test_native_parameters_go_up_as_they_came_and_openais_hints_are_translated() -> None:
    thought = {"type": "adaptive"}
    extra = {"thinking": thought, "user": "u1", "service_tier": "default", "store": True, "prompt_cache_key": "k"}
    body = await asked(args(extra=extra))
    assert body["thinking"] == thought
    assert body["metadata"] == {"user_id": "u1"}
    assert body["service_tier"] == "standard_only"
    assert not body.keys() & {"user", "store", "prompt_cache_key"}


async def test_a_conversation_under_way_is_cached_unless_it_shall_be_apart() -> None:
    talk = [USER, Message("assistant", "hello"), Message("user", "more")]
    last = (await asked(args(*talk)))["messages"][-1]["content"][-1]
    assert last == {"type": "text", "text": "more", "cache_control": {"type": "ephemeral"}}
    assert "cache_control" not in json.dumps(await asked(args(*talk, cache_salt="s")))
    body = await asked(args(*talk, extra={"cache_control": {"type": "ephemeral", "ttl": "1h"}}))
    assert json.dumps(body).count("cache_control") == 1


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("logprobs", {"logprobs": True}),
        ("top_logprobs", {"top_logprobs": 2}),
        ("logit_bias", {"logit_bias": {"5": 1.0}}),
        ("presence_penalty", {"presence_penalty": 0.5}),
        ("frequency_penalty", {"frequency_penalty": -0.5}),
        ("min_tokens", {"min_tokens": 5}),
        ("beam_width", {"beam_width": 3}),
        ("temperature", {"temperature": 1.5}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("functions", {"extra": {"functions": [{}]}}),
        ("modalities", {"extra": {"modalities": ["text", "audio"]}}),
    ],
)
async def test_what_the_api_does_not_have_is_refused_unless_the_core_ignores_it(
    name: str, given: dict[str, Any]
) -> None:
    with pytest.raises(BadRequest, match=f'ignore = \\["{name}"\\]') as caught:
        core_at("http://127.0.0.1:1").check(args(**given))
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")
    body = await asked(args(**given), ignore=[name])
    assert not body.keys() & {name, "output_config"}


# ── what comes back ──


async def test_a_stream_is_added_up_and_handed_on_piece_by_piece() -> None:
    async with upstream(streamed(begun(), *(text(0, "hel", "lo"),), ended())) as at:
        done, chunks = await ask(at, is_streamed=True)
    assert (done.message.content, done.finish_reason, done.model, done.core) == (
        "hello",
        "stop",
        "claude-x-1",
        "claude",
    )
    assert "".join(chunk.text for chunk in chunks) == "hello"
    assert sum(chunk.tokens for chunk in chunks) == 2
    assert done.seed is None  # the API has none, so it is not said that one was used


async def test_what_the_cache_gave_and_took_counts_as_prompt() -> None:
    async with upstream(HELLO) as at:
        done, _ = await ask(at)
    usage = done.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (127, 9, 136)
    details = usage.prompt_tokens_details
    assert (details.cached_tokens, details.cache_write_tokens) == (100, 20)


async def test_thought_tokens_are_told_as_openais_clients_know_them() -> None:
    tail = sse(
        "message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens_details": {"thinking_tokens": 4}}
    )
    async with upstream(streamed(begun(), text(0, "x"), tail, sse("message_stop"))) as at:
        done, _ = await ask(at)
    assert json.loads(done.raw_usage or "")["completion_tokens_details"] == {"reasoning_tokens": 4}


async def test_tool_calls_stream_as_name_and_pieces_of_arguments() -> None:
    events = [begun(), text(0, "I look."), tool(1, "find", '{"q":', ' "x"}', id="t1"), tool(2, "find", id="t2")]
    async with upstream(streamed(*events, ended("tool_use"))) as at:
        done, chunks = await ask(at, args(tools=[FIND]), is_streamed=True)
    assert done.finish_reason == "tool_calls"
    assert [(c.id, c.function.name, c.function.arguments) for c in done.message.tool_calls or ()] == [
        ("t1", "find", '{"q": "x"}'),
        ("t2", "find", "{}"),
    ]
    deltas = [delta for chunk in chunks for delta in chunk.tool_calls or ()]
    assert [(d.index, d.id) for d in deltas] == [(0, "t1"), (0, None), (0, None), (1, "t2")]
    assert "".join((d.function and d.function.arguments) or "" for d in deltas if d.index == 0) == '{"q": "x"}'


async def test_a_tools_input_may_come_whole_where_its_block_begins() -> None:
    first = {"type": "tool_use", "id": "t1", "name": "find", "input": {"q": "x"}}
    async with upstream(streamed(begun(), block(0, first), ended("tool_use"))) as at:
        done, chunks = await ask(at, is_streamed=True)
    (call,) = done.message.tool_calls or ()
    assert json.loads(call.function.arguments) == {"q": "x"}
    assert [d.function.arguments for c in chunks for d in c.tool_calls or () if d.function] == ["", '{"q":"x"}']


async def test_thinking_comes_as_reasoning() -> None:
    async with upstream(streamed(begun(), thinking(0, "hm", "sig"), text(1, "yes"), ended())) as at:
        done, chunks = await ask(at, is_streamed=True)
    assert (done.message.reasoning_content, done.message.content) == ("hm", "yes")
    assert "".join(chunk.reasoning for chunk in chunks) == "hm"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "length"),
        ("refusal", "content_filter"),
        ("something_new", "stop"),
    ],
)
async def test_why_the_model_stopped(reason: str, finish: str) -> None:
    async with upstream(streamed(begun(), text(0, "x"), ended(reason))) as at:
        done, _ = await ask(at)
    assert done.finish_reason == finish


async def test_a_refusal_says_why() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "too risky"}
    async with upstream(streamed(begun(), ended("refusal", stop_details=details))) as at:
        done, _ = await ask(at)
    assert (done.message.refusal, done.message.content) == ("too risky", "")


async def test_a_server_that_does_not_stream_is_understood() -> None:
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "hello"},
        {"type": "tool_use", "id": "t", "name": "find", "input": {"q": 1}},
    ]
    message = {"type": "message", "model": "m", "content": content, "stop_reason": "tool_use", "usage": USAGE}
    async with upstream(whole(message)) as at:
        done, chunks = await ask(at, is_streamed=True)
    assert (done.message.content, done.message.reasoning_content) == ("hello", "hm")
    assert [c.function.arguments for c in done.message.tool_calls or ()] == ['{"q":1}']
    assert [(c.text, c.reasoning) for c in chunks] == [("hello", "hm")]


async def test_half_characters_pings_comments_and_unknown_events_do_no_harm() -> None:
    data = begun() + b": comment\n\n" + text(0, "größer 🦊") + sse("new_kind", x=1) + ended()
    data = data.replace(b"\n", b"\r\n")
    steps: list[Step] = [HEAD, *(framed(data[n : n + 1]) for n in range(len(data))), b"0\r\n\r\n"]
    async with upstream(steps) as at:
        done, _ = await ask(at, is_streamed=True)
    assert done.message.content == "größer 🦊"


# ── thinking that goes back ──


async def test_signed_thinking_goes_back_with_the_results_of_tools() -> None:
    events = [begun(), thinking(0, "hm", "sig"), text(1, "I look."), tool(2, "find", '{"q": "x"}', id="t1")]
    events.append(block(3, {"type": "redacted_thinking", "data": "secret"}))
    async with upstream(streamed(*events, ended("tool_use")), HELLO) as at:
        core = core_at(at.url)
        await core.open()
        first, _ = await run(core, args(tools=[FIND]))
        # As a program gives it back that was written for OpenAI's API: no signature, arguments spelled anew.
        (call,) = first.message.tool_calls or ()
        echo = called((call.id, "find", '{"q":"x"}'), content=first.message.content)
        await run(core, args(USER, echo, Message("tool", "found", tool_call_id=call.id), tools=[FIND]))
        await core.close()
    assert at.seen[1]["messages"][1] == {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "find", "input": {"q": "x"}},
            {"type": "redacted_thinking", "data": "secret"},
        ],
    }


async def test_a_turn_that_was_changed_goes_back_as_it_is_now() -> None:
    events = [begun(), thinking(0, "hm", "sig"), tool(1, "find", '{"q": "x"}', id="t1")]
    async with upstream(streamed(*events, ended("tool_use")), HELLO) as at:
        core = core_at(at.url)
        await core.open()
        await run(core, args(tools=[FIND]))
        changed = called(("t1", "find", '{"q": "y"}'))
        await run(core, args(USER, changed, Message("tool", "found", tool_call_id="t1"), tools=[FIND]))
        await core.close()
    assert [b["type"] for b in at.seen[1]["messages"][1]["content"]] == ["tool_use"]


async def test_turns_are_kept_within_a_bound_the_oldest_go_first() -> None:
    events = [begun(), thinking(0, "hm" * 100, "sig"), tool(1, "find", "{}", id="t1")]
    async with upstream(streamed(*events, ended("tool_use"))) as at:
        core = core_at(at.url)
        core._thoughts = Thoughts(most=500)
        await core.open()
        done, _ = await run(core, args(tools=[FIND]))
        assert core._thoughts.find(done.message) is not None
        at.answers = [streamed(begun(), thinking(0, "hm" * 100, "s"), tool(1, "f", id="t2"), ended("tool_use"))]
        await run(core, args(tools=[FIND]))
        assert core._thoughts.find(done.message) is None
        await core.close()


# ── what goes wrong ──

LONG = "prompt is too long: 210000 tokens > 200000 maximum"
POOR = "Your credit balance is too low to access the Anthropic API."


@pytest.mark.parametrize(
    ("status", "kind", "said", "error", "code", "param"),
    [
        (400, "invalid_request_error", "temperature: no longer taken", BadRequest, "bad_request", "temperature"),
        (400, "invalid_request_error", "messages.0.content: bad", BadRequest, "bad_request", "messages.0.content"),
        (400, "invalid_request_error", LONG, ContextLengthExceeded, "context_length_exceeded", "messages"),
        (400, "invalid_request_error", POOR, UpstreamFault, "upstream_quota", None),
        (401, "authentication_error", "invalid x-api-key", UpstreamFault, "upstream_refused", None),
        (402, "billing_error", "pay", UpstreamFault, "upstream_quota", None),
        (403, "permission_error", "not yours", UpstreamFault, "upstream_refused", None),
        (404, "not_found_error", "model: claude-x", UpstreamFault, "upstream_rejected", None),
        (413, "request_too_large", "too large", TooLarge, "too_large", None),
        (429, "rate_limit_error", "slow down", UpstreamFault, "upstream_busy", None),
        (500, "api_error", "oh", UpstreamFault, "upstream_failed", None),
        (504, "timeout_error", "late", TimedOut, "upstream_timeout", None),
        (529, "overloaded_error", "Overloaded", UpstreamFault, "upstream_busy", None),
    ],
)
async def test_a_refusal_says_whose_fault_it_is(
    status: int, kind: str, said: str, error: type[AiosError], code: str, param: str | None
) -> None:
    async with upstream(whole(failed(kind, said), f"{status} X", retry_after="7")) as at:
        with pytest.raises(error) as caught:
            await ask(at, is_streamed=True)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert said in caught.value.message or code == "upstream_refused"
    if code == "upstream_busy":
        assert caught.value.retry_after == 7


async def test_an_overload_before_the_first_word_may_be_tried_again_and_after_it_not() -> None:
    overload = sse("error", error={"type": "overloaded_error", "message": "Overloaded"})
    spoken = asyncio.Event()
    late: list[Step] = [HEAD + framed(begun() + text(0, "he")), spoken, framed(overload)]
    async with upstream(streamed(begun(), overload), late) as at:
        core = core_at(at.url)
        await core.open()
        for kind in (NotBegun, UpstreamFault):
            with pytest.raises(kind, match="Overloaded"):
                await core.run(Request("c1", args(), lambda chunk: spoken.set(), None, True), 4)
        await core.close()
    assert spoken.is_set()


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([begun(), text(0, "he")], "upstream_cut"),
        ([begun(), b"data: {broken\n\n"], "upstream_garbage"),
        ([begun(), sse("content_block_delta", index=3, delta={"type": "text_delta", "text": "x"})], "upstream_garbage"),
        ([begun(), sse("error", error="what?")], "upstream_failed"),
        ([begun(), sse("message_delta", usage={"output_tokens": -1_000_000}), ended()], "upstream_garbage"),
        ([begun(), sse("message_delta", usage={"output_tokens": 1 << 63}), ended()], "upstream_garbage"),
    ],
)
async def test_a_stream_that_breaks_is_the_servers_fault(events: list[bytes], code: str) -> None:
    async with upstream(streamed(*events)) as at:
        with pytest.raises(UpstreamFault) as caught:
            await ask(at, is_streamed=True)
    assert caught.value.code == code


async def test_a_stream_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "MAX_ANSWER", 2000)
    async with upstream([HEAD + framed(begun()), *[framed(text(0, "x" * 300))] * 20, asyncio.Event()]) as at:
        with pytest.raises(UpstreamFault, match="has no end"):
            await ask(at)


async def test_what_comes_after_the_end_of_a_message_is_not_part_of_it() -> None:
    async with upstream([HEAD + framed(begun() + text(0, "hello") + ended() + text(0, "more")) + LAST]) as at:
        generation, _ = await ask(at)
    assert generation.message.content == "hello"


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[]", b"\xff"])
async def test_a_whole_answer_that_is_no_message_is_garbage(body: bytes) -> None:
    async with upstream(whole(body)) as at:
        with pytest.raises(UpstreamFault) as caught:
            await ask(at)
    assert caught.value.code == "upstream_garbage"


async def test_a_cancelled_call_hangs_up() -> None:
    async with upstream([HEAD + framed(begun()), asyncio.Event()]) as at:
        core = core_at(at.url)
        await core.open()
        task = asyncio.create_task(run(core, args(), is_streamed=True))
        await at.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await at.left.wait()
        await core.close()

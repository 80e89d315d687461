"""What we send to Anthropic, and what our scripted server answers, against the types of Anthropic's own client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from messages_server import begun, block, ended, text, thinking, tool
from pydantic import TypeAdapter

from aios.abi.calls import LLMGenerate
from aios.abi.messages import FunctionCall, FunctionSpec, Message, ToolCall, ToolSpec
from aios.kernel.llm.remote.anthropic_request import body_of

types = pytest.importorskip("anthropic.types")

TALK = [
    Message("system", "Be brief."),
    Message(
        "user",
        [
            {"type": "text", "text": "x?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,BBBB"}},
        ],
    ),
    Message("assistant", "I look.", tool_calls=[ToolCall("a", FunctionCall("find", '{"q":1}'))]),
    Message("tool", "r", tool_call_id="a"),
]
MORE: dict[str, Any] = {
    "tools": [ToolSpec(FunctionSpec("find", "Finds.", {"type": "object"}, strict=True))],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "stop": ["END"],
    "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
    "extra": {"user": "u", "reasoning_effort": "high", "service_tier": "auto", "thinking": {"type": "adaptive"}},
}
KEPT = [
    {"type": "thinking", "thinking": "hm", "signature": "s"},
    {"type": "redacted_thinking", "data": "d"},
    {"type": "tool_use", "id": "a", "name": "find", "input": {"q": 1}},
]


def lost(given: Any, read: Any, place: str = "") -> list[str]:
    """Places in `given` that its reader has no name for."""
    if isinstance(given, dict):
        unknown = [f"{place}.{name}" for name in given.keys() - dict(read).keys()]
        return unknown + [one for name in given.keys() & dict(read) for one in lost(given[name], read[name], name)]
    if isinstance(given, list) and isinstance(read, Iterable):
        return [one for n, (a, b) in enumerate(zip(given, read, strict=True)) for one in lost(a, b, f"{place}[{n}]")]
    return []


@pytest.mark.parametrize("kept", [None, KEPT])
def test_a_request_is_one_that_anthropics_client_could_have_sent(kept: list[dict[str, Any]] | None) -> None:
    from anthropic.types.message_create_params import MessageCreateParamsStreaming

    args = LLMGenerate(messages=TALK, **MORE)
    body = body_of(args, "m", 100, (), lambda message: kept if message.role == "assistant" else None)
    assert lost(body, TypeAdapter(MessageCreateParamsStreaming).validate_python(body)) == []


def test_the_scripted_server_says_what_anthropics_client_can_read() -> None:
    read = TypeAdapter(types.RawMessageStreamEvent)
    refusal = {"type": "refusal", "category": "cyber", "explanation": "x"}
    events = begun() + text(0, "a") + thinking(1, "hm", "s") + tool(2, "find", "{}")
    events += block(3, {"type": "redacted_thinking", "data": "x"}) + ended("refusal", stop_details=refusal)
    for event in events.split(b"\n\n"):
        data = event.partition(b"data: ")[2]
        if data and b"ping" not in data:
            read.validate_json(data)

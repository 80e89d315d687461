"""Streams as their readers hear them: what brings an answer on, and what servers may do that is no fault."""

from __future__ import annotations

import json
from typing import Any

import pytest
from messages_server import begun, block, ended, sse, text
from upstream import DONE, USAGE, event

from aios.abi.messages import Chunk
from aios.kernel.llm.remote.anthropic_stream import Events as MessageEvents
from aios.kernel.llm.remote.connection import Heard
from aios.kernel.llm.remote.continuing import Tokened
from aios.kernel.llm.remote.openai_stream import Events as ChatEvents

NOTHING, SOMETHING, ALL = Heard.NOTHING, Heard.SOMETHING, Heard.ALL
CALL = {"index": 0, "id": "a", "function": {"name": "f"}}

CHAT: list[tuple[bytes, Heard]] = [
    (b": keep-alive\n\n", NOTHING),
    (b"\n\n", NOTHING),
    (event({"role": "assistant", "content": ""}), NOTHING),
    (event({}), NOTHING),
    (event({"content": None, "tool_calls": [], "refusal": None}), NOTHING),
    (event(None, usage=USAGE), NOTHING),
    (event({"content": "x"})[:20], NOTHING),
    (event({"content": "x"}), SOMETHING),
    (b": keep-alive\n\n" + event({"content": "x"}), SOMETHING),
    (event({"reasoning": "hm"}), SOMETHING),
    (event({"refusal": "no"}), SOMETHING),
    (event({"tool_calls": [CALL]}), SOMETHING),
    (event({"audio": {"data": "AAAA"}}), SOMETHING),
    (event({}, "stop"), SOMETHING),
    (event({}, "stop") + DONE, ALL),
]


@pytest.mark.parametrize(("data", "heard"), CHAT)
def test_what_brings_a_chat_on(data: bytes, heard: Heard) -> None:
    assert ChatEvents("far", lambda chunk: None).feed(data) is heard


def test_an_end_that_is_said_again_brings_a_chat_no_further() -> None:
    events = ChatEvents("far", lambda chunk: None)
    assert [events.feed(event({}, "stop")) for _ in range(3)] == [SOMETHING, NOTHING, NOTHING]


def told(text: str, ids: Any, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "token_ids": ids}
    return b"data: " + json.dumps({"id": "x", "model": "m", "choices": [choice], **more}).encode() + b"\n\n"


@pytest.mark.parametrize("ids", [[3], None, "3", ["3"], {"3": 3}])
def test_tokens_are_kept_only_while_all_of_them_are_told(ids: Any) -> None:
    events = Tokened("far", lambda chunk: None)
    for piece in (told("a", [2], prompt_token_ids=[1]), told("b", ids), told("c", [4])):
        assert events.feed(piece) is SOMETHING
    said = events.answer.said()
    assert said is not None
    assert said.text == "abc"
    assert said.ids == ([2, 3, 4] if ids == [3] else None)


def delta(kind: str | None, **fields: Any) -> bytes:
    return sse("content_block_delta", index=0, delta={"type": kind, **fields} if kind else fields)


OPEN = sse("content_block_start", index=0, content_block={"type": "text", "text": ""})
MESSAGES: list[tuple[bytes, Heard]] = [
    (sse("ping"), NOTHING),
    (b": keep-alive\n\n", NOTHING),
    (sse("something_new", x=1), NOTHING),
    (delta("text_delta", text=""), NOTHING),
    (sse("content_block_stop", index=0), NOTHING),
    (sse("message_delta", delta={}, usage={"output_tokens": 3}), NOTHING),
    (delta("text_delta", text="x")[:20], NOTHING),
    (delta("text_delta", text="x"), SOMETHING),
    (sse("ping") + delta("text_delta", text="x"), SOMETHING),
    (delta("citations_delta", citation={}), SOMETHING),
    (sse("content_block_start", index=1, content_block={"type": "tool_use", "name": "f"}), SOMETHING),
    (sse("message_delta", delta={"stop_reason": "end_turn"}), SOMETHING),
    (ended(), ALL),
]


@pytest.mark.parametrize(("data", "heard"), MESSAGES)
def test_what_brings_a_message_on(data: bytes, heard: Heard) -> None:
    events = MessageEvents("far", "its key", None)
    assert events.feed(begun()) is NOTHING
    assert events.feed(OPEN) is SOMETHING
    assert events.feed(data) is heard


def message(*events: bytes) -> tuple[Any, list[Chunk]]:
    """What the events add up to, and what a listener was told."""
    told: list[Chunk] = []
    reader = MessageEvents("far", "its key", told.append)
    for each in events:
        reader.feed(each)
    return reader.finish().generation("m", "far").message, told


def test_a_piece_is_read_where_its_server_names_no_type_and_after_the_end_of_its_block() -> None:
    late = sse("content_block_delta", index=0, delta={"text": "lo"})
    said, told = message(begun(), text(0, "hel"), late, ended())
    assert said.content == "hello"
    assert "".join(chunk.text for chunk in told) == "hello"


def test_a_tools_input_is_read_where_its_block_has_no_end() -> None:
    first = {"type": "tool_use", "id": "t", "name": "find", "input": {"q": "x"}}
    opened = sse("content_block_start", index=0, content_block=first)
    said, told = message(begun(), opened, ended("tool_use"))
    assert json.loads(said.tool_calls[0].function.arguments) == {"q": "x"}
    assert "".join(d.function.arguments for c in told for d in c.tool_calls or () if d.function) == '{"q":"x"}'


def test_a_block_of_a_kind_that_nobody_knows_is_neither_told_nor_part_of_the_answer() -> None:
    odd = block(0, {"type": "song", "text": "la"}, {"type": "text_delta", "text": "la"}, {"type": "note", "pitch": 3})
    said, told = message(begun(), odd, text(1, "hello"), ended())
    assert said.content == "hello"
    assert "".join(chunk.text for chunk in told) == "hello"

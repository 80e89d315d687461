"""Messages that do not fit: asked for by header or field, told in the body, a header and a stream's end."""

from __future__ import annotations

from typing import Any

import pytest
from served import events, served
from test_remote import PIECES, TAIL, remote
from upstream import HEAD, LAST, framed, upstream, whole

from aios.testing import ScriptedCore

pytestmark = pytest.mark.anyio

MESSAGES = [
    {"role": "user", "content": "old " * 30},
    {"role": "assistant", "content": "older " * 30},
    {"role": "user", "content": "and now"},
]
TOLD = {"policy": "drop", "dropped_messages": 2, "dropped_tokens": 60}
HEADER = "drop; dropped_messages=2; dropped_tokens=60"


def question(**more: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": MESSAGES, **more}


def core() -> ScriptedCore:
    return ScriptedCore("hello you", context_length=40)


async def test_without_a_word_it_is_openais_error_with_its_code() -> None:
    async with served(core()) as at:
        status, body, _ = await at.post("/v1/chat/completions", question())
        assert (status, body["error"]["code"]) == (400, "context_length_exceeded")


async def test_a_header_or_a_field_of_the_body_asks_and_the_answer_and_its_head_tell() -> None:
    async with served(core()) as at:
        for body, headers in ((question(), {"x_aios_window": "drop"}), (question(window="drop"), {})):
            status, answer, response = await at.post("/v1/chat/completions", body, **headers)
            assert status == 200
            assert answer["aios"] == {"context": TOLD}
            assert response.headers["x-aios-context"] == HEADER
        status, answer, response = await at.chat("short", window="drop")
        assert "aios" not in answer
        assert "x-aios-context" not in response.headers


async def test_the_native_surface_tells_it_too() -> None:
    async with served(core()) as at:
        status, answer, response = await at.post("/aios/v1/calls/llm_generate", question(window="drop"))
        assert (status, answer["context"]) == (200, TOLD)
        assert response.headers["x-aios-context"] == HEADER


async def test_an_unknown_word_in_the_header_is_refused_with_the_nearest_one() -> None:
    async with served(core()) as at:
        status, body, _ = await at.post("/v1/chat/completions", question(), x_aios_window="drops")
        assert (status, body["error"]["param"]) == (400, "X-AIOS-Window")
        assert "did you mean 'drop'" in body["error"]["message"]


async def test_a_stream_tells_it_in_its_head_and_on_the_finishing_event() -> None:
    async with served(core()) as at:
        body = question(stream=True)
        async with at.session.post(
            at.url + "/v1/chat/completions", json=body, headers={"x-aios-window": "drop"}
        ) as response:
            assert response.headers["x-aios-context"] == HEADER
            said = events(await response.text())
        assert said[-2]["choices"][0]["finish_reason"] == "stop"
        assert said[-2]["aios"] == {"context": TOLD}
        assert not any("aios" in event for event in said[:-2])


async def test_a_stream_that_passes_through_gets_an_event_of_ours_at_its_end() -> None:
    messages = [{"role": "user", "content": "x" * 3000}, *MESSAGES[1:]]
    async with (
        upstream([HEAD + framed(b"".join(PIECES)) + framed(TAIL) + LAST]) as up,
        served(remote(up.url, context_length=300)) as at,
    ):
        text = await at.stream(
            "/v1/chat/completions", question(model="gpu", messages=messages, stream=True, window="drop")
        )
        said = events(text)
        assert text.encode().startswith(b"".join(PIECES))
        assert said[-2]["aios"]["context"]["dropped_messages"] == 2
        assert said[-2]["aios"]["context"]["is_estimate"]
        assert said[-1] == "[DONE]"
        assert [message["content"] for message in up.seen[0]["messages"]] == ["and now"]
        assert "window" not in up.seen[0]


async def test_a_servers_own_word_for_too_long_comes_back_in_our_shape() -> None:
    errors = [
        {"message": "This model's maximum context length is 10 tokens.", "code": None},
        {"message": "the request exceeds the available context size", "type": "exceed_context_size_error", "code": 400},
        {"message": "prompt is too long: 210000 tokens > 200000 maximum"},
        {"message": "The input token count (9) exceeds the maximum number of tokens allowed (8)."},
        {"message": "no", "code": "context_length_exceeded"},
    ]
    answers = [whole({"error": error}, "400 Bad Request") for error in errors]
    async with upstream(*answers) as up, served(remote(up.url)) as at:
        for error in errors:
            status, body, _ = await at.chat(model="gpu")
            assert (status, body["error"]["code"]) == (400, "context_length_exceeded"), error
            assert error["message"] in body["error"]["message"]

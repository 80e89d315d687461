"""What clients of a kernel that stops are told: whose fault it is, and whether to come back."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from served import ask, events, served

from aios.abi.messages import Chunk, Generation
from aios.kernel.llm.base import Request
from aios.testing import ScriptedCore

pytestmark = pytest.mark.anyio


def held() -> ScriptedCore:
    core = ScriptedCore("ok")
    core.gate.clear()
    return core


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/aios/v1/calls/llm_generate"])
async def test_an_answer_that_a_stop_cuts_short_before_it_began_is_a_503_that_says_when_to_return(
    path: str, is_streamed: bool
) -> None:
    core = held()
    async with served(core) as at:
        body = ask(stream=True) if is_streamed and path.startswith("/v1") else ask()
        query = "?stream=true" if is_streamed and not path.startswith("/v1") else ""
        asked = asyncio.create_task(at.post(path + query, body))
        await core.entered(1)
        await at.kernel.stop(0.0)
        status, answer, response = await asked
        error = answer["error"]
        assert (status, error["fault"], error["code"], error["type"]) == (503, "kernel", "cut_short", "server_error")
        assert response.headers["retry-after"] == "5"
        assert "x-should-retry" not in response.headers


class Endless(ScriptedCore):
    """Says one word and no more."""

    async def run(self, request: Request, quantum: int | None) -> Generation:
        request.emit(Chunk(text="so", tokens=1))
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/aios/v1/calls/llm_generate?stream=true"])
async def test_a_stream_that_a_stop_cuts_short_ends_with_an_error_of_the_kernels(path: str) -> None:
    body = ask(stream=True) if path.startswith("/v1") else ask()
    async with served(Endless()) as at, at.session.post(at.url + path, json=body) as response:
        assert response.status == 200
        while b'"so"' not in await response.content.readuntil(b"\n\n"):
            pass
        await at.kernel.stop(0.0)
        (last,) = events(await response.text())
        assert (last["error"]["fault"], last["error"]["code"]) == ("kernel", "cut_short")


async def test_the_official_client_takes_it_for_a_server_that_is_to_be_asked_again() -> None:
    core = held()
    async with served(core) as at:
        sdk = openai.AsyncOpenAI(base_url=f"{at.url}/v1", api_key=at.key, max_retries=0)
        asked = asyncio.create_task(
            sdk.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "hi"}])
        )
        await core.entered(1)
        await at.kernel.stop(0.0)
        with pytest.raises(openai.InternalServerError) as caught:
            await asked
        assert sdk._should_retry(caught.value.response)
        await sdk.close()


async def test_a_write_that_may_have_been_done_is_not_to_be_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as at:

        async def slow(call: Any) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(at.kernel.memory, "run", slow)
        runs = asyncio.create_task(at.moved("running"))
        await asyncio.sleep(0)
        asked = asyncio.create_task(at.post("/aios/v1/calls/mem_write", {"content": "x"}))
        await runs
        await at.kernel.stop(0.0)
        status, answer, response = await asked
        assert (status, answer["error"]["fault"], answer["error"]["code"]) == (500, "kernel", "outcome_unknown")
        assert response.headers["x-should-retry"] == "false"
        assert "retry-after" not in response.headers

"""A client that does not read costs no more than its bound."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aios.abi.calls import LLMGenerate
from aios.abi.messages import Message
from aios.gateway import stream as streams
from aios.gateway.exchange import Exchange
from aios.gateway.openai import ChatStream
from aios.gateway.stream import EventStream, stream_call
from aios.testing import ScriptedCore, booted, principal, until

pytestmark = pytest.mark.anyio


def exchange(sent: list[bytes], gate: asyncio.Event, left: asyncio.Event) -> Exchange:
    async def send(event: Any) -> None:
        await gate.wait()
        sent.append(event.get("body", b""))

    async def receive() -> Any:
        await left.wait()
        return {"type": "http.disconnect"}

    scope = {"path": "/", "headers": [], "query_string": b""}
    return Exchange(None, scope, receive, send, "req_1")


async def test_events_keep_their_order_and_what_comes_together_goes_together() -> None:
    sent: list[bytes] = []
    gate, left = asyncio.Event(), asyncio.Event()
    gate.set()
    stream = EventStream(exchange(sent, gate, left), lambda: None, lambda: b": quiet\n\n")
    for n in range(3):
        stream.put(b"%d\n\n" % n)
    stream.finish()
    await stream.run()
    assert sent == [b"", b"0\n\n1\n\n2\n\n"]


async def test_a_client_that_does_not_read_is_cut_off_at_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_BUFFERED", 100)
    sent: list[bytes] = []
    gone: list[bool] = []
    gate, left = asyncio.Event(), asyncio.Event()
    stream = EventStream(exchange(sent, gate, left), lambda: gone.append(True), lambda: b"")
    running = asyncio.create_task(stream.run())
    await asyncio.sleep(0)
    stream.put(b"first")
    await asyncio.sleep(0)  # it is on its way, and nobody takes it
    for _ in range(20):
        stream.put(b"x" * 10)
    assert gone == [True]
    assert (stream.is_cut, stream.is_late) == (True, True)
    gate.set()
    await running
    assert b"".join(sent) == b"first"


async def test_one_event_beyond_the_bound_is_no_sign_of_a_client_that_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "MAX_BUFFERED", 100)
    sent: list[bytes] = []
    gate, left = asyncio.Event(), asyncio.Event()
    gate.set()
    stream = EventStream(exchange(sent, gate, left), lambda: None, lambda: b"")
    running = asyncio.create_task(stream.run())
    await asyncio.sleep(0)
    stream.put(b"x" * 1000)
    stream.put(b"and what came with it")
    stream.finish()
    await running
    assert (stream.is_cut, len(b"".join(sent))) == (False, 1021)


async def test_a_client_that_reads_may_be_told_far_more_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_BUFFERED", 100)
    sent: list[bytes] = []
    gate, left = asyncio.Event(), asyncio.Event()
    gate.set()
    stream = EventStream(exchange(sent, gate, left), lambda: None, lambda: b"")
    running = asyncio.create_task(stream.run())
    for _ in range(50):
        stream.put(b"x" * 10)
        for _ in range(4):
            await asyncio.sleep(0)
    stream.finish()
    await running
    assert not stream.is_cut
    assert len(b"".join(sent)) == 500


async def test_a_client_that_leaves_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aios.gateway.exchange.WATCH_AFTER", 0.0)
    gone: list[bool] = []
    gate, left = asyncio.Event(), asyncio.Event()
    stream = EventStream(exchange([], gate, left), lambda: gone.append(True), lambda: b"")
    left.set()
    await stream.run()
    assert gone == [True]


async def test_a_client_that_read_too_slowly_is_told_so_when_it_reads_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_BUFFERED", 500)
    sent: list[bytes] = []
    gate, left = asyncio.Event(), asyncio.Event()
    core = ScriptedCore("word " * 100)
    async with booted(cores=[core]) as kernel:
        listener = exchange(sent, gate, left)
        listener.kernel, listener.principal = kernel, principal(kernel)
        args = LLMGenerate(messages=[Message("user", "hi")])
        running = asyncio.create_task(stream_call(listener, "llm_generate", args, ChatStream(kernel, False)))
        await until(lambda: any(row.state == "cancelled" for row in kernel.trace.rows))
        gate.set()
        await running
        said = b"".join(sent)
        assert said.startswith(b'data: {"id":"chatcmpl-')
        assert said.count(b'"error"') == 1
        assert b'"code":"client_too_slow"' in said.split(b"\n\n")[-2]
        assert b"[DONE]" not in said
        kernel.check_integrity()

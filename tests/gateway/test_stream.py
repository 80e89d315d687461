"""A client that does not read costs no more than its bound."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aios.gateway import stream as streams
from aios.gateway.exchange import Exchange
from aios.gateway.stream import EventStream

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
    for _ in range(20):
        stream.put(b"x" * 10)
    assert gone == [True]
    assert stream.is_cut
    gate.set()
    await running
    assert b"".join(sent) == b""


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

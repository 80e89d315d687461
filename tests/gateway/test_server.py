"""Sockets: what is bounded, what is said when it is reached, and how a server ends."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest
from served import served

from aios.abi.errors import BadRequest, Conflict
from aios.gateway import bind, server, url_of
from aios.kernel.config import Config, Server
from aios.testing import ScriptedCore

pytestmark = pytest.mark.anyio


def test_a_taken_port_is_one_clear_sentence() -> None:
    first = bind("127.0.0.1", 0)
    try:
        with pytest.raises(Conflict, match=r"port \d+ on 127\.0\.0\.1 is taken; stop what uses it"):
            bind("127.0.0.1", first.getsockname()[1])
    finally:
        first.close()


def test_an_address_that_is_not_ours_is_one_clear_sentence() -> None:
    with pytest.raises(BadRequest, match=r"cannot listen on 203\.0\.113\.1"):
        bind("203.0.113.1", 0)


def test_a_bound_socket_says_where_it_is_reached() -> None:
    sock = bind("0.0.0.0", 0)
    assert url_of(sock) == f"http://127.0.0.1:{sock.getsockname()[1]}"
    sock.close()


async def test_past_the_most_connections_a_client_is_turned_away() -> None:
    config = Config(server=Server(max_connections=3))
    async with served(config=config) as at:
        host, port = at.url.removeprefix("http://").split(":")
        held = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        await asyncio.sleep(0)
        reader, _ = await asyncio.open_connection(host, int(port))
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 1\r\n" in answer
        assert msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_connections"
        for _, writer in held:
            writer.close()


async def test_as_many_connections_as_are_allowed_are_served() -> None:
    async with served(config=Config(server=Server(max_connections=3))) as at:
        host, port = at.url.removeprefix("http://").split(":")
        held = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        for reader, writer in held:
            writer.write(f"GET /healthz HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        for _, writer in held:
            writer.close()


async def test_a_head_that_does_not_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.0)
    async with served() as at:
        host, port = at.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nx-slow: ")
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_a_body_that_does_not_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.0)
    async with served() as at:
        host, port = at.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {at.key}\r\n"
        writer.write(head.encode() + b"content-length: 10\r\n\r\n{")
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()
        assert (await at.chat())[0] == 200


async def test_a_client_that_never_reads_is_cut_off_and_its_call_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "UNREAD_SECONDS", 0.0)
    core = ScriptedCore("word " * 200_000, slots=1)
    async with served(core) as at:
        host, port = at.url.removeprefix("http://").split(":")
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(deaf, (host, int(port)))
            body = msgspec.json.encode({"messages": [{"role": "user", "content": "x"}], "stream": True})
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {at.key}\r\n"
            cancelled = asyncio.create_task(at.moved("cancelled"))
            await loop.sock_sendall(deaf, head.encode() + b"content-length: %d\r\n\r\n%b" % (len(body), body))
            row = await cancelled
        assert row.name == "llm_generate"
        assert (core.inside, at.kernel.statistics()["open_calls"]) == (set(), 0)


async def test_a_request_that_was_sent_before_the_stop_is_answered() -> None:
    core = ScriptedCore("ok")
    core.gate.clear()
    async with served(core) as at:
        asked = asyncio.create_task(at.chat())
        await core.entered(1)
        at.serving.cancel()
        await asyncio.sleep(0)
        core.gate.set()
        assert (await asked)[0] == 200

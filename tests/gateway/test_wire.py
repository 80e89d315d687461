"""What goes over the wire, byte for byte, and what a client's leaving means."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from served import Served, ask, events, served

from aios.abi.errors import UpstreamFault
from aios.abi.messages import Chunk, Generation
from aios.gateway import stream as streams
from aios.kernel.llm.base import Request
from aios.testing import ScriptedCore

pytestmark = pytest.mark.anyio


async def raw(at: Served, data: bytes) -> bytes:
    """Send bytes, read all that comes until the server closes."""
    host, port = at.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    return answer


def post(at: Served, body: bytes, *headers: str, path: str = "/v1/chat/completions", length: bool = True) -> bytes:
    host = at.url.removeprefix("http://")
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", f"authorization: Bearer {at.key}", *headers]
    if length:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


# ── the stream ──


async def test_the_role_comes_first_the_usage_with_the_finish_and_done_last() -> None:
    async with served() as at:
        said = events(await at.stream("/v1/chat/completions", ask(stream=True)))
        assert said[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert [e["choices"][0]["delta"].get("content") for e in said[1:4]] == ["hello", " big", " world"]
        assert said[4]["choices"][0]["finish_reason"] == "stop"
        assert said[4]["usage"]["completion_tokens"] == 3
        assert said[5:] == ["[DONE]"]
        assert len({e["id"] for e in said[:-1]}) == 1
        assert {e["model"] for e in said[:-1]} == {(await at.chat())[1]["model"]}


async def test_while_a_call_waits_comments_keep_the_connection_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PING", 0.02)
    core = ScriptedCore("ok", slots=1)
    core.gate.clear()
    async with served(core) as at:
        first = asyncio.create_task(at.chat())
        await core.entered(1)
        async with at.session.post(f"{at.url}/v1/chat/completions", json=ask(stream=True)) as response:
            comment = await response.content.readuntil(b"\n\n")
            while comment == b": new\n\n":  # on its way into the journal
                comment = await response.content.readuntil(b"\n\n")
            assert comment == b": queued\n\n"
            core.gate.set()
            assert (await response.text()).endswith("data: [DONE]\n\n")
        await first


class Broken(ScriptedCore):
    """Says one word and fails."""

    async def run(self, request: Request, quantum: int | None) -> Generation:
        request.emit(Chunk(text="so", tokens=1))
        await asyncio.sleep(0)
        raise UpstreamFault("core 'x': its server cut the stream short")


async def test_a_failure_in_mid_stream_is_one_error_event_and_no_done() -> None:
    async with served(Broken()) as at:
        said = events(await at.stream("/v1/chat/completions", ask(stream=True)))
        assert said[-1]["error"]["type"] == "upstream_error"
        assert "[DONE]" not in said
        native = await at.stream("/aios/v1/calls/llm_generate?stream=true", ask())
        assert native.splitlines()[-2].startswith('data: {"error":{"type":"upstream_error"')


async def test_a_failure_before_the_first_event_has_its_own_status() -> None:
    async with served(ScriptedCore(UpstreamFault("no"))) as at:
        status, body, _ = await at.chat(stream=True)
        assert (status, body["error"]["type"]) == (502, "upstream_error")


# ── leaving ──


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_client_that_leaves_has_cancelled(is_streamed: bool) -> None:
    core = ScriptedCore("ok")
    core.gate.clear()
    async with served(core) as at:
        host, port = at.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(post(at, msgspec.json.encode(ask(stream=is_streamed))))
        await core.entered(1)
        cancelled = asyncio.create_task(at.moved("cancelled"))
        await asyncio.sleep(0)
        writer.close()
        await cancelled
        assert not core.inside


async def test_with_an_idempotency_key_a_call_outlives_its_client() -> None:
    core = ScriptedCore("ok")
    core.gate.clear()
    async with served(core) as at:
        host, port = at.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(post(at, msgspec.json.encode(ask()), "idempotency-key: k1"))
        await core.entered(1)
        writer.close()
        again = asyncio.create_task(at.post("/v1/chat/completions", ask(), idempotency_key="k1"))
        done = asyncio.create_task(at.moved("done"))
        await asyncio.sleep(0)
        core.gate.set()
        await done
        assert (await again)[0] == 200
        assert len(core.seen) == 1


async def test_a_repeated_key_gets_the_first_answer_whole_or_streamed_and_another_body_a_conflict() -> None:
    async with served() as at:
        _, first, _ = await at.post("/v1/chat/completions", ask(), idempotency_key="k2")
        _, again, _ = await at.post("/v1/chat/completions", ask(), idempotency_key="k2")
        assert again["choices"] == first["choices"]
        assert again["id"] == first["id"]
        said = events(await at.stream("/v1/chat/completions", ask(stream=True), idempotency_key="k2"))
        assert "".join(e["choices"][0]["delta"].get("content", "") for e in said[:-1]) == "hello big world"
        assert said[0]["id"] == first["id"]
        status, body, response = await at.post("/v1/chat/completions", ask("other"), idempotency_key="k2")
        assert (status, body["error"]["code"]) == (409, "idempotency_conflict")
        assert response.headers["x-should-retry"] == "false"
        assert len(at.core.seen) == 1


async def test_a_killed_process_ends_its_calls_with_499() -> None:
    core = ScriptedCore("ok")
    core.gate.clear()
    async with served(core) as at:
        admin = at.key_of("root", is_admin=True)
        who = {"authorization": f"Bearer {admin}"}
        _, made, _ = await at.post("/aios/v1/calls/proc_spawn", {"agent": "worker"}, **who)
        headers = {"authorization": f"Bearer {made['key']}"}
        asked = asyncio.create_task(at.post("/v1/chat/completions", ask(), **headers))
        await core.entered(1)
        status, _, _ = await at.post(f"/aios/v1/processes/{made['pid']}/signal", {"signal": "kill"}, **who)
        assert status == 200
        status, body, _ = await asked
        assert (status, body["error"]["code"]) == (499, "killed")
        assert (await at.post("/v1/chat/completions", ask(), **headers))[0] == 401


# ── bad input ──

BAD_BODIES = {
    "not JSON": b"{",
    "empty": b"",
    "not an object": b"[1]",
    "not UTF-8": b'{"model": "\xff\xfe", "messages": []}',
    "a lone surrogate": b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}',
    "no messages": b'{"model": "scripted"}',
    "no message": b'{"messages": []}',
    "a wrong role": b'{"messages": [{"role": "king", "content": "x"}]}',
    "a wrong type": b'{"messages": "hello"}',
    "NaN": b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    "a huge number": b'{"messages": [{"role": "user", "content": "x"}], "seed": ' + b"9" * 400 + b"}",
    "a huge exponent": b'{"messages": [{"role": "user", "content": "x"}], "top_p": 1e999}',
    "deep nesting": b'{"messages": [{"role": "user", "content": "x"}], "q": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "max_tokens 0": b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}',
    "max_tokens below 0": b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": -5}',
    "ten thousand stop strings": b'{"messages": [{"role": "user", "content": "x"}], "stop": ['
    + b'"a",' * 9999
    + b'"b"]}',
    "n of 3": b'{"messages": [{"role": "user", "content": "x"}], "n": 3}',
    "two documents": b"{}{}",
}


@pytest.mark.parametrize("what", BAD_BODIES)
async def test_a_bad_body_is_one_clear_400(what: str) -> None:
    async with served() as at:
        status, body, response = await at.post("/v1/chat/completions", BAD_BODIES[what])
        assert status == 400
        assert set(body["error"]) == {"message", "type", "param", "code", "fault"}
        assert body["error"]["message"]
        assert response.headers["x-request-id"]
        assert (await at.chat())[0] == 200
        if what not in ("n of 3",):
            assert (await at.post("/aios/v1/calls/llm_generate", BAD_BODIES[what]))[0] == 400


async def test_an_unknown_field_of_a_native_call_is_named_with_the_nearest_known_one() -> None:
    async with served() as at:
        status, body, _ = await at.post("/aios/v1/calls/mem_write", {"content": "x", "metdata": {}})
        assert status == 400
        assert "did you mean 'metadata'" in body["error"]["message"]


async def test_a_body_beyond_its_bound_is_413_with_and_without_a_length() -> None:
    async with served() as at:
        large = ask("x" * (at.kernel.config.server.max_body + 1))
        status, body, _ = await at.post("/v1/chat/completions", large)
        assert (status, body["error"]["code"]) == (413, "body_too_large")

        async def pieces():
            for _ in range(10):
                yield b"x" * (1 << 20)

        async with at.session.post(f"{at.url}/aios/v1/calls/mem_write", data=pieces()) as response:
            assert response.status == 413
            assert (await response.json())["error"]["code"] == "body_too_large"
        assert (await at.chat())[0] == 200


async def test_a_body_declared_far_beyond_its_bound_is_refused_unread() -> None:
    async with served() as at:
        request = post(at, b"", f"content-length: {1 << 40}", length=False)
        answer = await raw(at, request)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in answer


async def test_what_is_not_http_gets_a_400_in_our_shape() -> None:
    async with served() as at:
        answer = await raw(at, b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


async def test_endless_headers_are_431() -> None:
    async with served() as at:
        head = b"GET /healthz HTTP/1.1\r\n" + b"".join(b"x-%d: %s\r\n" % (n, b"y" * 1000) for n in range(70))
        assert (await raw(at, head)).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("path", ["/v1/nothing", "/aios/v1/nothing", "/v1/chat/completions/", "/x%00y"])
async def test_an_unknown_path_is_404_in_the_shape_of_its_surface(path: str) -> None:
    async with served() as at:
        status, body = await at.get(path)
        assert status == 404
        assert ("param" in body["error"]) == path.startswith("/v1")  # always there in OpenAI's shape


async def test_a_wrong_method_is_405_and_says_which_are_right() -> None:
    async with served() as at, at.session.get(f"{at.url}/v1/chat/completions") as response:
        assert response.status == 405
        assert response.headers["allow"] == "POST"
        assert (await response.json())["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/v1/models", "/aios/v1/processes", "/metrics", "/openapi.json", "/nothing"])
async def test_no_key_no_answer_but_health(path: str) -> None:
    async with served() as at:
        assert (await at.get(path, key="sk-aios-wrong"))[0] == 401
        assert (await at.get("/healthz", key="sk-aios-wrong"))[0] == 200


async def test_the_key_may_come_as_x_api_key() -> None:
    async with served() as at:
        headers = {"x-api-key": at.key, "authorization": ""}
        async with at.session.get(f"{at.url}/v1/models", headers=headers, skip_auto_headers=["authorization"]) as r:
            assert r.status == 401  # an Authorization header that is there is the one that counts
        bare = post(at, b"", path="/aios/v1/calls/mem_list").replace(b"authorization: Bearer", b"x-api-key:")
        answer = await raw(at, bare.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nconnection: close\r\n"))
        assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_foreign_host_header_is_refused_on_loopback() -> None:
    async with served() as at:
        bad = post(at, b"{}").replace(at.url.removeprefix("http://").encode(), b"evil.example:80")
        answer = await raw(at, bad.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nconnection: close\r\n"))
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"bad_host" in answer


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
async def test_an_unusable_idempotency_key_is_refused(key: str) -> None:
    async with served() as at:
        status, body, _ = await at.post("/v1/chat/completions", ask(), idempotency_key=key)
        assert (status, body["error"]["param"]) == (400, "Idempotency-Key")


async def test_a_call_that_is_not_done_in_its_time_is_504() -> None:
    core = ScriptedCore("ok")
    core.gate.clear()
    async with served(core) as at:
        status, body, _ = await at.post("/v1/chat/completions", ask(), x_aios_timeout="0.01")
        assert (status, body["error"]["type"]) == (504, "timeout_error")
        assert (await at.post("/v1/chat/completions", ask(), x_aios_timeout="soon"))[0] == 400

"""Our own surface: calls, processes, events, cores and keys."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from typing import Any

import msgspec
import pytest
from served import ask, served

from aios.gateway import events as streams_of_events
from aios.kernel.process import Process, ProcessState
from aios.testing import ScriptedCore, until

pytestmark = pytest.mark.anyio


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_each_kind_of_call_goes_over_its_generic_route() -> None:
    async with served() as at:
        _, written, response = await at.post("/aios/v1/calls/mem_write", {"content": "the sky is blue"})
        assert response.headers["x-aios-call-id"]
        _, entry, _ = await at.post("/aios/v1/calls/mem_read", {"id": written["id"]})
        assert entry["content"] == "the sky is blue"
        assert (await at.post("/aios/v1/calls/sto_write", {"path": "a.txt", "content": "x"}))[0] == 200
        _, tools, _ = await at.post("/aios/v1/calls/tool_list", {})
        assert "calculator" in [tool["name"] for tool in tools["tools"]]
        _, result, _ = await at.post(
            "/aios/v1/calls/tool_run", {"name": "calculator", "arguments": {"expression": "2*3"}}
        )
        assert result["content"] == "6"


async def test_a_streamed_call_ends_with_its_result() -> None:
    async with served() as at:
        text = await at.stream("/aios/v1/calls/llm_generate", ask(), accept="text/event-stream")
        blocks = [dict(line.split(": ", 1) for line in b.splitlines()) for b in text.strip().split("\n\n")]
        assert [b["event"] for b in blocks] == ["chunk", "chunk", "chunk", "result"]
        assert "".join(msgspec.json.decode(b["data"])["text"] for b in blocks[:-1]) == "hello big world"
        assert msgspec.json.decode(blocks[-1]["data"])["message"]["content"] == "hello big world"


async def test_an_unknown_call_is_404_with_the_nearest_name() -> None:
    async with served() as at:
        status, body, _ = await at.post("/aios/v1/calls/mem_wriet", {})
        assert status == 404
        assert "did you mean 'mem_write'" in body["error"]["message"]


async def test_an_agent_sees_its_own_processes_only() -> None:
    async with served() as at:
        await at.chat()
        other = at.key_of("other")
        await at.post("/aios/v1/calls/mem_list", {}, **bearer(other))
        _, mine = await at.get("/aios/v1/processes")
        assert [p["agent"] for p in mine["processes"]] == ["tester"]
        _, others = await at.get("/aios/v1/processes", key=other)
        hidden = others["processes"][0]["pid"]
        assert (await at.get(f"/aios/v1/processes/{hidden}", key=other))[0] == 200
        assert (await at.get(f"/aios/v1/processes/{hidden}"))[0] == 404
        _, everyone = await at.get("/aios/v1/processes?all=true", key=at.key_of("root", is_admin=True))
        assert {p["agent"] for p in everyone["processes"]} >= {"tester", "other"}


@pytest.mark.parametrize("value", ["", "1", "yes", "True"])
async def test_a_yes_or_no_that_is_neither_is_a_bad_request(value: str) -> None:
    async with served() as at:
        status, body = await at.get(f"/aios/v1/processes?all={value}")
        assert (status, body["error"]["param"]) == (400, "all")


@pytest.mark.parametrize("pid", ["0", "-1", "x", "1.5", "٣", "9" * 30])
async def test_a_pid_that_is_none_is_a_bad_request(pid: str) -> None:
    async with served() as at:
        status, body = await at.get(f"/aios/v1/processes/{pid}")
        assert (status, body["error"]["param"]) == (400, "pid")


async def test_a_stopped_process_waits_and_goes_on_when_continued() -> None:
    async with served() as at:
        await at.chat()
        _, seen = await at.get("/aios/v1/processes")
        path = f"/aios/v1/processes/{seen['processes'][0]['pid']}/signal"
        assert (await at.post(path, {"signal": "stop"}))[0] == 200
        blocked = asyncio.create_task(at.moved("blocked"))
        asked = asyncio.create_task(at.chat())
        await blocked
        assert (await at.post(path, {"signal": "cont"}))[0] == 200
        assert (await asked)[0] == 200
        assert (await at.post(path, {"signal": "hup"}))[0] == 400
        assert (await at.post(path, {"sig": "kill"}))[0] == 400


async def test_a_process_may_kill_itself_and_says_so() -> None:
    async with served() as at:
        await at.chat()
        _, seen = await at.get("/aios/v1/processes")
        path = f"/aios/v1/processes/{seen['processes'][0]['pid']}/signal"
        status, body, _ = await at.post(path, {"signal": "kill"})
        assert (status, body["error"]["code"]) == (499, "killed")
        assert (await at.chat())[0] == 200  # the key had no process of its own, and gets a new one


# ── events ──


async def next_event(lines: Any) -> Any:
    async for line in lines:
        if line.startswith(b"data: "):
            return msgspec.json.decode(line[6:])
    return None


async def test_events_show_the_moves_of_ones_own_calls_as_they_happen() -> None:
    async with served() as at:
        await at.chat()
        async with at.session.get(f"{at.url}/aios/v1/events") as response:
            await response.content.readline()
            await at.post("/aios/v1/calls/mem_list", {}, **bearer(at.key_of("other")))
            await at.chat()
            seen = [await next_event(response.content) for _ in range(3)]
        assert [event["state"] for event in seen] == ["queued", "running", "done"]
        assert {event["agent"] for event in seen} == {"tester"}
        assert seen[1]["core"] == "scripted"


async def test_the_tail_of_events_ends_when_not_followed() -> None:
    async with served() as at:
        await at.chat()
        async with at.session.get(f"{at.url}/aios/v1/events?tail=2&follow=false") as response:
            text = await response.text()
        assert text.count("event: call") == 2
        for bad in ("tail=-1", "tail=x", "tail=99999999999", "follow=maybe"):
            assert (await at.get(f"/aios/v1/events?{bad}"))[0] == 400


async def test_a_listener_that_left_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as at:
        trace, forgotten = at.kernel.trace, asyncio.Event()
        listen, before = trace.listen, trace.num_listeners

        def watched(listener: Any) -> Any:
            stop = listen(listener)
            return lambda: (stop(), forgotten.set())

        monkeypatch.setattr(trace, "listen", watched)
        async with at.session.get(f"{at.url}/aios/v1/events") as response:
            await response.content.readline()
            assert (trace.num_listeners, forgotten.is_set()) == (before + 1, False)
        async with asyncio.timeout(10):
            await forgotten.wait()
        assert trace.num_listeners == before


async def test_one_key_may_listen_to_a_few_streams_of_events_and_an_admin_always_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams_of_events, "MAX_STREAMS", 4)
    monkeypatch.setattr(streams_of_events, "FOR_ADMINS", 1)
    monkeypatch.setattr(streams_of_events, "MAX_STREAMS_EACH", 2)
    async with served() as at, contextlib.AsyncExitStack() as stack:

        async def listen(key: str) -> Any:
            response = await stack.enter_async_context(at.session.get(f"{at.url}/aios/v1/events", headers=bearer(key)))
            return response.status, response.headers.get("retry-after"), await response.content.readline()

        other, root = at.key_of("other"), at.key_of("root", is_admin=True)
        assert [(await listen(at.key))[0] for _ in range(2)] == [200, 200]
        status, retry_after, why = await listen(at.key)
        assert (status, retry_after) == (429, "5")
        assert b"too_many_streams" in why
        assert b"with this key" in why
        assert (await at.get("/aios/v1/processes"))[0] == 200
        assert (await listen(other))[0] == 200
        assert (await listen(other))[0] == 429
        assert (await listen(root))[0] == 200
        assert (await listen(root))[0] == 429


async def test_a_stream_of_events_that_ended_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_of_events, "MAX_STREAMS_EACH", 1)
    async with served() as at:
        for _ in range(3):
            async with at.session.get(f"{at.url}/aios/v1/events?follow=false") as response:
                assert response.status == 200
                await response.read()


# ── cores, keys, health ──


async def test_a_core_with_a_number_that_is_none_is_refused_by_its_place() -> None:
    async with served() as at:
        admin = bearer(at.key_of("root", is_admin=True))
        body = b'{"name": "x", "kind": "nano", "kv_bytes": 1e400}'
        async with at.session.post(f"{at.url}/aios/v1/cores", data=body, headers=admin) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (400, "bad_arguments")


async def test_cores_say_what_they_are() -> None:
    async with served() as at:
        _, body = await at.get("/aios/v1/cores")
        [core] = body["cores"]
        assert (core["name"], core["slots"], core["resume"]) == ("scripted", 8, "kv_exact")


async def test_an_admin_adds_drains_and_removes_cores_and_nobody_else_does() -> None:
    async with served() as at:
        admin = bearer(at.key_of("root", is_admin=True))
        far = {"name": "far", "kind": "openai", "base_url": "http://127.0.0.1:9/v1", "probe": False}
        for path, body in (("", far), ("/scripted/drain", {}), ("/scripted/open", {})):
            status, refused, _ = await at.post(f"/aios/v1/cores{path}", body)
            assert (status, refused["error"]["code"]) == (403, "admin_only")
        status, added, _ = await at.post("/aios/v1/cores", far, **admin)
        assert (status, added["state"]) == (202, "opening")
        await until(lambda: at.kernel.cores.find("far").state.value == "ready")
        assert (await at.post("/aios/v1/cores", far, **admin))[0] == 200
        status, refused, _ = await at.post("/aios/v1/cores", {**far, "slots": 2}, **admin)
        assert (status, refused["error"]["code"]) == (409, "core_exists")
        assert {"far"} < {model["id"] for model in (await at.get("/v1/models"))[1]["data"]}
        for step, state in (("drain", "draining"), ("drain", "draining"), ("open", "ready"), ("open", "ready")):
            _, told, _ = await at.post(f"/aios/v1/cores/far/{step}", {}, **admin)
            assert (told["state"], told["left"]) == (state, 0)
        async with at.session.delete(f"{at.url}/aios/v1/cores/far", headers=admin) as response:
            assert response.status == 202
        await until(lambda: at.kernel.llm.roster.get("far") is None)
        async with at.session.delete(f"{at.url}/aios/v1/cores/far", headers=admin) as response:
            assert response.status == 404
        status, refused, _ = await at.post("/aios/v1/cores", {"name": "x", "kind": "nano", "slotz": 3}, **admin)
        assert (status, "did you mean 'slots'" in refused["error"]["message"]) == (400, True)


async def test_the_coming_and_going_of_cores_is_told_to_admins_only_and_says_who_asked() -> None:
    async with served() as at:
        key = at.key_of("root", is_admin=True)
        await at.post("/aios/v1/cores/scripted/drain", {}, **bearer(key))
        told = []
        for each in (bearer(key), {}):
            async with at.session.get(f"{at.url}/aios/v1/events?follow=false&tail=100", headers=each) as response:
                told.append(await response.text())
        assert (
            '"agent":"kernel","name":"core","state":"draining","core":"scripted","why":"asked for by root"' in told[0]
        )
        assert '"name":"core"' not in told[1]


async def test_calls_of_one_session_header_go_to_one_core() -> None:
    async with served() as at:
        seen: list[str | None] = []
        submit = at.kernel.submit

        def spy(*args: Any, **more: Any) -> Any:
            seen.append(more.get("session"))
            return submit(*args, **more)

        at.kernel.submit = spy  # type: ignore[method-assign]
        await at.post("/v1/chat/completions", ask(), x_aios_session="s1")
        await at.stream("/v1/chat/completions", {**ask(), "stream": True}, x_aios_session="x" * 500)
        body = {"messages": [{"role": "user", "content": "hi"}]}
        await at.post("/aios/v1/calls/llm_generate", body, x_aios_session="s2")
        await at.chat()
        assert seen == ["s1", "x" * 200, "s2", None]


async def test_an_admin_mints_lists_and_revokes_keys_and_nobody_else_does() -> None:
    async with served() as at:
        admin = bearer(at.key_of("root", is_admin=True))
        assert (await at.post("/aios/v1/keys", {"name": "bob"}))[0] == 403
        assert (await at.get("/aios/v1/keys"))[0] == 403
        status, made, _ = await at.post("/aios/v1/keys", {"name": "bob", "agent": "writer"}, **admin)
        assert (status, made["agent"]) == (201, "writer")
        assert (await at.get("/v1/models", key=made["key"]))[0] == 200
        async with at.session.delete(f"{at.url}/aios/v1/keys/{made['id']}") as response:
            assert response.status == 403
        async with at.session.delete(f"{at.url}/aios/v1/keys/{made['id']}", headers=admin) as response:
            assert response.status == 200
        async with at.session.delete(f"{at.url}/aios/v1/keys/{made['id']}", headers=admin) as response:
            assert response.status == 404
        status, body = await at.get("/v1/models", key=made["key"])
        assert (status, body["error"]["code"]) == (401, "invalid_api_key")


async def test_the_process_that_was_made_for_a_key_ends_when_that_is_revoked() -> None:
    async with served() as at:
        admin = bearer(at.key_of("root", is_admin=True))
        _, made, _ = await at.post("/aios/v1/keys", {"name": "bob"}, **admin)
        assert (await at.post("/aios/v1/calls/mem_list", {}, authorization=f"Bearer {made['key']}"))[0] == 200
        (pid,) = (each.pid for each in at.kernel.processes.list() if each.agent == "bob")
        async with at.session.delete(f"{at.url}/aios/v1/keys/{made['id']}", headers=admin) as response:
            assert response.status == 200
        assert at.kernel.processes.get(pid).state is ProcessState.ENDED


async def test_metrics_count_calls_and_readiness_follows_the_kernel() -> None:
    async with served() as at:
        await at.chat()
        assert (await at.get("/metrics"))[0] == 403  # they tell of other agents too
        admin = bearer(at.key_of("root", is_admin=True))
        async with at.session.get(f"{at.url}/metrics", headers=admin) as response:
            text = await response.text()
        assert 'aios_call_moves_total{call="llm_generate",state="done"} 1.0' in text
        assert 'aios_queue_waiting{module="llm"} 0.0' in text
        for figure in ("slots 8.0", "slots_taken 0.0", "is_ready 1.0", "calls 1.0", "refusals 0.0", "tokens_out 3.0"):
            name, _, value = figure.partition(" ")
            assert f'aios_core_{name}{{core="scripted"}} {value}' in text
        for figure in ("disk_failures", "disk_is_failing", "disk_spent", "suspended_text", "restores_disk"):
            assert f"aios_context_{figure} 0.0" in text
        for figure in ("unembedded", "refused", "is_failing", "cache_bytes"):
            assert f"aios_search_{figure} 0.0" in text
        assert (await at.get("/readyz"))[0] == 200
        at.kernel.is_ready = False
        assert (await at.get("/readyz"))[0] == 503
        assert (await at.get("/healthz"))[0] == 200


async def test_a_kernel_that_cannot_write_its_journal_is_not_ready_until_it_can() -> None:
    async with served() as at:
        assert (await at.post("/aios/v1/calls/mem_write", {"content": "x"}))[0] == 200
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        log = at.kernel.home / "aios.db-wal"
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, limits[1]))
            status, body, _ = await at.post("/aios/v1/calls/mem_write", {"content": "y"})
            assert (status, body["error"]["code"]) == (503, "storage_full")
            status, body = await at.get("/readyz", key="none")
            assert (status, body["status"]) == (503, "storage_full")
            assert "disk" in body["why"]
            assert str(at.kernel.home) not in body["why"]
            assert (await at.get("/healthz"))[0] == 200
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert await at.get("/readyz") == (200, {"status": "ready"})
        assert (await at.post("/aios/v1/calls/mem_write", {"content": "z"}))[0] == 200


async def test_a_bug_is_a_500_in_our_shape_and_its_log_quotes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with served() as at:

        def broken(process: Process) -> None:
            raise RuntimeError("secret content")

        await at.chat()
        monkeypatch.setattr(at.kernel, "info", broken)
        status, body = await at.get("/aios/v1/processes/1")
        assert (status, body["error"]["fault"]) == (500, "kernel")
        assert "RuntimeError on GET /aios/v1/processes/" in caplog.text
        assert "secret" not in caplog.text


async def test_a_stop_lets_open_answers_go_out_and_takes_no_more() -> None:
    core = ScriptedCore("ok")
    core.gate.clear()
    async with served(core) as at:
        asked = asyncio.create_task(at.chat())
        await core.entered(1)
        stopping = asyncio.create_task(at.kernel.stop(5.0))
        await asyncio.sleep(0)
        status, body, response = await at.chat()
        assert (status, body["error"]["code"]) == (503, "stopping")
        assert response.headers["retry-after"] == "5"
        core.gate.set()
        assert (await asked)[0] == 200
        await stopping

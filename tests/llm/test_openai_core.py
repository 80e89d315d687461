"""A core that is somebody else's server: what passes through, what adds up, and whose fault a failure is."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from upstream import DONE, HEAD, LAST, USAGE, Upstream, chat, event, framed, upstream, whole

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError, BadRequest, ContextLengthExceeded, ModuleFault, TimedOut, TooLarge, UpstreamFault
from aios.abi.messages import Chunk, Generation, Message
from aios.kernel.config import ConfigError, CoreSection
from aios.kernel.llm.base import NotBegun, Request
from aios.kernel.llm.remote import connection, openai
from aios.kernel.llm.remote.openai import OpenAICore
from aios.testing import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


def args(**more: Any) -> LLMGenerate:
    return LLMGenerate(messages=[Message(role="user", content="hi")], seed=1, **more)


async def ask(
    at: Upstream, given: LLMGenerate | None = None, *, is_streamed: bool = False, **section: Any
) -> tuple[Generation, list[Chunk]]:
    core = OpenAICore(CoreSection(name="gpu", kind="openai", base_url=at.url, **section))
    await core.open()
    chunks: list[Chunk] = []
    try:
        generation = await core.run(Request("c1", given or args(), chunks.append, None, is_streamed), 4)
    except NotBegun as refusal:
        raise refusal.error from None
    finally:
        await core.close()
    assert core.statistics()["active"] == 0
    return generation, chunks


# ── whole ──


async def test_a_whole_answer_becomes_a_generation_and_all_parameters_go_up() -> None:
    async with upstream(whole(chat({"content": "hello"}))) as at:
        given = args(temperature=0.5, max_tokens=9, extra={"user": "me", "stream": True}, model="gpu")
        done, chunks = await ask(at, given, model="qwen")
        assert (done.message.content, done.finish_reason, done.model, done.core) == ("hello", "stop", "m-1", "gpu")
        assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (7, 3)
        assert chunks == []
        assert at.seen[0] == {
            "model": "qwen",
            "messages": [{"role": "user", "content": "hi"}],
            "temperature": 0.5,
            "max_tokens": 9,
            "seed": 1,
            "user": "me",
        }


def test_a_beam_search_is_refused_where_no_server_would_do_one() -> None:
    core = OpenAICore(CoreSection(name="gpu", kind="openai", base_url="http://h/v1"))
    with pytest.raises(BadRequest, match="leave beam_width out"):
        core.check(LLMGenerate(messages=[Message(role="user", content="x")], beam_width=3))


async def test_tool_calls_come_back_also_from_servers_that_bend_the_format() -> None:
    calls = [
        {"function": {"name": "f", "arguments": {"a": 1}}},
        {"id": "z", "function": {"name": "g", "arguments": ""}},
    ]
    async with upstream(whole(chat({"content": None, "tool_calls": calls}, finish="tool_calls"))) as at:
        done, _ = await ask(at)
        assert done.finish_reason == "tool_calls"
        assert done.message.content is None
        assert [(c.id, c.function.name, c.function.arguments) for c in done.message.tool_calls or ()] == [
            ("call_0", "f", '{"a":1}'),
            ("z", "g", "{}"),
        ]


async def test_a_connection_is_used_again_and_a_stale_one_is_replaced() -> None:
    async with upstream(whole(chat({"content": "a"})), [b""], whole(chat({"content": "b"}))) as at:
        core = OpenAICore(CoreSection(name="gpu", kind="openai", base_url=at.url, probe=False))
        await core.open()
        for expected in ("a", "b"):
            done = await core.run(Request("c", args(), lambda chunk: None), None)
            assert done.message.content == expected
        await core.close()
        assert at.num_connections == 2


async def test_a_server_that_is_asked_what_it_can_do_and_says_nothing_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openai, "PROBE_SECONDS", 0.01)

    async def no_connection(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(connection.Pool, "_connect", no_connection)
    core = OpenAICore(CoreSection(name="gpu", kind="openai", base_url="http://127.0.0.1:1/v1"))
    await core.open()
    await until(lambda: core.statistics()["found"] != "not asked yet")
    assert core.statistics()["found"] == "could not be asked: it said nothing in time"
    await core.close()


# ── streamed ──


def plain() -> list[bytes]:
    return [event({"role": "assistant", "content": ""}), event({"content": "hel"}), event({"content": "lo"})]


async def test_a_stream_passes_through_untouched_and_adds_up() -> None:
    body = b"".join(plain())
    tail = event({}, "stop") + event(None, usage=USAGE) + DONE
    async with upstream([HEAD + framed(body) + framed(tail) + LAST]) as at:
        done, chunks = await ask(at, is_streamed=True)
        assert at.seen[0]["stream"] is True
        assert at.seen[0]["stream_options"] == {"include_usage": True}
        raw = b"".join(chunk.raw for chunk in chunks)
        assert raw.startswith(body)
        assert b"[DONE]" not in raw
        assert "".join(chunk.text for chunk in chunks) == "hello"
        assert sum(chunk.tokens for chunk in chunks) == 2
        assert (done.message.content, done.usage.completion_tokens) == ("hello", 3)


@pytest.mark.parametrize("more", [event({"content": "more"}), b'data: {"error": {"message": "late"}}\n\n'])
async def test_what_comes_after_the_end_of_a_stream_is_not_part_of_it(more: bytes) -> None:
    async with upstream([HEAD + framed(b"".join(plain()) + event({}, "stop") + DONE + more) + LAST]) as at:
        done, chunks = await ask(at, is_streamed=True)
    assert done.message.content == "".join(chunk.text for chunk in chunks) == "hello"


async def test_the_finishing_event_carries_the_usage_that_came_behind_it() -> None:
    tail = event({}, "stop") + event(None, usage=USAGE) + DONE
    async with upstream([HEAD + framed(b"".join(plain())) + framed(tail) + LAST]) as at:
        _, chunks = await ask(at, is_streamed=True)
        finishing, usage = chunks[-2:]
        assert finishing.finish_reason == "stop"
        sent = json.loads(finishing.raw.rstrip().rpartition(b"data: ")[2])
        assert sent["usage"].items() >= USAGE.items()
        assert (usage.text, usage.raw) == ("", event(None, usage=USAGE))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
async def test_a_stream_reads_the_same_however_it_is_cut_into_packets(size: int) -> None:
    text = b"".join(
        [event({"content": "hé"}), b": comment\r\n\r\n", event({"content": "→llo"}).replace(b"\n", b"\r\n")]
    )
    text += event({}, "length", usage=USAGE) + DONE
    steps = [HEAD] + [framed(text[n : n + size]) for n in range(0, len(text), size)] + [LAST]
    async with upstream(steps) as at:
        done, chunks = await ask(at, is_streamed=True)
        assert (done.message.content, done.finish_reason) == ("hé→llo", "length")
        assert "".join(chunk.text for chunk in chunks) == "hé→llo"


async def test_streamed_tool_calls_add_up() -> None:
    deltas = [
        {"role": "assistant", "tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"x"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
        {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]},
    ]
    text = b"".join(event(delta) for delta in deltas) + event({}, "tool_calls") + DONE
    async with upstream([HEAD + framed(text) + LAST]) as at:
        done, chunks = await ask(at, is_streamed=True)
        calls = [(c.id, c.function.name, c.function.arguments) for c in done.message.tool_calls or ()]
        assert calls == [("a", "f", '{"x": 1}'), ("b", "g", "{}")]
        assert [d.index for chunk in chunks for d in chunk.tool_calls or ()] == [0, 0, 0, 1]
        assert done.usage.completion_tokens == 4  # no usage from this server: its pieces are counted


async def test_a_server_that_does_not_stream_is_heard_all_the_same() -> None:
    async with upstream(whole(chat({"content": "hello"}))) as at:
        done, chunks = await ask(at, is_streamed=True)
        assert [chunk.text for chunk in chunks] == ["hello"]
        assert done.message.content == "hello"


# ── failures ──

REFUSALS: list[tuple[str, Any, type[AiosError], str]] = [
    ("400 Bad Request", {"error": {"message": "bad tools", "param": "tools", "code": "x"}}, BadRequest, "bad tools"),
    (
        "400 Bad Request",
        {"error": {"message": "too long", "code": "context_length_exceeded"}},
        ContextLengthExceeded,
        "too long",
    ),
    ("422 Unprocessable", {"detail": "field required"}, BadRequest, "field required"),
    ("501 Not Implemented", {"error": {"message": "no embeddings here"}}, BadRequest, "no embeddings here"),
    ("413 Too Large", {"error": "large"}, TooLarge, "large"),
    ("401 Unauthorized", {"error": {"message": "Incorrect API key sk-secret"}}, UpstreamFault, "kernel's key"),
    ("404 Not Found", {"message": "no such model"}, UpstreamFault, "no such model"),
    ("302 Found", b"", UpstreamFault, "302"),
    ("500 Oops", b"<html>", UpstreamFault, "500"),
    ("504 Gateway Timeout", b"", TimedOut, "504"),
]


@pytest.mark.parametrize(("status", "body", "kind", "said"), REFUSALS)
async def test_a_refusal_says_whose_fault_it_is(status: str, body: Any, kind: type[AiosError], said: str) -> None:
    async with upstream(whole(body, status, location="http://127.0.0.1:1/")) as at:
        with pytest.raises(AiosError, match=said) as caught:
            await ask(at, is_streamed=True)
        assert type(caught.value) is kind
        assert "sk-secret" not in caught.value.message
        assert caught.value.message.startswith("core 'gpu'")


async def test_a_busy_server_says_when_to_return() -> None:
    async with upstream(whole({"error": {"message": "slow down"}}, "429 Busy", retry_after="7")) as at:
        with pytest.raises(UpstreamFault, match="slow down") as caught:
            await ask(at)
        assert (caught.value.code, caught.value.retry_after) == ("upstream_busy", 7.0)


GARBAGE: dict[str, list[Any]] = {
    "no JSON": whole(b"<html>"),
    "no choices": whole({"choices": []}),
    "a wrong type": whole({"choices": "many"}),
    "an error in a 200": whole({"error": {"message": "out of memory"}}),
    "half a character": [HEAD + framed(b'data: {"choices": [{"delta": {"content": "\xc3"}}]}\n\n') + LAST],
    "no JSON in an event": [HEAD + framed(b"data: {nope\n\n") + LAST],
    "an error event": [HEAD + framed(event({"content": "a"}) + b'data: {"error": {"message": "boom"}}\n\n') + LAST],
    "an end without an end": [HEAD + framed(event({"content": "a"})) + LAST],
    "a cut stream": [HEAD + framed(event({"content": "a"})), b""],
    "a lying length": [b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{}", b""],
    "no HTTP": [b"hello\r\n\r\n", b""],
}


@pytest.mark.parametrize("what", GARBAGE)
async def test_garbage_and_cut_answers_are_the_upstreams_fault(what: str) -> None:
    async with upstream(GARBAGE[what]) as at:
        with pytest.raises(UpstreamFault, match=r"^core 'gpu'"):
            await ask(at, is_streamed=True)


async def test_a_server_that_is_not_there_is_named() -> None:
    at = Upstream([], url="http://127.0.0.1:9/v1")
    with pytest.raises(UpstreamFault, match=r"cannot connect to http://127\.0\.0\.1:9 \("):
        await ask(at)


async def test_a_connection_that_takes_too_long_is_no_silence_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.05)
    async with upstream([]) as at:  # it speaks no TLS and waits for a request: the handshake never ends
        at.url = at.url.replace("http:", "https:")
        with pytest.raises(UpstreamFault, match=r"cannot connect to https://127\.0\.0\.1:\d+ within 0\.05 s"):
            await ask(at)


@pytest.mark.parametrize(
    ("is_begun", "said"), [(False, "0.05 s before its first token"), (True, "said nothing for 0.1 s")]
)
async def test_the_first_token_has_a_limit_of_its_own(is_begun: bool, said: str) -> None:
    never = asyncio.Event()
    steps: list[Any] = [HEAD + framed(event({"content": "a"})), never] if is_begun else [never]
    limits = {"timeout": 0.1, "first_timeout": 60.0} if is_begun else {"timeout": 60.0, "first_timeout": 0.05}
    async with upstream(steps) as at:
        with pytest.raises(TimedOut, match=said):
            await ask(at, is_streamed=True, **limits)
        await at.left.wait()


@pytest.mark.parametrize("is_begun", [False, True])
async def test_a_server_that_falls_silent_is_timed_out_and_let_go(is_begun: bool) -> None:
    never = asyncio.Event()
    steps: list[Any] = [HEAD + framed(event({"content": "a"})), never] if is_begun else [never]
    async with upstream(steps) as at:
        with pytest.raises(TimedOut, match="said nothing"):
            await ask(at, is_streamed=True, timeout=0.05)
        await at.left.wait()


async def test_a_whole_answer_that_does_not_come_names_the_limit_that_ran_out() -> None:
    async with upstream([asyncio.Event()]) as at:
        with pytest.raises(TimedOut, match=r"nothing for 0\.1 s \(5 times \[\[core\]\] timeout\)"):
            await ask(at, timeout=0.02)


async def test_the_query_of_a_base_url_goes_with_each_request() -> None:
    async with upstream(whole(chat({"content": "hello"}))) as at:
        at.url += "/?api-version=2"
        await ask(at)
        assert at.heads[0].startswith("POST /v1/chat/completions?api-version=2 HTTP/1.1\r\n")


def test_a_malformed_base_url_is_refused_by_the_name_of_its_core() -> None:
    with pytest.raises(ConfigError, match=r"core 'gpu' needs base_url.*80800"):
        OpenAICore(CoreSection(name="gpu", kind="openai", base_url="http://127.0.0.1:80800/v1"))


async def test_cancelling_closes_the_connection_at_once() -> None:
    never = asyncio.Event()
    async with upstream([HEAD + framed(event({"content": "a"})), never]) as at:
        asking = asyncio.create_task(ask(at, is_streamed=True))
        await at.asked.wait()
        asking.cancel()
        await at.left.wait()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_KEY", "sk-upstream")
    async with upstream(whole(chat({"content": "hello"}))) as at:
        await ask(at, api_key_env="GPU_KEY")
        assert "authorization: bearer sk-upstream" in at.heads[0].lower()


async def test_a_key_is_read_from_a_file_of_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOS_HOME", str(tmp_path))
    (tmp_path / "gpu.key").write_text("sk-1\n")
    (tmp_path / "gpu.key").chmod(0o600)
    async with upstream(whole(chat({"content": "yes"}))) as at:
        await ask(at, api_key_file="gpu.key")
    assert "authorization: bearer sk-1" in at.heads[0].lower()


async def test_a_key_file_that_is_replaced_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOS_HOME", str(tmp_path))
    file = tmp_path / "gpu.key"
    async with upstream(whole(chat({"content": "yes"}))) as at:
        core = OpenAICore(
            CoreSection(name="gpu", kind="openai", base_url=at.url, api_key_file="gpu.key", probe=False),
        )
        for number, key in enumerate(("sk-first", "sk-second-one")):
            file.write_text(key)
            file.chmod(0o600)
            if number == 0:
                await core.open()
            await core.run(Request("c", args(), lambda chunk: None), None)
            assert f"authorization: bearer {key}\r\n" in at.heads[-1].lower()
        file.chmod(0o644)
        file.write_text("sk-seen-by-all")
        with pytest.raises(ModuleFault, match=r"can be read by others \(mode 644\); chmod 600") as caught:
            await core.run(Request("c", args(), lambda chunk: None), None)
        assert "sk-" not in caught.value.message
        await core.close()
    assert at.num_connections == 1


async def test_a_key_that_a_server_repeats_is_taken_out_of_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_KEY", "sk-upstream")
    error = {"error": {"message": "project of sk-upstream does not exist"}}
    async with upstream(whole(error, "404 Not Found")) as at:
        with pytest.raises(UpstreamFault, match=r"project of \[key\] does not exist"):
            await ask(at, api_key_env="GPU_KEY")


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("none.key", None, "cannot be read: No such file"),
        ("two.key", "sk-1\nsk-2\n", "must hold one line"),
        ("odd.key", "sk-ü", "not plain ASCII"),
        ("../out.key", "sk-1", "is outside the home"),
        ("admin.key", "sk-aios-1", "is the kernel's own key"),
    ],
)
async def test_a_file_that_holds_no_key_is_told_when_the_core_opens(
    name: str, text: str | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("AIOS_HOME", str(home))
    if text is not None:
        (home / name).write_text(text)
        (home / name).chmod(0o600)
    core = OpenAICore(
        CoreSection(name="gpu", kind="openai", base_url="http://127.0.0.1:1/v1", api_key_file=name), now=lambda: 0.0
    )
    with pytest.raises(ConfigError, match=why) as caught:
        await core.open()
    assert "sk-" not in caught.value.message


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_what_a_model_thinks_aloud_is_told_apart_whatever_its_server_calls_it(
    name: str, is_streamed: bool
) -> None:
    thought, answer = {"role": "assistant", name: "hm"}, {"content": "hello"}
    streamed = [HEAD, framed(event(thought)), framed(event(answer)), framed(event({}, "stop") + DONE), LAST]
    async with upstream(streamed if is_streamed else whole(chat({name: "hm", **answer}))) as at:
        done, chunks = await ask(at, is_streamed=is_streamed)
        assert (done.message.reasoning_content, done.message.content) == ("hm", "hello")
        if is_streamed:
            assert "".join(chunk.reasoning for chunk in chunks) == "hm"
            assert "".join(chunk.text for chunk in chunks) == "hello"


async def test_what_was_thought_counts_as_said_where_a_server_has_it_in_the_total_alone() -> None:
    """As xAI and Google do: 10,120 + 1,499 and 2,809 that were thought."""
    usage = {"prompt_tokens": 10_120, "completion_tokens": 1_499, "total_tokens": 14_428}
    async with upstream(whole(chat({"content": "hello"}) | {"usage": usage})) as at:
        done, _ = await ask(at)
        assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (10_120, 4_308)
        assert json.loads(done.raw_usage or "") == usage  # told as the server wrote it


async def test_a_server_that_sends_something_else_for_reasoning_is_read_all_the_same() -> None:
    async with upstream(whole(chat({"content": "hello", "reasoning": {"effort": "low"}}))) as at:
        done, _ = await ask(at)
        assert (done.message.reasoning_content, done.message.content) == (None, "hello")

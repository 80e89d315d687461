"""Half an answer of a server: a quantum ends a slice, the server's slot is free, the rest follows without a seam."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from serving import serving
from upstream import STORY, Server

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError
from aios.abi.messages import Chunk, FunctionSpec, Generation, Message, ToolSpec
from aios.kernel.config import CoreSection
from aios.kernel.llm.base import NotBegun, Request, Said
from aios.kernel.llm.remote.openai import OpenAICore
from aios.kernel.syscall import Suspended
from aios.testing import ScriptedCore, booted, principal, until

pytestmark = pytest.mark.anyio
WHOLE = "".join(STORY)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


def args(**more: Any) -> LLMGenerate:
    return LLMGenerate(messages=[Message("user", "tell me")], seed=1, **more)


async def opened(at: Server, **section: Any) -> OpenAICore:
    core = OpenAICore(CoreSection(name="far", kind="openai", base_url=at.url, model="tale", **section))
    await core.open()
    return core


class Listener:
    """Hears one answer, in as many slices as it takes; each is followed by others' turns."""

    def __init__(self, core: OpenAICore, at: Server, given: LLMGenerate, *, is_streamed: bool = True) -> None:
        self.core, self.at, self.given, self.is_streamed = core, at, given, is_streamed
        self.chunks: list[Chunk] = []
        self.num_slices = 0

    async def hear(self, quantum: int | None) -> Generation:
        said: Said | None = None
        while True:
            self.num_slices += 1
            request = Request("c1", self.given, self.chunks.append, None, self.is_streamed, said)
            outcome = await self.core.run(request, quantum)
            if isinstance(outcome, Generation):
                return outcome
            assert isinstance(outcome.snapshot, Said)
            said = outcome.snapshot
            await until(lambda: not self.at.active)

    def events(self) -> list[dict[str, Any]]:
        raw = b"".join(chunk.raw for chunk in self.chunks)
        return [json.loads(line[6:]) for line in raw.split(b"\n\n") if line]


async def told(at: Server, given: LLMGenerate, quantum: int | None, **section: Any) -> tuple[Generation, Listener]:
    core = await opened(at, **section)
    listener = Listener(core, at, given)
    try:
        done = await listener.hear(quantum)
    finally:
        await core.close()
    assert core.statistics()["active"] == 0
    return done, listener


# ── a slice ends, the rest follows ──


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llama"])
async def test_an_interrupted_answer_is_the_uninterrupted_one_for_who_listens(kind: str) -> None:
    async with serving(Server(kind)) as at:
        done, listener = await told(at, args(), 5, server=kind)
        events = listener.events()
    assert listener.num_slices > 2
    assert at.num_left >= listener.num_slices - 2 > 0
    assert done.message.content == "".join(chunk.text for chunk in listener.chunks) == WHOLE
    assert {event["id"] for event in events} == {"chat-1"} == {done.id}
    assert [e["choices"][0]["delta"].get("role") for e in events if e["choices"]].count("assistant") == 1
    assert [e["choices"][0]["finish_reason"] for e in events if e["choices"]].count("stop") == 1
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (2, len(STORY))
    assert events[-1]["usage"]["completion_tokens"] == len(STORY)


async def test_where_a_server_tells_its_tokens_the_rest_is_asked_for_by_them() -> None:
    async with serving(Server("vllm")) as at:
        done, listener = await told(at, args(), 5, server="vllm", resume="tokens", context_length=100)
        events = listener.events()
    assert listener.num_slices > 2
    assert at.paths == ["/v1/chat/completions"] + ["/v1/completions"] * (len(at.paths) - 1)
    assert at.seen[1]["max_tokens"] == 100 - len(at.seen[1]["prompt"])
    assert not at.seen[1].keys() & {"messages", "tools"}
    assert done.message.content == "".join(chunk.text for chunk in listener.chunks) == WHOLE
    assert {event["id"] for event in events} == {"chat-1"}
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert not any("token_ids" in str(event) for event in events)
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (2, len(STORY))


@pytest.mark.parametrize(
    ("kind", "more"),
    [("llama", {}), ("vllm", {"tools": [ToolSpec(FunctionSpec("f"))]}), ("vllm", {"logprobs": True})],
)
async def test_where_tokens_will_not_do_the_rest_is_asked_for_by_its_text(kind: str, more: dict[str, Any]) -> None:
    """The server does not tell them, or nobody would read what they say."""
    async with serving(Server(kind)) as at:
        done, listener = await told(at, args(**more), 5, server=kind, resume="tokens", context_length=100)
    assert listener.num_slices > 2
    assert set(at.paths) == {"/v1/chat/completions"}
    assert done.message.content == WHOLE


async def test_a_server_that_cannot_continue_is_heard_to_its_end() -> None:
    async with serving(Server("openai")) as at:
        done, listener = await told(at, args(), 5, server="openai")
    assert (listener.num_slices, at.num_finished) == (1, 1)
    assert done.message.content == WHOLE


async def test_an_answer_that_keeps_its_slot_keeps_its_stream() -> None:
    async with serving(Server("vllm")) as at:
        core = await opened(at, server="vllm")
        said, num_slices = None, 0
        while True:
            num_slices += 1
            outcome = await core.run(Request("c1", args(), lambda chunk: None, None, True, said), 5)
            if isinstance(outcome, Generation):
                break
            said = outcome.snapshot
        await core.close()
        assert num_slices > 2
        assert len(at.seen) == 1
        assert outcome.message.content == WHOLE
        assert core.statistics()["switches"] == 0


async def test_what_was_used_up_is_taken_off_and_the_seed_moves_on() -> None:
    async with serving(Server("vllm")) as at:
        done, _ = await told(at, args(max_tokens=9, min_tokens=2), 4, server="vllm")
        first, second = at.seen[:2]
        so_far = len(STORY) - len("".join(STORY)[len(second["messages"][-1]["content"]) :].split())
        assert (first["max_tokens"], second["max_tokens"]) == (9, 9 - so_far)
        assert (first["seed"], second["seed"]) == (1, 1 + so_far)
        assert "min_tokens" not in second or second["min_tokens"] == 0
    assert (done.finish_reason, done.usage.completion_tokens) == ("length", 9)
    assert done.message.content == "".join(STORY[:9])


async def test_a_call_gives_its_slot_to_another_and_comes_back() -> None:
    async with serving(Server("vllm")) as at:
        core = OpenAICore(CoreSection(name="far", kind="openai", base_url=at.url, model="tale", slots=1, server="vllm"))
        async with booted(cores=[core], policy="rr", quantum=3) as kernel:
            who = [principal(kernel, f"agent{n}") for n in range(3)]
            calls = [kernel.submit(one, "llm_generate", args()) for one in who]
            found = [(await call.future).message.content for call in calls if call.future is not None]
            assert found == [WHOLE] * 3
            assert all(call.num_switches > 2 for call in calls)
            assert at.most_active <= 2  # a server needs a moment to notice that a connection was closed
            assert all(call.tokens_out == len(STORY) for call in calls)


@pytest.mark.parametrize(
    "more",
    [
        {"response_format": {"type": "json_object"}},
        {"tool_choice": "required", "tools": [ToolSpec(FunctionSpec("f"))]},
        {"extra": {"guided_regex": "a+"}},
    ],
)
async def test_an_answer_that_is_held_to_a_form_is_not_cut(more: dict[str, Any]) -> None:
    async with serving(Server("vllm")) as at:
        _, listener = await told(at, args(**more), 3, server="vllm")
        assert listener.num_slices == 1


async def test_nothing_is_cut_once_a_tool_is_being_called() -> None:
    async with serving(Server("vllm", calls_tool_at=4)) as at:
        done, listener = await told(at, args(tools=[ToolSpec(FunctionSpec("f"))]), 2, server="vllm")
        assert done.message.tool_calls is not None
        assert 1 < listener.num_slices < 5


async def test_an_answer_is_not_cut_in_the_middle_of_a_stop_string_or_behind_a_blank() -> None:
    story = ("one", " two", " EN", "D", " of", " it", " all", " and", " \n", "more")
    async with serving(Server("vllm", story=story)) as at:
        done, _ = await told(at, args(stop=["xyz", " END"]), 1, server="vllm")
        assert done.message.content == "one two EN"
        assert all(not body["messages"][-1]["content"].endswith((" EN", "\n")) for body in at.seen[1:])
    async with serving(Server("vllm", story=story)) as at:
        done, _ = await told(at, args(), 1, server="vllm")
        assert done.message.content == "".join(story)
        assert len(at.seen) > 5
        assert all(not body["messages"][-1]["content"].endswith("\n") for body in at.seen[1:])


async def test_a_server_that_refuses_to_continue_is_not_asked_to_again() -> None:
    """It was taken for one that can: who heard nothing gets an answer from the beginning, who heard half an error."""
    async with serving(Server("vllm", refuses_to_continue=True)) as at:
        core = OpenAICore(CoreSection(name="far", kind="openai", base_url=at.url, model="tale", slots=1, server="vllm"))
        async with booted(cores=[core], policy="rr", quantum=3) as kernel:
            who = [principal(kernel, f"agent{n}") for n in range(2)]
            calls = [kernel.submit(one, "llm_generate", args()) for one in who]
            assert [(await call.future).message.content for call in calls if call.future is not None] == [WHOLE] * 2
            assert core.resume == "none"
            assert "refused to continue" in kernel.llm.info()[0].detail["found"]


# ── a server dies in the middle ──


async def test_an_answer_that_broke_off_is_carried_on_where_it_can_be() -> None:
    async with serving(Server("vllm", dies_after=7)) as at, serving(Server("llama")) as other:
        cores = [
            OpenAICore(CoreSection(name=name, kind="openai", base_url=url, model="tale", server=kind))
            for name, url, kind in (("a", at.url, "vllm"), ("b", other.url, "llama"))
        ]
        async with booted(cores=cores) as kernel:
            chunks: list[Chunk] = []
            done = await kernel.call(principal(kernel), "llm_generate", args(model="tale"), on_chunk=chunks.append)
            assert done.message.content == "".join(chunk.text for chunk in chunks) == WHOLE
            assert (done.core, len(at.seen), len(other.seen)) == ("b", 1, 1)
            assert other.seen[0]["messages"][-1] == {"role": "assistant", "content": "".join(STORY[:7])}
            ids = {json.loads(e[6:])["id"] for c in chunks for e in c.raw.split(b"\n\n") if e}
            assert ids == {"chat-1"}


async def test_an_answer_that_broke_off_is_carried_on_by_the_same_core_when_it_is_back() -> None:
    async with serving(Server("vllm", dies_after=7)) as at:
        core = OpenAICore(CoreSection(name="far", kind="openai", base_url=at.url, model="tale", server="vllm"))
        async with booted(cores=[core]) as kernel:
            chunks: list[Chunk] = []
            done = await kernel.call(principal(kernel), "llm_generate", args(), on_chunk=chunks.append)
            assert done.message.content == "".join(chunk.text for chunk in chunks) == WHOLE
            assert len(at.seen) == 2


async def test_an_answer_that_broke_off_and_cannot_be_carried_on_ends_in_one_error() -> None:
    async with serving(Server("openai", dies_after=7)) as at:
        core = OpenAICore(CoreSection(name="far", kind="openai", base_url=at.url, model="tale"))
        async with booted(cores=[core]) as kernel:
            chunks: list[Chunk] = []
            with pytest.raises(AiosError, match="core 'far'"):
                await kernel.call(principal(kernel), "llm_generate", args(), on_chunk=chunks.append)
            assert "".join(chunk.text for chunk in chunks) == "".join(STORY[:7])
            assert len(at.seen) == 1


async def test_an_answer_of_which_nothing_was_said_but_its_role_is_begun_again_anywhere() -> None:
    async with serving(Server("openai", dies_after=0)) as at:
        core = OpenAICore(CoreSection(name="far", kind="openai", base_url=at.url, model="tale"))
        async with booted(cores=[core]) as kernel:
            chunks: list[Chunk] = []
            done = await kernel.call(principal(kernel), "llm_generate", args(), on_chunk=chunks.append)
            assert done.message.content == "".join(chunk.text for chunk in chunks) == WHOLE
            assert len(at.seen) == 2
            raw = b"".join(chunk.raw for chunk in chunks)
            assert (raw.count(b'"role"'), raw.count(b"chat-2"), raw.count(b'"finish_reason":"stop"')) == (1, 0, 1)


async def test_a_core_of_another_kind_goes_on_with_what_a_server_said() -> None:
    async with serving(Server("vllm", dies_after=7)) as at:
        far = OpenAICore(CoreSection(name="far", kind="openai", base_url=at.url, model="tale", server="vllm"))
        near = ScriptedCore(WHOLE, name="near", model="tale")
        async with booted(cores=[far, near]) as kernel:
            chunks: list[Chunk] = []
            done = await kernel.call(principal(kernel), "llm_generate", args(model="tale"), on_chunk=chunks.append)
            assert "".join(chunk.text for chunk in chunks) == WHOLE
            assert done.core == "near"


async def test_a_half_said_stop_string_is_known_again_behind_the_seam() -> None:
    story = ("one", " EN", "D", " two")
    async with serving(Server("vllm", story=story, dies_after=2)) as at:
        core = OpenAICore(CoreSection(name="far", kind="openai", base_url=at.url, model="tale", server="vllm"))
        async with booted(cores=[core]) as kernel:
            chunks: list[Chunk] = []
            done = await kernel.call(principal(kernel), "llm_generate", args(stop=" END"), on_chunk=chunks.append)
            assert (done.message.content, done.finish_reason) == ("one EN", "stop")
            assert "".join(chunk.text for chunk in chunks) == "one EN"


async def test_a_core_that_is_busy_when_the_rest_is_due_does_not_lose_what_was_said() -> None:
    async with serving(Server("vllm")) as at:
        core = await opened(at, server="vllm")
        listener = Listener(core, at, args())
        request = Request("c1", args(), listener.chunks.append, None, True)
        outcome = await core.run(request, 4)
        assert isinstance(outcome, Suspended)
        await until(lambda: not at.active)
        at.refuses = 1
        with pytest.raises(NotBegun) as refusal:
            await core.run(Request("c1", args(), listener.chunks.append, None, True, outcome.snapshot), 4)
        assert refusal.value.said == outcome.snapshot
        await core.close()


async def test_an_interrupt_frees_the_servers_slot_though_it_has_much_to_say() -> None:
    async with serving(Server("vllm", pause=30.0)) as at:
        core = await opened(at, server="vllm")
        asking = asyncio.create_task(core.run(Request("c1", args(), lambda chunk: None, None, True), 100))
        await until(lambda: at.active == 1)
        asking.cancel()
        async with asyncio.timeout(5):
            await at.left.wait()
        assert (at.active, core.statistics()["active"]) == (0, 0)
        await core.close()


# ── what a server can do ──


@pytest.mark.parametrize(
    ("kind", "resume", "context", "slots"),
    [
        ("vllm", "prefill_text", 2048, 8),
        ("sglang", "prefill_text", 2048, 8),
        ("llama", "prefill_text", 4096, 2),
        ("ollama", "none", None, 8),
        ("openai", "none", None, 8),
    ],
)
async def test_a_server_is_asked_what_it_is(kind: str, resume: str, context: int | None, slots: int) -> None:
    async with serving(Server(kind)) as at:
        core = await opened(at)
        await until(lambda: core.statistics()["found"] == "as its server says")
        assert (core.resume, core.context_length, core.slots) == (resume, context, slots)
        assert core.statistics()["server"] == kind
        await core.close()


async def test_what_is_declared_goes_before_what_is_found() -> None:
    async with serving(Server("vllm")) as at:
        core = await opened(at, server="vllm", resume="none", context_length=100)
        await until(lambda: core.statistics()["found"] == "as its server says")
        assert (core.resume, core.context_length) == ("none", 100)
        await core.close()


@pytest.mark.parametrize(
    ("section", "sent"), [({}, None), ({"priority": "low_first"}, 5), ({"priority": "high_first"}, -5)]
)
async def test_a_priority_goes_up_only_where_it_was_declared(section: dict[str, Any], sent: int | None) -> None:
    async with serving(Server("vllm")) as at:
        core = await opened(at, server="vllm", **section)
        await core.run(Request("c1", args(), lambda chunk: None, None, True, nice=5), None)
        assert at.seen[0].get("priority") == sent
        await core.close()

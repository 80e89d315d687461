"""Half an answer of a server outlives the kernel that was stopped: the next one goes on behind what was said."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from upstream import STORY, Server, serving

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError, Stopping
from aios.abi.messages import Chunk, ContextReport, Generation, Message
from aios.kernel import Kernel, Syscall
from aios.kernel.config import Config, ContextSection, CoreSection
from aios.kernel.llm.base import Core, Said
from aios.kernel.llm.manager import half_said
from aios.kernel.llm.remote.openai import OpenAICore
from aios.testing import ScriptedCore, booted, principal, until

pytestmark = pytest.mark.anyio
WHOLE = "".join(STORY)
AGENTS = 2


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


def core(at: Server, **section: Any) -> OpenAICore:
    given = {"slots": 1, "server": "vllm", "model": "tale", **section}
    return OpenAICore(CoreSection(name="far", kind="openai", base_url=at.url, **given))


def settings(at: Core, home: Path, **more: Any) -> dict[str, Any]:
    return {"cores": [at], "home": home, "policy": "rr", "quantum": 3, **more}


def submit(kernel: Kernel, n: int, chunks: list[Chunk] | None = None, **more: Any) -> Syscall:
    args = LLMGenerate(messages=[Message("user", "tell me")], seed=n, logprobs=None, **more)
    heard = chunks.append if chunks is not None else None
    return kernel.submit(principal(kernel, f"agent{n}"), "llm_generate", args, key="k", on_chunk=heard)


async def interrupted(at: Server, home: Path, **more: Any) -> None:
    """A kernel that was stopped when each call had said some tokens."""
    async with booted(**settings(core(at), home, **more)) as kernel:
        calls = [submit(kernel, n) for n in range(AGENTS)]
        await until(lambda: all(isinstance(call.snapshot, Said) and call.snapshot.tokens >= 6 for call in calls))
        await kernel.stop(drain=0.0)
        for call in calls:
            with pytest.raises(Stopping):
                await kernel.wait(call)
    await until(lambda: not at.active)


def asked_after(at: Server) -> list[str]:
    """What was to be gone on behind, of the requests so far."""
    return [body["messages"][-1]["content"] for body in at.seen if body["messages"][-1]["role"] == "assistant"]


def whys(kernel: Kernel) -> list[str]:
    return [row.why for row in kernel.trace.rows if row.why]


def left_of(home: Path) -> list[Path]:
    return list((home / "swap" / "context").iterdir())


async def test_what_a_server_has_said_outlives_the_kernel_and_the_rest_follows_without_a_seam(tmp_path: Path) -> None:
    async with serving(Server("vllm")) as at:
        await interrupted(at, tmp_path)
        assert len(left_of(tmp_path)) == AGENTS
        at.seen.clear()
        async with booted(**settings(core(at), tmp_path)) as kernel:
            heard: list[list[Chunk]] = [[] for _ in range(AGENTS)]
            calls = [submit(kernel, n, heard[n]) for n in range(AGENTS)]
            answers: list[Generation] = await asyncio.gather(*map(kernel.wait, calls))
            assert whys(kernel).count("resumed from its text") == AGENTS
        asked = asked_after(at)
        assert len(asked) == len(at.seen), "nothing is begun anew"
    assert [answer.message.content for answer in answers] == [WHOLE] * AGENTS
    assert ["".join(chunk.text for chunk in each) for each in heard] == [WHOLE] * AGENTS
    assert all(each[0].text in asked for each in heard), "who listens hears the beginning first"
    assert all(each[0].tokens >= 6 for each in heard)
    assert not any(chunk.raw for each in heard for chunk in each), "the stream has one name, which is not a server's"
    assert [call.tokens_out for call in calls] == [len(STORY)] * AGENTS
    assert [answer.usage.completion_tokens for answer in answers] == [len(STORY)] * AGENTS
    assert left_of(tmp_path) == []


async def test_a_call_that_is_cut_short_again_before_its_turn_keeps_what_was_said(tmp_path: Path) -> None:
    async with serving(Server("vllm")) as at:
        await interrupted(at, tmp_path)
        busy = core(at)
        busy.can_take = lambda snapshot, active=0: False  # type: ignore[method-assign]
        async with booted(**settings(busy, tmp_path)) as kernel:
            await kernel.stop(drain=0.0)
        assert len(left_of(tmp_path)) == AGENTS
        at.seen.clear()
        async with booted(**settings(core(at), tmp_path)) as kernel:
            calls = [submit(kernel, n) for n in range(AGENTS)]
            assert [(await kernel.wait(call)).message.content for call in calls] == [WHOLE] * AGENTS
        assert len(asked_after(at)) == len(at.seen)


async def test_a_core_of_another_kind_goes_on_with_what_a_server_had_said(tmp_path: Path) -> None:
    async with serving(Server("vllm")) as at:
        await interrupted(at, tmp_path)
    other = ScriptedCore(WHOLE, name="far", model="tale", resume="prefill_text")
    async with booted(**settings(other, tmp_path)) as kernel:
        heard: list[list[Chunk]] = [[] for _ in range(AGENTS)]
        await asyncio.gather(*(kernel.wait(submit(kernel, n, heard[n])) for n in range(AGENTS)))
    assert ["".join(chunk.text for chunk in each) for each in heard] == [WHOLE] * AGENTS


@pytest.mark.parametrize("spoil", ["another server", "damaged", "no disk"])
async def test_where_half_an_answer_is_of_no_use_it_is_begun_anew_and_that_is_told(tmp_path: Path, spoil: str) -> None:
    async with serving(Server("vllm")) as at:
        context = Config(context=ContextSection(disk_bytes=0)) if spoil == "no disk" else Config()
        await interrupted(at, tmp_path, config=context)
        if spoil == "damaged":
            for file in left_of(tmp_path):
                file.write_bytes(b"\0" * 200)
        at.seen.clear()
        after = core(at, resume="none") if spoil == "another server" else core(at)
        async with booted(**settings(after, tmp_path)) as kernel:
            heard: list[Chunk] = []
            answers = [await kernel.wait(submit(kernel, 0, heard)), await kernel.wait(submit(kernel, 1))]
            told = [why for why in whys(kernel) if why.startswith("begun anew")]
        assert at.seen[0]["messages"][-1]["role"] == "user"
    assert [answer.message.content for answer in answers] == [WHOLE] * AGENTS
    assert "".join(chunk.text for chunk in heard) == WHOLE
    why = {"another server": "no core that is ready goes on with half an answer", "damaged": "not a snapshot"}
    assert len(told) == (0 if spoil == "no disk" else AGENTS)
    assert all(why[spoil] in each for each in told)
    assert left_of(tmp_path) == []


@pytest.mark.parametrize("is_heard", [False, True])
async def test_where_the_server_refuses_to_go_on_who_has_heard_nothing_gets_an_answer_from_its_beginning(
    tmp_path: Path, is_heard: bool
) -> None:
    async with serving(Server("vllm")) as at:
        await interrupted(at, tmp_path)
        at.refuses_to_continue = True
        after = core(at)
        can_take, after.can_take = after.can_take, lambda snapshot, active=0: False  # type: ignore[method-assign]
        async with booted(**settings(after, tmp_path)) as kernel:
            call = submit(kernel, 0, [] if is_heard else None)
            assert call.is_heard is is_heard
            after.can_take = can_take  # type: ignore[method-assign]
            kernel.queues["llm"].pump()
            if is_heard:
                with pytest.raises(AiosError, match="does not go on with half an answer"):
                    await kernel.wait(call)
            else:
                assert (await kernel.wait(call)).message.content == WHOLE
                assert call.tokens_out == len(STORY)


def test_an_answer_to_a_summary_is_not_left_for_another_run_that_may_make_another_one() -> None:
    call: Any = SimpleNamespace(snapshot=Said("half", 1), context=ContextReport("drop", 3))
    assert half_said(call) is not None
    call.context = ContextReport("summarise", 3, summary="much was said")
    assert half_said(call) is None

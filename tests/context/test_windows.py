"""Calls whose messages do not fit: refused with the counts, or made to fit as they asked, and told so."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from aios.abi import calls as abi
from aios.abi.errors import BadRequest, ContextLengthExceeded, ModuleFault
from aios.abi.messages import Generation, Message
from aios.kernel import Config
from aios.kernel.config import ContextSection, CoreSection
from aios.kernel.llm.measure import check_length, estimate
from aios.kernel.llm.nano import NanoCore
from aios.kernel.llm.remote.openai import OpenAICore
from aios.testing import ScriptedCore, booted, principal, until

pytestmark = pytest.mark.anyio


LONG = [
    Message("system", "be brief"),
    *(message for n in range(5) for message in (Message("user", f"q{n} " * 10), Message("assistant", f"a{n} " * 10))),
    Message("user", "and now"),
]
"""104 words."""


def ask(messages: list[Message] = LONG, **more: Any) -> abi.LLMGenerate:
    return abi.LLMGenerate(messages=messages, **more)


def small(script: Any = "ok", **more: Any) -> ScriptedCore:
    return ScriptedCore(script, context_length=64, **more)


async def test_what_does_not_fit_is_an_error_unless_something_else_was_asked_for() -> None:
    async with booted(cores={"one": small()}) as kernel:
        with pytest.raises(ContextLengthExceeded):
            await kernel.call(principal(kernel), "llm_generate", ask())
        with pytest.raises(ContextLengthExceeded):
            await kernel.call(principal(kernel), "llm_generate", ask(window="error"))


async def test_dropping_leaves_out_the_oldest_turns_and_says_how_much() -> None:
    core = small()
    async with booted(cores={"one": core}) as kernel:
        answer = await kernel.call(principal(kernel), "llm_generate", ask(window="drop"))
        (seen,) = core.seen
        assert seen.messages == [LONG[0], *LONG[7:]]
        assert answer.context.policy == "drop"
        assert (answer.context.dropped_messages, answer.context.dropped_tokens) == (6, 60)
        assert not answer.context.is_estimate


async def test_what_fits_is_left_alone_and_nothing_is_reported() -> None:
    core = small()
    async with booted(cores={"one": core}) as kernel:
        answer = await kernel.call(principal(kernel), "llm_generate", ask(LONG[-1:], window="drop"))
        assert answer.context is None
        assert core.seen[0].messages == LONG[-1:]


async def test_what_must_stay_and_does_not_fit_is_an_error_with_the_counts() -> None:
    async with booted(cores={"one": small()}) as kernel:
        too_much = [*LONG, Message("user", "x " * 80)]
        with pytest.raises(ContextLengthExceeded, match=r"82 of the 184") as caught:
            await kernel.call(principal(kernel), "llm_generate", ask(too_much, window="drop"))
        assert caught.value.param == "messages"
        assert not kernel.windows.statistics()["under_way"]


async def test_a_process_has_a_default_which_its_children_inherit_and_a_call_may_overrule() -> None:
    async with booted(cores={"one": small()}) as kernel:
        admin = principal(kernel, is_admin=True)
        spawned = await kernel.call(admin, "proc_spawn", abi.ProcSpawn(agent="a", window="drop"))
        parent = kernel.authenticate(spawned.key)
        assert (await kernel.call(parent, "llm_generate", ask())).context.dropped_messages == 6
        spawned = await kernel.call(parent, "proc_spawn", abi.ProcSpawn(agent="a"))
        child = kernel.authenticate(spawned.key)
        assert (await kernel.call(child, "llm_generate", ask())).context.dropped_messages == 6
        with pytest.raises(ContextLengthExceeded):
            await kernel.call(child, "llm_generate", ask(window="error"))


async def test_a_process_keeps_its_default_over_a_restart(tmp_path: Path) -> None:
    async with booted(cores={"one": small()}, home=tmp_path) as kernel:
        spawned = await kernel.call(
            principal(kernel, is_admin=True), "proc_spawn", abi.ProcSpawn(agent="a", window="drop")
        )
        await kernel.call(kernel.authenticate(spawned.key), "llm_generate", ask(LONG[-1:]))
    async with booted(cores={"one": small()}, home=tmp_path) as kernel:
        answer = await kernel.call(kernel.authenticate(spawned.key), "llm_generate", ask())
        assert answer.context.dropped_messages == 6


async def test_a_call_that_was_open_when_the_kernel_ended_is_made_to_fit_again(tmp_path: Path) -> None:
    core = small()
    core.gate.clear()
    async with booted(cores={"one": core}, home=tmp_path) as kernel:
        who = principal(kernel)
        kernel.submit(who, "llm_generate", ask(window="drop"), key="k")
        await core.entered(1)
    second = small()
    async with booted(cores={"one": second}, home=tmp_path) as kernel:
        answer = await kernel.call(who, "llm_generate", ask(window="drop"), key="k")
        assert answer.context.dropped_messages == 6
        assert [args.messages for args in second.seen] == [core.seen[0].messages]


async def test_the_configuration_has_the_last_word_where_nobody_else_speaks() -> None:
    config = Config(context=ContextSection(window="drop"))
    async with booted(cores={"one": small()}, config=config) as kernel:
        assert (await kernel.call(principal(kernel), "llm_generate", ask())).context.dropped_messages == 6


async def test_a_summary_is_a_generation_of_the_same_process_and_stands_in_for_what_was_dropped() -> None:
    core = small(lambda args: "they met" if "Summarise" in args.messages[0].text() else "ok")
    async with booted(cores={"one": core}) as kernel:
        who = principal(kernel)
        call = kernel.submit(who, "llm_generate", ask(window="summarise", max_tokens=5))
        answer: Generation = await kernel.wait(call)
        assert answer.message.text() == "ok"
        assert answer.context is not None
        assert answer.context.policy == "summarise"
        assert answer.context.summary == "they met"
        assert answer.context.dropped_tokens == 10 * answer.context.dropped_messages
        *summaries, final = core.seen
        assert summaries
        assert all("Summarise" in args.messages[0].text() for args in summaries)
        assert "q0" in summaries[0].messages[1].text()
        assert final.messages[0].text().startswith("be brief")
        assert "they met" in final.messages[0].text()
        assert final.messages[-1] == LONG[-1]
        assert call.process.num_calls == len(core.seen)
        assert call.process.tokens_out == 2 * len(summaries) + 1


async def test_one_slot_is_enough_for_a_call_and_the_summary_that_it_waits_for() -> None:
    core = small(lambda args: "brief" if "Summarise" in args.messages[0].text() else "ok", slots=1)
    async with booted(cores={"one": core}) as kernel, asyncio.timeout(10):
        who = principal(kernel)
        answers = await asyncio.gather(
            *(kernel.call(who, "llm_generate", ask(window="summarise", max_tokens=5, seed=n)) for n in range(4))
        )
        assert [answer.message.text() for answer in answers] == ["ok"] * 4


async def test_a_model_of_its_own_may_write_the_summaries() -> None:
    writer = ScriptedCore("they met", name="writer", model="writer-1")
    config = Config(context=ContextSection(window="summarise", summarise_with="writer"))
    async with booted(cores={"one": small(), "writer": writer}, config=config) as kernel:
        answer = await kernel.call(principal(kernel), "llm_generate", ask(model="scripted", max_tokens=5))
        assert answer.context.summary == "they met"
        assert len(writer.seen) == 1


async def test_a_model_that_has_nothing_to_say_for_a_summary_is_an_error() -> None:
    async with booted(cores={"one": small("")}) as kernel:
        with pytest.raises(ModuleFault, match="nothing to say"):
            await kernel.call(principal(kernel), "llm_generate", ask(window="summarise", max_tokens=5))


async def test_a_call_that_is_cancelled_while_its_summary_is_made_takes_that_along() -> None:
    core = small()
    core.gate.clear()
    async with booted(cores={"one": core}) as kernel:
        call = kernel.submit(principal(kernel), "llm_generate", ask(window="summarise", max_tokens=5))
        await core.entered(1)
        assert call.state.value == "blocked"
        kernel.cancel(call)
        await until(lambda: not call.process.open_calls and not kernel.windows.statistics()["under_way"])
        assert not core.inside
        assert call.state.value == "cancelled"
        assert kernel.queues["llm"].num_expected == 0


async def test_a_stopped_process_stays_stopped_though_its_messages_fit_by_now() -> None:
    counts = threading.Event()

    class Slow(ScriptedCore):
        def count(self, args: abi.LLMGenerate) -> int:
            counts.wait(10)
            return super().count(args)

    async with booted(cores={"one": Slow(context_length=64)}) as kernel:
        admin = principal(kernel, is_admin=True)
        call = kernel.submit(principal(kernel), "llm_generate", ask(window="drop"))
        await until(lambda: kernel.windows.statistics()["under_way"] == 1)
        stop = abi.ProcSignal(pid=call.process.pid, signal="stop")
        await kernel.call(admin, "proc_signal", stop)
        counts.set()
        await until(lambda: not kernel.windows.statistics()["under_way"])
        assert call.state.value == "blocked"
        await kernel.call(admin, "proc_signal", abi.ProcSignal(pid=call.process.pid, signal="cont"))
        async with asyncio.timeout(10):
            assert (await kernel.wait(call)).message.text() == "ok"


async def test_a_repeat_under_a_key_tells_the_same_report() -> None:
    async with booted(cores={"one": small()}) as kernel:
        who = principal(kernel)
        first = await kernel.call(who, "llm_generate", ask(window="drop"), key="k")
        again = await kernel.call(who, "llm_generate", ask(window="drop"), key="k")
        assert first.context is not None
        assert again.context == first.context


async def test_our_own_model_counts_its_own_tokens() -> None:
    messages = [Message("user" if n % 2 == 0 else "assistant", "some words that take room " * 20) for n in range(81)]
    async with booted(cores={"nano": NanoCore()}) as kernel:
        who = principal(kernel)
        with pytest.raises(ContextLengthExceeded, match=r"\d+ in the messages and tools"):
            await kernel.call(who, "llm_generate", ask(messages, max_tokens=4))
        answer = await kernel.call(who, "llm_generate", ask(messages, max_tokens=4, window="drop"))
        context = kernel.llm.core("nano").context_length
        assert context is not None
        assert context // 2 < answer.usage.prompt_tokens <= context - 4
        whole = kernel.llm.measure("nano")
        assert whole is not None
        assert whole.count(ask(messages)) - answer.context.dropped_tokens == answer.usage.prompt_tokens


def remote(context: int | None) -> OpenAICore:
    section = CoreSection(name="far", kind="openai", base_url="http://127.0.0.1:1/v1", context_length=context)
    return OpenAICore(section)


def test_a_remote_core_refuses_what_cannot_fit_and_says_that_it_estimates() -> None:
    question = ask([Message("user", "x" * 8000)])
    with pytest.raises(ContextLengthExceeded, match="an estimate"):
        check_length(remote(900), question)
    check_length(remote(1100), question)
    check_length(remote(None), question)
    assert estimate(question) > 8000 / 3


async def test_an_unknown_word_for_the_window_is_refused() -> None:
    with pytest.raises(BadRequest, match="drop"):
        abi.convert_args(abi.spec_of("llm_generate"), {"messages": [{"role": "user"}], "window": "dropp"})

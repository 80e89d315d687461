"""Calls whose messages do not fit: refused with the counts, or made to fit as they asked, and told so."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aios.abi import calls as abi
from aios.abi.errors import (
    AiosError,
    BadRequest,
    Cancelled,
    ContextLengthExceeded,
    Full,
    ModuleFault,
    TimedOut,
    UpstreamFault,
)
from aios.abi.messages import FunctionCall, Generation, Message, ToolCall
from aios.kernel import Config
from aios.kernel.config import ContextSection, CoreSection
from aios.kernel.llm.base import Request
from aios.kernel.llm.measure import check_length, estimate
from aios.kernel.llm.nano import NanoCore
from aios.kernel.llm.remote.openai import OpenAICore
from aios.testing import MockClock, ScriptedCore, booted, principal, settle, until

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
        says = r"window is 64 tokens; what must stay .* takes 82, the answer at least 1; shorten those"
        with pytest.raises(ContextLengthExceeded, match=says) as caught:
            await kernel.call(principal(kernel), "llm_generate", ask(too_much, window="drop"))
        assert caught.value.param == "messages"
        assert not len(kernel.preparation)


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


# ── summaries ──

TOLD = [
    Message("system", "be brief"),
    *(message for n in range(20) for message in (Message("user", f"q{n} " * 10), Message("assistant", f"a{n} " * 10))),
    Message("user", "and now"),
]
"""404 words."""


def is_summary(args: abi.LLMGenerate) -> bool:
    return "Summarise" in args.messages[0].text()


def writing(summary: Any, **more: Any) -> ScriptedCore:
    """A core of 200 words that gives `summary` where it is asked for one."""

    def script(args: abi.LLMGenerate) -> Any:
        return (summary(args) if callable(summary) else summary) if is_summary(args) else "ok"

    return ScriptedCore(script, context_length=200, **more)


def told(**more: Any) -> abi.LLMGenerate:
    return ask(TOLD, window="summarise", max_tokens=5, **more)


async def test_a_summary_is_a_generation_of_the_same_process_and_stands_in_for_what_was_dropped() -> None:
    core = writing("they met")
    async with booted(cores={"one": core}) as kernel:
        call = kernel.submit(principal(kernel), "llm_generate", told())
        answer: Generation = await kernel.wait(call)
        assert answer.message.text() == "ok"
        assert answer.context is not None
        assert answer.context.policy == "summarise"
        assert answer.context.summary == "they met"
        assert not answer.context.is_summary_cut
        assert answer.context.dropped_tokens == 10 * answer.context.dropped_messages
        *summaries, final = core.seen
        assert len(summaries) > 1
        assert all(is_summary(args) for args in summaries)
        assert "q0" in summaries[0].messages[0].text()
        assert "they met" not in summaries[0].messages[0].text()
        assert all("they met" in args.messages[0].text() for args in summaries[1:])
        assert final.messages[0].text().startswith("be brief")
        assert "they met" in final.messages[0].text()
        assert final.messages[-1] == TOLD[-1]
        assert call.process.num_calls == len(core.seen)
        assert call.process.tokens_out == 2 * len(summaries) + 1


async def test_all_that_was_dropped_is_read_by_whoever_summarises_it() -> None:
    core = writing("they met")
    async with booted(cores={"one": core}) as kernel:
        answer = await kernel.call(principal(kernel), "llm_generate", told())
        read = "".join(args.messages[0].text() for args in core.seen[:-1])
        dropped = TOLD[1 : 1 + answer.context.dropped_messages]
        assert all(message.text().split()[0] in read for message in dropped)


async def test_one_slot_is_enough_for_a_call_and_the_summary_that_it_waits_for() -> None:
    async with booted(cores={"one": writing("brief", slots=1)}) as kernel, asyncio.timeout(10):
        who = principal(kernel)
        answers = await asyncio.gather(*(kernel.call(who, "llm_generate", told(seed=n)) for n in range(4)))
        assert [answer.message.text() for answer in answers] == ["ok"] * 4


async def test_a_model_of_its_own_may_write_the_summaries() -> None:
    writer = ScriptedCore("they met", name="writer", model="writer-1")
    config = Config(context=ContextSection(window="summarise", summarise_with="writer"))
    async with booted(cores={"one": writing("-"), "writer": writer}, config=config) as kernel:
        answer = await kernel.call(principal(kernel), "llm_generate", told(model="scripted"))
        assert answer.context.summary == "they met"
        assert len(writer.seen) == 1


@pytest.mark.parametrize("policy", ["drop", "summarise"])
async def test_a_template_that_takes_no_system_message_is_given_none(policy: Any) -> None:
    def script(args: abi.LLMGenerate) -> Any:
        if any(message.role == "system" for message in args.messages):
            return BadRequest("no system here")
        return "they met" if is_summary(args) else "ok"

    async with booted(cores={"one": ScriptedCore(script, context_length=200)}) as kernel:
        asked = ask(TOLD[1:], window=policy, max_tokens=5)
        assert (await kernel.call(principal(kernel), "llm_generate", asked)).message.text() == "ok"


async def test_a_summary_of_which_more_was_to_be_said_is_told_to_be_cut() -> None:
    cut = iter([True])
    core = writing(lambda args: " ".join(["word"] * (args.max_tokens if next(cut, False) else 3)))
    async with booted(cores={"one": core}) as kernel:
        answer = await kernel.call(principal(kernel), "llm_generate", told())
        assert len(core.seen) > 2
        assert answer.context.is_summary_cut  # though the last piece was told whole


async def test_what_is_too_long_to_be_summarised_is_refused_before_anything_is_asked() -> None:
    core = writing("they met")
    async with booted(cores={"one": core}) as kernel:
        much = [Message("user", f"q{n} " * 100) for n in range(100)]
        with pytest.raises(ContextLengthExceeded, match=r"too long for the default model to summarise in 32 pieces"):
            await kernel.call(principal(kernel), "llm_generate", ask([*much, *TOLD], window="summarise", max_tokens=5))
        assert core.seen == []


# ── a summary that fails: one clear end, and nothing is dropped instead ──


async def fails(core: ScriptedCore, kind: type[AiosError], says: str, code: str) -> AiosError:
    async with booted(cores={"one": core}) as kernel:
        with pytest.raises(kind, match=says) as caught:
            await kernel.call(principal(kernel), "llm_generate", told(model="scripted"))
        assert type(caught.value) is kind
        assert caught.value.code == code
        assert all(is_summary(args) for args in core.seen)
        assert not len(kernel.preparation)
        assert kernel.windows.statistics()["dropped_messages"] == 0
        assert (await kernel.call(principal(kernel), "llm_generate", ask(TOLD[-1:]))).message.text() == "ok"
    return caught.value


async def test_a_summary_whose_core_errs_ends_the_call_with_that_error_and_says_that_it_was_the_summary() -> None:
    says = r"model 'scripted' could not write the summary of what does not fit: out of order"
    await fails(writing(ModuleFault("out of order")), ModuleFault, says, "module_failed")
    upstream = UpstreamFault("out of order", code="upstream_unreachable", retry_after=7)
    assert (await fails(writing(upstream), UpstreamFault, says, "upstream_unreachable")).retry_after == 7
    await fails(writing(Full("out of order", retry_after=3)), Full, says, "queue_full")


async def test_an_empty_summary_ends_the_call() -> None:
    says = r"model 'scripted' had nothing to say for a summary \(it ended with 'stop' after 0 tokens\); ask with window"
    await fails(writing(""), ModuleFault, says, "no_summary")


async def test_an_empty_summary_of_one_piece_does_not_pass_for_one_of_all() -> None:
    said = iter(["they met", ""])
    await fails(writing(lambda args: next(said)), ModuleFault, "nothing to say", "no_summary")


async def test_a_model_that_is_cut_off_before_it_says_anything_has_nothing_to_say() -> None:
    says = r"nothing to say for a summary \(it ended with 'length' after 25 tokens\)"
    thinks = Message("assistant", "", tool_calls=[ToolCall("a", FunctionCall("f", "x" * 8 * 40))])
    await fails(writing(thinks), ModuleFault, says, "no_summary")


async def test_a_summary_longer_than_what_it_stands_for_ends_the_call() -> None:
    class Talkative(ScriptedCore):
        """Hears nothing of max_tokens."""

        async def run(self, request: Request, quantum: int | None) -> Any:
            if is_summary(request.args):
                args = msgspec.structs.replace(request.args, max_tokens=None)
                request = dataclasses.replace(request, args=args)
            return await super().run(request, quantum)

    core = Talkative(lambda args: "word " * 500 if is_summary(args) else "ok", context_length=200)
    few = [Message("system", "be brief"), *TOLD[-13:]]
    async with booted(cores={"one": core}) as kernel:
        says = (
            r"model 'scripted' wrote a summary that takes 5\d\d tokens, of 25 that it was asked for; there is room for"
        )
        with pytest.raises(ModuleFault, match=says) as caught:
            asked = ask([*few[:1], Message("user", "x " * 80), *few[1:]], window="summarise", max_tokens=5)
            await kernel.call(principal(kernel), "llm_generate", msgspec.structs.replace(asked, model="scripted"))
        assert caught.value.code == "summary_too_long"
        assert len(core.seen) == 1


async def test_a_summary_that_somebody_cancels_is_no_cancelling_of_the_call() -> None:
    says = r"could not write the summary .*: the core was removed"
    await fails(writing(Cancelled("the core was removed")), ModuleFault, says, "summary_cancelled")


async def test_a_call_whose_time_is_up_while_its_summary_is_made_says_so() -> None:
    core, clock = writing("they met"), MockClock()
    core.gate.clear()
    async with booted(cores={"one": core}, clock=clock) as kernel:
        call = kernel.submit(principal(kernel), "llm_generate", told(), timeout=5)
        await core.entered(1)
        clock.advance(5)
        with pytest.raises(
            TimedOut, match=r"after 5 s \(it was blocked: the default model writes a summary of what"
        ) as e:
            await kernel.wait(call)
        assert "piece 1 of" in str(e.value)
        await until(lambda: not call.process.open_calls and not core.inside)


async def test_a_call_that_is_cancelled_while_its_summary_is_made_takes_that_along() -> None:
    core = writing("they met")
    core.gate.clear()
    async with booted(cores={"one": core}) as kernel:
        call = kernel.submit(principal(kernel), "llm_generate", told())
        await core.entered(1)
        assert call.state.value == "blocked"
        kernel.cancel(call)
        await until(lambda: not call.process.open_calls and not len(kernel.preparation))
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
        await until(lambda: len(kernel.preparation) == 1)
        stop = abi.ProcSignal(pid=call.process.pid, signal="stop")
        await kernel.call(admin, "proc_signal", stop)
        counts.set()
        await until(lambda: not len(kernel.preparation))
        assert call.state.value == "blocked"
        await kernel.call(admin, "proc_signal", abi.ProcSignal(pid=call.process.pid, signal="cont"))
        async with asyncio.timeout(10):
            assert (await kernel.wait(call)).message.text() == "ok"


class Held(ScriptedCore):
    """Counts nothing of whoever says so before `gates` is set; `counted` is how often it was asked to."""

    def __init__(self) -> None:
        super().__init__(context_length=64)
        self.gates = threading.Event()
        self.counted = 0

    def count(self, args: abi.LLMGenerate) -> int:
        if args.messages[-1].text() == "slowly":
            self.counted += 1
            self.gates.wait(20)
        return super().count(args)


async def test_many_conversations_of_one_process_are_counted_in_turn_with_those_of_others() -> None:
    core = Held()
    slowly = [*LONG, Message("user", "slowly")]
    async with booted(cores={"one": core}) as kernel:
        who = principal(kernel, "many")
        many = [kernel.submit(who, "llm_generate", ask(slowly, window="drop")) for _ in range(40)]
        await until(lambda: core.counted > 0)
        try:
            async with asyncio.timeout(10):
                assert (await kernel.call(principal(kernel, "one"), "llm_generate", ask(window="drop"))).context
            assert core.counted == 1
        finally:
            core.gates.set()
        for call in many:
            assert (await kernel.wait(call)).context.dropped_messages


async def test_a_call_that_is_cancelled_while_it_is_counted_is_not_counted_on() -> None:
    core = Held()
    async with booted(cores={"one": core}) as kernel:
        slowly = ask([*LONG, Message("user", "slowly")], window="drop")
        call = kernel.submit(principal(kernel), "llm_generate", slowly)
        await until(lambda: core.counted > 0)
        kernel.cancel(call)
        for _ in range(3):  # who counts hears of it when the loop comes round
            await asyncio.sleep(0)
        core.gates.set()
        await until(lambda: not len(kernel.preparation))
        assert core.counted == 1
        assert not core.seen


async def test_what_is_counted_for_nobody_keeps_its_place_until_it_is_over_however_often_it_is_cancelled() -> None:
    core = Held()
    async with booted(cores={"one": core}) as kernel:
        slowly = ask([*LONG, Message("user", "slowly")], window="drop")
        call = kernel.submit(principal(kernel), "llm_generate", slowly)
        await until(lambda: core.counted > 0)
        kernel.cancel(call)
        await settle()
        kernel.preparation.forget(call)
        await settle()
        assert len(kernel.preparation) == 1
        core.gates.set()
        await until(lambda: not len(kernel.preparation))


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

"""The published fakes keep the contracts they stand in for."""

from __future__ import annotations

import asyncio

import pytest

from aios.abi.calls import LLMGenerate
from aios.abi.errors import ContextLengthExceeded, UpstreamFault
from aios.abi.messages import Chunk, Generation, Message
from aios.kernel.llm.base import Request
from aios.kernel.syscall import Suspended
from aios.testing.clock import MockClock
from aios.testing.core import ScriptedCore, tool_call


def ask(text: str = "hello", **more: object) -> LLMGenerate:
    return LLMGenerate(messages=[Message(role="user", content=text)], seed=1, **more)


def run_whole(core: ScriptedCore, args: LLMGenerate, quantum: int | None) -> tuple[Generation, list[Chunk], int]:
    async def go() -> tuple[Generation, list[Chunk], int]:
        chunks: list[Chunk] = []
        snapshot, switches = None, 0
        while True:
            outcome = await core.run(Request("c1", args, chunks.append, snapshot), quantum)
            if not isinstance(outcome, Suspended):
                return outcome, chunks, switches
            assert outcome.tokens == quantum
            snapshot, switches = outcome.snapshot, switches + 1

    return asyncio.run(go())


@pytest.mark.parametrize("quantum", [1, 2, 3, None])
def test_an_interrupted_answer_is_the_uninterrupted_one(quantum: int | None) -> None:
    generation, chunks, switches = run_whole(ScriptedCore("one two three four five"), ask(), quantum)
    assert generation.message.content == "one two three four five"
    assert "".join(c.text for c in chunks) == "one two three four five"
    assert generation.usage.completion_tokens == 5
    assert switches == (0 if quantum is None else -(-5 // quantum) - 1)


def test_a_core_that_cannot_resume_ignores_the_quantum() -> None:
    _, _, switches = run_whole(ScriptedCore("one two three", resume="none"), ask(), 1)
    assert switches == 0


def test_tool_calls_come_in_pieces_that_join_to_the_call() -> None:
    generation, chunks, _ = run_whole(ScriptedCore(tool_call("calculator", expression="1 + 1")), ask(), 2)
    assert generation.finish_reason == "tool_calls"
    assert generation.message.tool_calls is not None
    deltas = [d for c in chunks for d in c.tool_calls or []]
    assert "".join(d.function.arguments or "" for d in deltas if d.function) == '{"expression":"1 + 1"}'


def test_a_list_of_replies_is_given_in_order_and_its_last_repeats() -> None:
    core = ScriptedCore(["a", "b"])
    assert [run_whole(core, ask(), None)[0].message.content for _ in range(3)] == ["a", "b", "b"]


def test_an_error_in_the_script_is_raised() -> None:
    with pytest.raises(UpstreamFault):
        run_whole(ScriptedCore(UpstreamFault("down")), ask(), None)


def test_max_tokens_and_the_window_are_minded() -> None:
    generation, _, _ = run_whole(ScriptedCore("a b c", tokens=10), ask(max_tokens=4), None)
    assert (generation.finish_reason, generation.usage.completion_tokens) == ("length", 4)
    with pytest.raises(ContextLengthExceeded):
        ScriptedCore(context_length=3).check(ask("a b c d"))


def test_the_gate_holds_calls_and_a_cancelled_one_leaves_at_once() -> None:
    async def go() -> None:
        core = ScriptedCore("a b")
        core.gate.clear()
        task = asyncio.create_task(core.run(Request("c1", ask(), lambda chunk: None), None))
        await core.entered(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not core.inside

    asyncio.run(go())


def test_timers_fire_in_order_at_their_own_time() -> None:
    clock, fired = MockClock(start=0.0), []
    clock.call_later(2, lambda: fired.append(("late", clock.now())))
    clock.call_later(1, lambda: fired.append(("early", clock.now())))
    clock.call_later(1, lambda: fired.append(("never", clock.now()))).cancel()
    clock.advance(1.5)
    assert fired == [("early", 1.0)]
    clock.advance(1)
    assert fired == [("early", 1.0), ("late", 2.0)]
    assert (clock.now(), clock.num_timers) == (2.5, 0)

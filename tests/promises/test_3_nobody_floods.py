"""Promise 3, nobody starves and nobody floods: bounds are kept, refusals are instant and say when to return."""

from __future__ import annotations

import asyncio

import pytest

from aios.abi.calls import LLMGenerate
from aios.abi.errors import Full
from aios.abi.messages import Message
from aios.gateway.errors import error_headers
from aios.kernel import Config
from aios.kernel.config import Scheduler
from aios.testing import ScriptedCore, booted, principal, until

pytestmark = pytest.mark.anyio


def ask() -> LLMGenerate:
    return LLMGenerate(messages=[Message(role="user", content="hello")])


async def test_ten_thousand_prompts_of_one_agent_are_bounded_and_another_is_served_within_two_turns() -> None:
    core = ScriptedCore(tokens=400, slots=1)
    core.gate.clear()
    async with booted(cores={"one": core}, config=Config(scheduler=Scheduler(policy="rr", quantum=4))) as kernel:
        flooder, modest = principal(kernel, "flooder"), principal(kernel, "modest")
        taken = []
        refusals: list[Full] = []
        for _ in range(10_000):
            try:
                taken.append(kernel.submit(flooder, "llm_generate", ask()))
            except Full as error:
                refusals.append(error)
        assert len(taken) == kernel.config.scheduler.max_open
        assert all(error.retry_after for error in refusals)
        call = kernel.submit(modest, "llm_generate", LLMGenerate(messages=ask().messages, max_tokens=4))
        await until(lambda: kernel.queues["llm"].policy.position(call) is not None)
        core.gate.set()
        await kernel.wait(call)
        served_before = sum(other.state.value == "done" for other in taken)
        assert served_before == 0
        turns = [row.pid for row in kernel.trace.rows if row.state == "running"]
        assert turns.index(call.process.pid) <= 2


async def test_every_waiting_process_gets_its_turn_in_each_round() -> None:
    core = ScriptedCore(tokens=40, slots=1)
    core.gate.clear()
    async with booted(cores={"one": core}, policy="rr", quantum=4) as kernel:
        agents = [principal(kernel, f"agent{n}") for n in range(8)]
        calls = [kernel.submit(who, "llm_generate", ask()) for who in agents for _ in range(3)]
        await until(lambda: len(kernel.queues["llm"].policy) == len(calls) - 1)
        core.gate.set()
        await asyncio.gather(*(kernel.wait(call) for call in calls))
        turns = [row.pid for row in kernel.trace.rows if row.state == "running"]
        for start in range(1, 64, 8):  # the very first turn fell before the others had come
            assert len(set(turns[start : start + 8])) == 8


@pytest.mark.parametrize(("after", "seconds", "milliseconds"), [(0.2, 1, 200), (1.0, 1, 1000), (1.2, 2, 1200)])
def test_nobody_is_told_to_return_before_there_is_room(after: float, seconds: int, milliseconds: int) -> None:
    headers = dict(error_headers(Full("no room", retry_after=after)))
    assert (int(headers[b"retry-after"]), int(headers[b"retry-after-ms"])) == (seconds, milliseconds)

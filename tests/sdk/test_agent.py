"""The loop of an agent: think, act, observe; what goes wrong with a tool is something to read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from fake_transport import FakeTransport, generation

from aios.abi.calls import ToolInfo, ToolResult, Tools
from aios.abi.errors import BadRequest, Cancelled, NotFound
from aios.abi.messages import FunctionCall, Message, ToolCall
from aios.sdk import Agent, Answer, AsyncClient, tool

CALCULATOR = ToolInfo(
    name="calculator",
    description="Evaluate.",
    parameters={"type": "object", "properties": {"expression": {"type": "string"}}},
    effect="pure",
    is_idempotent=True,
    max_instances=1,
    timeout=1.0,
)


def asks(*wanted: tuple[str, str]) -> Message:
    calls = [ToolCall(f"c{n}", FunctionCall(name, arguments)) for n, (name, arguments) in enumerate(wanted)]
    return Message(role="assistant", tool_calls=calls)


def fake(said: Sequence[Message | str], tool_answer: Any = None) -> FakeTransport:
    turns = list(said)

    def answer(name: str, arguments: dict[str, Any]) -> Any:
        if name == "llm_generate":
            return generation(turns.pop(0))
        return Tools(tools=[CALCULATOR]) if name == "tool_list" else tool_answer

    return FakeTransport(answer)


def run(transport: FakeTransport, task: str = "What is 2 * 3?", **more: Any) -> Answer:
    return asyncio.run(Agent("tester", AsyncClient(transport=transport), **more).run(task))


def test_an_agent_uses_a_tool_and_answers_from_what_it_returns() -> None:
    transport = fake([asks(("calculator", '{"expression":"2*3"}')), "It is 6."], ToolResult(content="6"))
    answer = run(transport)
    assert (answer.text, answer.succeeded, answer.num_generations) == ("It is 6.", True, 2)
    assert [(s.tool, s.observation, s.is_error) for s in answer.steps] == [("calculator", "6", False)]
    assert [m.role for m in answer.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert (answer.tokens_in, answer.tokens_out) == (20, 6)


@pytest.mark.parametrize(
    ("call", "trouble", "observed"),
    [
        (("calculater", "{}"), None, "error: there is no tool 'calculater'; did you mean 'calculator'?"),
        (("calculator", "[1]"), None, "error: the arguments of calculator are not a JSON object"),
        (("calculator", "{}"), BadRequest("'expression' is missing"), "error: 'expression' is missing"),
        (("calculator", "{}"), ToolResult(content="error: x", is_error=True), "error: x"),
    ],
)
def test_what_goes_wrong_with_a_tool_is_observed(call: tuple[str, str], trouble: Any, observed: str) -> None:
    answer = run(fake([asks(call), "Sorry."], trouble))
    assert answer.steps[0].observation.startswith(observed)
    assert answer.steps[0].is_error
    assert answer.succeeded


def test_being_killed_is_no_observation() -> None:
    with pytest.raises(Cancelled):
        run(fake([asks(("calculator", "{}"))], Cancelled("its process was killed")))


def test_the_steps_are_bounded() -> None:
    answer = run(fake([asks(("calculator", "{}"))] * 3, ToolResult(content="6")), max_steps=3)
    assert (answer.finish, answer.succeeded, len(answer.steps)) == ("max_steps", False, 3)


def test_local_tools_run_in_the_agents_own_program_side_by_side() -> None:
    @tool(effect="pure")
    async def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    @tool(effect="pure")
    def fail(why: str) -> str:
        """Fail."""
        raise ValueError(why)

    transport = fake([asks(("add", '{"a":1,"b":2}'), ("fail", '{"why":"no"}')), "3"])
    answer = run(transport, tools=[add, fail])
    assert [s.observation for s in answer.steps] == ["3", "error: no"]
    assert [name for name, _, _ in transport.asked] == ["llm_generate", "llm_generate"]


def test_only_the_tools_that_were_named_are_offered_with_the_flag_for_constrained_output() -> None:
    transport = fake(["hello"])
    run(transport, tools=["calculator"], strict=False, temperature=0.0)
    _, asked, _ = transport.asked[-1]
    assert asked["tools"][0].function.strict is False
    assert asked["temperature"] == 0.0


def test_a_tool_that_is_not_there_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(NotFound, match="did you mean 'calculator'"):
        run(fake([]), tools=["calculate"])

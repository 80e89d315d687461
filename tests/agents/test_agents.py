"""ReAct in both its styles, and Reflexion's four strategies, against scripted models."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from fake_transport import FakeTransport

from aios.abi.calls import Entries, Entry, ToolInfo, ToolResult, Tools, Written
from aios.abi.messages import FunctionCall, Generation, Message, ToolCall, Usage
from aios.agents import BUILT_IN, ReAct, Reflexion
from aios.agents.reflexion import Strategy, Verdict
from aios.sdk import Answer, AsyncClient

CONVERT = ToolInfo(
    name="convert",
    description="Convert a value.",
    parameters={"type": "object", "properties": {"value": {"type": "number"}, "unit": {"type": "string"}}},
    effect="pure",
    is_idempotent=True,
    max_instances=1,
    timeout=1.0,
)


class World:
    """A scripted model, one tool, and a memory that finds everything."""

    def __init__(self, said: Sequence[str | Message]) -> None:
        self.turns = list(said)
        self.prompts: list[list[Message]] = []
        self.memory: list[Entry] = []
        self.tool_runs: list[dict[str, Any]] = []
        self.client = AsyncClient(transport=FakeTransport(self.answer))

    def answer(self, name: str, arguments: dict[str, Any]) -> Any:
        if name == "llm_generate":
            self.prompts.append(list(arguments["messages"]))
            turn = self.turns.pop(0)
            message = turn if isinstance(turn, Message) else Message(role="assistant", content=turn)
            return Generation(message, "stop", Usage.of(1, 1), "m", "c")
        if name == "mem_write":
            entry = Entry(id="m", content=arguments["content"], kind="note", metadata=arguments["metadata"], created=0)
            self.memory.append(entry)
            return Written(id="m")
        if name == "mem_search":
            return Entries(entries=self.memory)
        if name == "tool_run":
            self.tool_runs.append(arguments["arguments"])
            return ToolResult(content="1.5 km")
        return Tools(tools=[CONVERT])

    def said_to_model(self, number: int) -> str:
        return "\n".join(m.text() for m in self.prompts[number])


def convert_call() -> Message:
    function = FunctionCall("convert", '{"value":1500,"unit":"km"}')
    return Message(role="assistant", tool_calls=[ToolCall("c1", function)])


def test_react_calls_a_tool_and_answers_from_it() -> None:
    world = World([convert_call(), "It is 1.5 km."])
    answer = asyncio.run(ReAct("r", world.client).run("1500 m in km?"))
    assert answer.text == "It is 1.5 km."
    assert world.said_to_model(0).startswith("You are a ReAct agent.")
    assert world.said_to_model(1).endswith("1.5 km")


def test_react_in_the_papers_own_words() -> None:
    world = World(["Thought: convert it\nAction: convert[1500, km]", "Thought: done\nAction 2: Finish[1.5 km]"])
    answer = asyncio.run(ReAct("r", world.client, style="text").run("1500 m in km?"))
    assert (answer.text, answer.succeeded) == ("1.5 km", True)
    assert world.tool_runs == [{"value": 1500, "unit": "km"}]
    assert world.said_to_model(1).endswith(
        "Task: 1500 m in km?\nThought: convert it\nAction: convert[1500, km]\nObservation: 1.5 km"
    )
    assert "- convert[value, unit]: Convert a value." in world.said_to_model(1)


async def must_be_right(task: str, answer: Answer) -> Verdict:
    return Verdict(answer.text == "right", "that is wrong")


@pytest.mark.parametrize(
    ("strategy", "is_told_lesson", "is_told_attempt"),
    [("none", False, False), ("last_attempt", False, True), ("reflexion", True, False), ("both", True, True)],
)
def test_a_second_trial_is_told_what_its_strategy_says(
    strategy: str, is_told_lesson: bool, is_told_attempt: bool
) -> None:
    said = ["wrong", "I should look again.", "right"] if is_told_lesson else ["wrong", "right"]
    world = World(said)
    solver = Reflexion("s", world.client, must_be_right, strategy=strategy)
    answer = asyncio.run(solver.run("the task"))
    assert (answer.text, [t.verdict.passed for t in solver.trials]) == ("right", [False, True])
    told = world.said_to_model(-1)
    assert ("Lesson from an earlier attempt: I should look again." in told) is is_told_lesson
    assert ("Your last attempt, which failed:\nAnswer: wrong" in told) is is_told_attempt
    assert len(world.memory) == is_told_lesson


def test_reflexion_gives_up_after_its_trials_and_does_not_reflect_on_the_last() -> None:
    world = World(["wrong", "Hm.", "wrong"])
    solver = Reflexion("s", world.client, must_be_right, max_trials=2)
    assert asyncio.run(solver.run("the task")).text == "wrong"
    assert len(solver.trials) == 2
    assert not world.turns


def test_without_an_evaluator_the_model_judges() -> None:
    world = World(["42", "Yes, that is it."])
    solver = Reflexion("s", world.client)
    asyncio.run(solver.run("the task"))
    assert solver.trials[0].verdict == Verdict(True, "Yes, that is it.")


def test_only_reflections_are_lessons() -> None:
    world = World(["right"])
    world.memory.append(Entry(id="x", content="shopping list", kind="note", metadata={}, created=0))
    asyncio.run(Reflexion("s", world.client, must_be_right).run("the task"))
    assert "shopping list" not in world.said_to_model(0)


def test_the_built_in_agents_have_the_papers_strategies() -> None:
    assert set(BUILT_IN) == {"react", "reflexion"}
    assert [s.value for s in Strategy] == ["none", "last_attempt", "reflexion", "both"]

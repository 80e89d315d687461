"""ReAct: reason and act in turns (Yao et al. 2022, arXiv 2210.03629). Written on the SDK alone.

Two styles. "tools", the default, asks for actions in the form that models are trained on today: tool calls. "text" is
the paper's own: the model writes `Thought`, `Action: tool[argument]`, the agent writes `Observation`, and the action
`Finish[answer]` ends it; any model that continues text can do it.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from aios.abi.messages import FunctionCall, Message, ToolCall, ToolSpec
from aios.sdk import Agent, AsyncClient, Trajectory

TEXT = """Solve the task by turns of Thought, Action and Observation. Write one Thought and one Action a turn, like
Thought: I need to ...
Action: tool[argument]
and wait for the Observation. The actions are
{tools}
- Finish[answer]: give the answer and stop."""

_ACTION = re.compile(r"Action[ \d]*:\s*([\w-]+)\s*\[(.*)\]", re.DOTALL)


class ReAct(Agent):
    """The thought is the content of the model's message, the action its tool call, the observation the tool's word."""

    system = "You are a ReAct agent. Use the tools; answer from what they return."

    def __init__(
        self, name: str, client: AsyncClient, *, style: Literal["tools", "text"] = "tools", **more: Any
    ) -> None:
        super().__init__(name, client, **more)
        self.style = style

    async def think(self, so_far: Trajectory) -> tuple[Message, bool]:
        if self.style == "tools":
            return await super().think(so_far)
        tools = await self.offer()
        prompt = [Message(role="system", content=_instruction(tools)), *_as_text(so_far.messages)]
        thought, is_cut = await self.generate(so_far, prompt, stop=["\nObservation"])
        return _read(thought.text(), tools, len(so_far.steps)), is_cut


def _instruction(tools: list[ToolSpec]) -> str:
    lines = []
    for tool in tools:
        names = ", ".join((tool.function.parameters or {}).get("properties", {}))
        lines.append(f"- {tool.function.name}[{names}]: {tool.function.description}")
    return TEXT.format(tools="\n".join(lines))


def _as_text(messages: list[Message]) -> list[Message]:
    """The trajectory as the paper writes it: one growing text that the model carries on."""
    lines = []
    for message in messages:
        if message.role == "tool":
            lines.append(f"Observation: {message.text()}")
        elif message.role != "system":
            lines.append(f"Task: {message.text()}" if message.role == "user" else message.text())
    return [Message(role="user", content="\n".join(lines))]


def _read(text: str, tools: list[ToolSpec], number: int) -> Message:
    """The model's turn as a message: an action becomes a tool call, `Finish` or no action at all the answer."""
    found = _ACTION.search(text)
    if found is None:
        return Message(role="assistant", content=text)
    name, argument = found.groups()
    if name.casefold() == "finish":
        return Message(role="assistant", content=argument)
    call = ToolCall(f"act_{number}", FunctionCall(name, _arguments(name, argument, tools)))
    return Message(role="assistant", content=text[: found.end()].strip(), tool_calls=[call])


def _arguments(name: str, argument: str, tools: list[ToolSpec]) -> str:
    """`a, b` in the order of the tool's parameters; a JSON object is taken as it is."""
    if argument.lstrip().startswith("{"):
        return argument
    schema = next((t.function.parameters or {} for t in tools if t.function.name == name), {})
    properties = schema.get("properties", {})
    values = [part.strip() for part in argument.split(",", max(0, len(properties) - 1))]
    given = {
        key: _number(value) if properties[key].get("type") in ("number", "integer") else value
        for key, value in zip(properties, values, strict=False)
    }
    return json.dumps(given)


def _number(text: str) -> float | int | str:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text

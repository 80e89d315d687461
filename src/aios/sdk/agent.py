"""An agent: a task in, an answer out, thoughts and tool runs between. Knows the client only, no kernel and no model.

The loop is ReAct's: think, act, observe, until the model answers without asking for a tool. Subclasses change how a
thought is had (`think`) or what surrounds a run.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from aios.abi.calls import MemoryPolicy, nearest
from aios.abi.errors import AiosError, Cancelled, NotFound, Stopping, Unauthorized
from aios.abi.messages import FunctionSpec, Message, ToolCall, ToolSpec

from .client import AsyncClient
from .files import AsyncFilePath
from .memory import AsyncMemory
from .tool import manifest_of
from .transport import NoKernel

Finish = Literal["answer", "max_steps", "length"]

_TOOL_TROUBLE = (ValueError, TypeError, ArithmeticError, LookupError, OSError, RuntimeError)
"""What a local tool may raise to say that it could not; the model reads it and goes on."""


@dataclass(frozen=True, slots=True)
class Step:
    """A tool that was asked for, and what came of it."""

    tool: str
    arguments: str
    observation: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a run. `succeeded`: the model came to an answer by itself; whether it is right is not known here."""

    text: str
    finish: Finish
    steps: list[Step]
    messages: list[Message]
    tokens_in: int
    tokens_out: int
    num_generations: int

    @property
    def succeeded(self) -> bool:
        return self.finish == "answer"

    def __str__(self) -> str:
        return self.text


@dataclass(slots=True)
class Trajectory:
    """A run so far."""

    messages: list[Message]
    steps: list[Step] = field(default_factory=list)
    tokens_in: int = 0
    tokens_out: int = 0
    num_generations: int = 0

    def answer(self, text: str, finish: Finish) -> Answer:
        return Answer(text, finish, self.steps, self.messages, self.tokens_in, self.tokens_out, self.num_generations)


class Agent:
    """`answer = await Agent("clerk", client, tools=["calculator"]).run("What is 12 * 12?")`.

    `tools` are names of the kernel's tools, or `@tool` functions that run in this program; None offers all of the
    kernel's. `max_steps` bounds the model's turns. `strict=False` lets a core write tool calls unconstrained.
    `sampling` (temperature, seed, max_tokens, …) goes with every generation. With `memory="auto"` the kernel keeps what
    is said and done, and tells the model what fits a question.

    Whose memory, files and process it works with is said by the client's key, not by `name`. Under the home's admin key
    `aios ps` shows it as 'admin', with all else that uses that key; under `aios run --agent clerk -- python it.py`, or
    with a key of `aios keys new clerk`, as 'clerk', to be seen and steered on its own.
    """

    system = "You are a helpful agent. Use the tools when they help."

    def __init__(
        self,
        name: str,
        client: AsyncClient,
        *,
        tools: Sequence[str | Callable[..., Any]] | None = None,
        system: str | None = None,
        model: str | None = None,
        max_steps: int = 8,
        strict: bool | None = None,
        memory: MemoryPolicy | None = None,
        **sampling: Any,
    ) -> None:
        self.name = name
        self.client = client
        self.model = model
        self.max_steps = max_steps
        self.strict = strict
        self.sampling = {**sampling, "memory": memory} if memory else sampling
        self.system = system if system is not None else self.system
        self._wanted = tools
        self._local = {manifest_of(t).name: t for t in tools or () if not isinstance(t, str)}
        self._offer: list[ToolSpec] | None = None

    @property
    def memory(self) -> AsyncMemory:
        """What the agent remembers: `await agent.memory.add("…")`, `await agent.memory[id]`."""
        return self.client.memory

    @property
    def files(self) -> AsyncFilePath:
        """The top of the agent's files: `await (agent.files / "notes.md").read_text()`."""
        return self.client.files

    async def run(self, task: str, *, before: Sequence[Message] = ()) -> Answer:
        """Work on `task` until there is an answer or `max_steps` turns are over. `before` comes after the system's
        word: an earlier conversation, reflections, examples."""
        opening = [Message(role="system", content=self.system)] if self.system else []
        so_far = Trajectory([*opening, *before, Message(role="user", content=task)])
        for _ in range(self.max_steps):
            thought, is_cut = await self.think(so_far)
            so_far.messages.append(thought)
            if not thought.tool_calls:
                return so_far.answer(thought.text().strip(), "length" if is_cut else "answer")
            await self.act(so_far, thought.tool_calls)
        return so_far.answer(so_far.messages[-1].text(), "max_steps")

    async def think(self, so_far: Trajectory) -> tuple[Message, bool]:
        """The model's next message, and whether it was cut short for its length."""
        return await self.generate(so_far, so_far.messages, tools=await self.offer() or None)

    async def generate(self, so_far: Trajectory, messages: list[Message], **more: Any) -> tuple[Message, bool]:
        """One generation, counted in `so_far`."""
        made = await self.client.llm_generate(messages, model=self.model, **{**self.sampling, **more})
        so_far.num_generations += 1
        so_far.tokens_in += made.usage.prompt_tokens
        so_far.tokens_out += made.usage.completion_tokens
        return made.message, made.finish_reason == "length"

    async def act(self, so_far: Trajectory, calls: Sequence[ToolCall]) -> None:
        """Run what the model asked for, side by side, and add what was observed in the order asked."""
        for call, step in zip(calls, await asyncio.gather(*map(self.use, calls)), strict=True):
            so_far.steps.append(step)
            so_far.messages.append(Message(role="tool", content=step.observation, tool_call_id=call.id))

    async def use(self, call: ToolCall) -> Step:
        """Run one tool. What goes wrong with it is an observation, so that the model can do better."""
        name, text = call.function.name, call.function.arguments
        try:
            arguments = msgspec.json.decode(text or "{}", type=dict[str, Any])
            content, is_error = await self._run_tool(name, arguments)
        except msgspec.DecodeError as error:
            content, is_error = f"the arguments of {name} are not a JSON object: {error}", True
        except (NoKernel, Cancelled, Stopping, Unauthorized):
            raise  # not the tool's trouble: nothing that the model writes would help
        except AiosError as error:
            content, is_error = error.message, True
        if is_error and not content.startswith("error:"):
            content = f"error: {content}"
        return Step(name, text, content, is_error)

    async def _run_tool(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        known = {spec.function.name for spec in await self.offer()}
        if name not in known:
            raise NotFound(f"there is no tool '{name}'{nearest(name, known)}", code="unknown_tool")
        if (function := self._local.get(name)) is None:
            result = await self.client.tool_run(name, arguments=arguments)
            return result.content, result.is_error
        try:
            value = function(**arguments)
            value = await value if inspect.isawaitable(value) else value
        except _TOOL_TROUBLE as error:
            return str(error) or type(error).__name__, True
        return value if isinstance(value, str) else msgspec.json.encode(value).decode(), False

    async def offer(self) -> list[ToolSpec]:
        """The tools as the model is told of them, asked for once."""
        if self._offer is None:
            self._offer = await self._ask_offer()
        return self._offer

    async def _ask_offer(self) -> list[ToolSpec]:
        local = {name: manifest_of(function).spec().function for name, function in self._local.items()}
        known: dict[str, FunctionSpec] = {}
        if self._wanted is None or any(isinstance(wanted, str) for wanted in self._wanted):
            infos = (await self.client.tool_list()).tools
            known = {info.name: FunctionSpec(info.name, info.description, info.parameters) for info in infos}
        names = list(known) if self._wanted is None else [_name(wanted) for wanted in self._wanted]
        known.update(local)
        for name in names:
            if name not in known:
                raise NotFound(f"there is no tool '{name}'{nearest(name, known)}", code="unknown_tool", param="tools")
        return [ToolSpec(msgspec.structs.replace(known[name], strict=self.strict)) for name in names]


def _name(wanted: str | Callable[..., Any]) -> str:
    return wanted if isinstance(wanted, str) else manifest_of(wanted).name

"""Runs tasks: each is an agent with files and memory of its own, and a process that `ps` would show.

Knows the SDK and a kernel's door; judges by the workload's own rules.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from aios.abi.errors import AiosError
from aios.agents import ReAct
from aios.kernel import Kernel
from aios.sdk import AsyncClient, InProcess

from .workload import Task, check

ANSWER_TOKENS = 160
"""No step of these tasks needs more: beyond it a model has lost its way."""


@dataclass(slots=True)
class Run:
    """One task under way or over. `error` is what ended it without an answer."""

    task: Task
    agent: str
    pid: int = 0
    answers: list[str] = field(default_factory=list)
    tools: list[str] = field(default_factory=list)
    num_generations: int = 0
    tokens: int = 0
    is_right: bool = False
    is_over: bool = False
    error: str | None = None
    seconds: float = 0.0


Listener = Callable[[Run], None]


class Runner:
    """Runs tasks on `kernel` with at most `concurrency` agents at once.

    `is_constrained=False` lets the model write tool calls without a grammar. `on_start` and `on_end` hear of each run.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        concurrency: int,
        is_constrained: bool = True,
        prefix: str = "react",
        max_steps: int = 8,
        on_start: Listener | None = None,
        on_end: Listener | None = None,
    ) -> None:
        _, key = kernel.access.mint(owner="eval", agent="eval", is_admin=True, name="eval")
        self._kernel = kernel
        self._admin = AsyncClient(transport=InProcess(kernel, key), retries=0)
        self._places = asyncio.Semaphore(concurrency)
        self._strict = None if is_constrained else False
        self._prefix = prefix
        self._max_steps = max_steps
        self._on_start = on_start or _nothing
        self._on_end = on_end or _nothing

    async def run_all(self, tasks: Iterable[Task]) -> list[Run]:
        """All tasks, each by an agent of its own; the runs in the order of the tasks."""
        runs = [Run(task, f"{self._prefix}-{number:02d}") for number, task in enumerate(tasks, 1)]
        try:
            async with asyncio.TaskGroup() as group:
                for run in runs:
                    group.create_task(self._run(run))
        except ExceptionGroup as broken:  # callers know single errors: what broke first ended the others
            raise broken.exceptions[0] from broken
        return runs

    async def _run(self, run: Run) -> None:
        async with self._places:
            begun = time.perf_counter()
            spawned = await self._admin.proc_spawn(run.agent, command=f"react on {run.task.id}")
            run.pid = spawned.pid
            self._on_start(run)
            client = AsyncClient(transport=InProcess(self._kernel, spawned.key))
            try:
                await self._work(run, client)
                run.is_right = check(run.task, run.answers, run.tools)
            except AiosError as error:
                run.error = error.message
            run.is_over, run.seconds = True, time.perf_counter() - begun
            with suppress(AiosError):  # it was killed already
                await self._admin.proc_signal(spawned.pid, "exit", code=0 if run.is_right else 1)
            self._on_end(run)

    async def _work(self, run: Run, client: AsyncClient) -> None:
        """Put the task's files into the agent's storage, then one conversation a prompt."""
        for path, content in run.task.files.items():
            await client.sto_write(path, content)
        for prompt in run.task.prompts:
            agent = ReAct(
                run.agent,
                client,
                tools=run.task.tools,
                max_steps=self._max_steps,
                strict=self._strict,
                temperature=0.0,
                max_tokens=ANSWER_TOKENS,
            )
            answer = await agent.run(prompt)
            run.answers.append(answer.text)
            run.tools += [step.tool for step in answer.steps]
            run.num_generations += answer.num_generations
            run.tokens += answer.tokens_out


def _nothing(run: Run) -> None: ...

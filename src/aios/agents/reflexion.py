"""Reflexion: learn from failed trials by words (Shinn et al. 2023, arXiv 2303.11366). Written on the SDK alone.

An actor tries; an evaluator judges the trial; after a failure the model reflects on what went wrong, and the next trial
reads that. Reflections are kept in the agent's memory in the kernel, so they outlive the run and help with like tasks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from aios.abi.messages import Message
from aios.sdk import Answer, AsyncClient, Trajectory

from .react import ReAct

REFLECT = """You tried a task and failed. In a few sentences, say why, and what to do differently next time.

Task: {task}

Your attempt:
{attempt}

Verdict: {verdict}

Reflection:"""

JUDGE = """Judge whether the answer solves the task. Reply with one word, yes or no, and a reason.

Task: {task}
Answer: {answer}
Verdict:"""


QUERY = 1000
"""Characters of a task that are enough to find lessons on it."""


class Strategy(Enum):
    """What a trial after the first is told: the paper's four settings."""

    NONE = "none"
    LAST_ATTEMPT = "last_attempt"
    REFLEXION = "reflexion"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Verdict:
    passed: bool
    why: str = ""


Evaluator = Callable[[str, Answer], Awaitable[Verdict]]
"""Judges a trial: tests that are run, an answer that is compared, or a model that is asked."""


@dataclass(frozen=True, slots=True)
class Trial:
    answer: Answer
    verdict: Verdict


class Reflexion:
    """`await Reflexion("solver", client, evaluate).run(task)`; `trials` holds what was tried.

    The actor is a ReAct agent with the same name, client and `more` arguments. Without `evaluate` the model judges.
    At most `window` reflections are told, as in the paper.
    """

    def __init__(
        self,
        name: str,
        client: AsyncClient,
        evaluate: Evaluator | None = None,
        *,
        strategy: Strategy | str = Strategy.REFLEXION,
        max_trials: int = 3,
        window: int = 3,
        **more: Any,
    ) -> None:
        self.name = name
        self.client = client
        self.strategy = Strategy(strategy)
        self.max_trials = max_trials
        self.window = window
        self.actor = ReAct(name, client, **more)
        self.trials: list[Trial] = []
        self._evaluate = evaluate or self._ask_model

    async def run(self, task: str) -> Answer:
        """The first answer that passes, else the last one."""
        self.trials = []
        for number in range(self.max_trials):
            answer = await self.actor.run(task, before=await self._lessons(task))
            verdict = await self._evaluate(task, answer)
            self.trials.append(Trial(answer, verdict))
            if verdict.passed:
                break
            if self.strategy in (Strategy.REFLEXION, Strategy.BOTH) and number + 1 < self.max_trials:
                await self._reflect(task, self.trials[-1])
        return self.trials[-1].answer

    async def _lessons(self, task: str) -> list[Message]:
        """What the next trial is told of earlier ones."""
        parts = []
        if self.strategy in (Strategy.REFLEXION, Strategy.BOTH):
            found = (await self.client.mem_search(task[:QUERY], k=20)).entries
            kept = [entry.content for entry in found if entry.metadata.get("reflexion")][: self.window]
            parts += [f"Lesson from an earlier attempt: {lesson}" for lesson in kept]
        if self.strategy in (Strategy.LAST_ATTEMPT, Strategy.BOTH) and self.trials:
            parts.append(f"Your last attempt, which failed:\n{_attempt(self.trials[-1].answer)}")
        return [Message(role="system", content="\n\n".join(parts))] if parts else []

    async def _reflect(self, task: str, trial: Trial) -> None:
        """Say in words what went wrong, and keep it with the task it is about, so that a search for that finds it."""
        asked = REFLECT.format(task=task, attempt=_attempt(trial.answer), verdict=trial.verdict.why or "wrong")
        lesson = await self._ask(asked)
        await self.client.mem_write(f"{lesson}\n(Task: {task})", kind="note", metadata={"reflexion": True})

    async def _ask_model(self, task: str, answer: Answer) -> Verdict:
        if not answer.succeeded:
            return Verdict(False, "there was no answer within the allowed steps")
        said = await self._ask(JUDGE.format(task=task, answer=answer.text))
        return Verdict(said.strip().casefold().startswith("yes"), said)

    async def _ask(self, question: str) -> str:
        message, _ = await self.actor.generate(Trajectory([]), [Message(role="user", content=question)])
        return message.text().strip()


def _attempt(answer: Answer) -> str:
    steps = [f"{step.tool}({step.arguments}) -> {step.observation}" for step in answer.steps]
    return "\n".join([*steps, f"Answer: {answer.text}"])

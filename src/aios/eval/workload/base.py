"""What a task is, and how its answer is judged. Knows no family and no wording."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

NO_TOOL: Final = "no tool"
_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?")
_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}\b)")


@dataclass(frozen=True)
class Step:
    """One call of a reference solution; `{nearest}` in an argument is the name the last error suggested.

    `thought` is said before the call (ReAct's Thought), about what the last tool returned.
    """

    tool: str
    arguments: Mapping[str, Any]
    thought: str = ""


@dataclass(frozen=True)
class Turn:
    """How a good agent handles one prompt: its calls, then its answer; `{seen}` is the last thing a tool said."""

    steps: tuple[Step, ...]
    answer: str


@dataclass(frozen=True)
class Expected:
    """What the final answer must hold (any letter case), the number in it, and what must not be there."""

    contains: tuple[str, ...] = ()
    number: float | None = None
    tolerance: float = 1e-6  # relative
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """Something to ask of an agent. Each prompt is a conversation of its own; files and memory stay between them."""

    id: str
    family: str
    prompts: tuple[str, ...]
    files: Mapping[str, str]
    tools: tuple[str, ...]
    expected: Expected
    phrasing: str
    is_seen_phrasing: bool
    entities: tuple[str, ...] = ()
    without: tuple[str, ...] = ()  # tools that must not be offered, or the task would be another one
    turns: tuple[Turn, ...] = field(default=(), repr=False)

    @property
    def notes(self) -> str:
        """All the text the agent's own files hold."""
        return "\n".join(self.files[path] for path in sorted(self.files))


def check(task: Task, answers: Sequence[str], trace: Sequence[str] = ()) -> bool:
    """Is the last answer right? `trace` names the tools that were called.

    An agent may ask for a tool that was not offered, is told that there is none, and has to say so: that is right. It
    is wrong to answer anything else, and wrong to have used another tool for a task that needs the missing one.
    """
    if len(answers) < len(task.prompts):
        return False
    answer = " ".join(answers[-1].split()).casefold()
    want = task.expected
    if task.family == "no_tool" and any(name in task.tools for name in trace):
        return False
    if any(" ".join(part.split()).casefold() not in answer for part in want.contains):
        return False
    if any(_as_word(part).search(answer) for part in want.absent):
        return False
    return want.number is None or _has_number(answer, want.number, want.tolerance)


def _as_word(part: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(part.casefold())}(?!\w)")


def _has_number(answer: str, number: float, tolerance: float) -> bool:
    found = (float(each) for each in _NUMBER.findall(_THOUSANDS.sub("", answer)))
    return any(abs(each - number) <= tolerance * max(1.0, abs(number)) for each in found)

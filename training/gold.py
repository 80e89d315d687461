"""Reference transcripts: runs the script of a task on the real pure tools. Knows the tools and the tasks, no model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aios.eval.workload import Step, Turn
from aios.kernel.tool import builtins


class Desk:
    """An agent's files and memory, and its tools over them, as the kernel wires them."""

    def __init__(self, files: Mapping[str, str] | None = None) -> None:
        self.files: dict[str, str] = dict(files or {})
        self.facts: list[str] = []

    def run(self, name: str, arguments: Mapping[str, Any]) -> str:
        """What the tool says; a fault or a call that does not fit comes back as `error: ...`."""
        try:
            return str(getattr(self, f"_{name}")(**arguments))
        except builtins.ToolFault as fault:
            return f"error: {fault}"
        except (TypeError, AttributeError, ValueError) as fault:
            return f"error: bad call: {fault}"

    def _calculator(self, expression: str) -> str:
        return builtins.calculator(expression)

    def _convert(self, value: float, from_unit: str, to_unit: str) -> str:
        return builtins.convert(value, from_unit, to_unit)

    def _date_add(self, date: str, days: int) -> str:
        return builtins.date_add(date, days)

    def _search_notes(self, query: str) -> str:
        return builtins.search_lines(self.files, query)

    def _read_file(self, path: str, query: str = "") -> str:
        if path not in self.files:
            raise builtins.ToolFault(builtins.missing_file(path, self.files))
        text = self.files[path]
        return builtins.search_lines({path: text}, query) if query else text

    def _remember(self, content: str) -> str:
        self.facts.append(content)
        return builtins.REMEMBERED

    def _recall(self, query: str) -> str:
        return builtins.recall_lines(self.facts, query)


def play(desk: Desk, prompt: str, turn: Turn) -> list[dict[str, Any]]:
    """The messages of one prompt handled as the turn says."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
    seen = ""
    for step in turn.steps:
        arguments = _filled(step, seen)
        seen = desk.run(step.tool, arguments)
        messages.append(call(step.tool, arguments, step.thought))
        messages.append({"role": "tool", "content": seen})
    shown = seen.strip()
    answer = turn.answer.replace("{error}", shown.removeprefix("error: ")).replace("{seen}", shown)
    messages.append({"role": "assistant", "content": answer})
    return messages


def call(name: str, arguments: Mapping[str, Any], thought: str = "") -> dict[str, Any]:
    function = {"name": name, "arguments": dict(arguments)}
    return {"role": "assistant", "content": thought or None, "tool_calls": [{"type": "function", "function": function}]}


def _filled(step: Step, seen: str) -> dict[str, Any]:
    near = re.search(r"nearest: '([^']*)'", seen)
    name = near.group(1) if near else ""
    return {k: v.replace("{nearest}", name) if isinstance(v, str) else v for k, v in step.arguments.items()}

"""All tools by name: what is registered, what is nearest, what fits a query. Runs nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from aios.abi.calls import nearest
from aios.abi.errors import AiosError, Conflict, NotFound

from .base import Tool
from .schema import Checker


class Registry:
    """Tools in the order they were added, each with the checker of its arguments."""

    def __init__(self) -> None:
        self._tools: dict[str, tuple[Tool, Checker]] = {}

    def add(self, tool: Tool) -> None:
        """Raises BadRequest for a schema that is none, Conflict for a name that is taken."""
        name = tool.manifest.name
        if name in self._tools:
            why = f"there is a tool called '{name}' already; names are given once"
            raise Conflict(why, code="tool_name_taken")
        self._tools[name] = (tool, Checker(name, tool.manifest.parameters))

    def replace(self, old: Iterable[Tool], new: Iterable[Tool]) -> None:
        """Take out `old` and put in `new`, all or nothing. Raises as `add` does, leaving what was there."""
        before = dict(self._tools)
        try:
            for tool in old:
                self._tools.pop(tool.manifest.name, None)
            for tool in new:
                self.add(tool)
        except AiosError:
            self._tools = before
            raise

    def get(self, name: str) -> Tool:
        """Raises NotFound, naming the nearest tool."""
        return self._find(name)[0]

    def checker(self, name: str) -> Checker:
        return self._find(name)[1]

    def _find(self, name: str) -> tuple[Tool, Checker]:
        found = self._tools.get(name)
        if found is None:
            hint = nearest(name[:100], self._tools) or f"; there are: {', '.join(list(self._tools)[:20])}"
            raise NotFound(f"there is no tool '{name[:100]}'{hint}", code="unknown_tool", param="name")
        return found

    def search(self, query: str | None) -> list[Tool]:
        """All tools, or those whose name or description has a word of `query`, most words first."""
        tools = list(self)
        words = set(re.findall(r"\w+", (query or "").casefold()))
        if not words:
            return tools
        scores = {t.manifest.name: sum(word in _text(t) for word in words) for t in tools}
        if (query or "").strip() in scores:
            scores[(query or "").strip()] += 1
        return sorted((t for t in tools if scores[t.manifest.name]), key=lambda t: -scores[t.manifest.name])

    def __iter__(self) -> Iterator[Tool]:
        return iter([tool for tool, _ in self._tools.values()])

    def __contains__(self, name: str) -> bool:
        return name in self._tools

    def __len__(self) -> int:
        return len(self._tools)


def _text(tool: Tool) -> str:
    return f"{tool.manifest.name} {tool.manifest.description}".casefold()

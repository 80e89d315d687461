"""Tools that run in the kernel's own process: the built-in ones, and functions that the program hands in.

Such code is trusted to be short, or to wait with `await`; it cannot be killed. All other tools run in
workers, of which nothing is known here.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from aios.abi.calls import Effect, ToolResult
from aios.abi.errors import NotFound
from aios.abi.tools import ToolManifest

from ..clock import Clock
from . import builtins
from .base import Caller, Files, Notes, deadline, error_of, result_of, too_long, words_of
from .builtins import ToolFault

Handler = Callable[[Caller, Mapping[str, Any]], Any]
"""Takes who asks and checked arguments; gives a value, or an awaitable of one."""

MAX_LINES = 20_000
"""Lines that a search weighs: what that takes goes by their number."""
MAX_NAMES = 500
MAX_NAME = 200
MAX_STEPS = 500_000
NOT_ALL = "[there is more than one search reads: only the newest was searched]"

_EXCUSES = (ToolFault, ValueError, ArithmeticError, LookupError, OSError)
"""What a function raises to say that it could not do what it was asked. Anything else is a bug in it."""


class TrustedTool:
    """A function in this process."""

    def __init__(self, manifest: ToolManifest, handler: Handler, clock: Clock) -> None:
        self.manifest = manifest
        self._handler = handler
        self._clock = clock

    async def run(self, caller: Caller, arguments: Mapping[str, Any]) -> ToolResult:
        try:
            value = self._handler(caller, arguments)
            if inspect.isawaitable(value):
                async with deadline(self._clock, self.manifest.timeout, too_long(self.manifest)):
                    value = await value
            return result_of(value)
        except _EXCUSES as error:
            return error_of(words_of(error))


def builtin_tools(files: Files, notes: Notes, clock: Clock) -> list[TrustedTool]:
    """The tools of `BUILTIN_TOOLS`, on an agent's own files and memory."""
    effects = dict.fromkeys(("calculator", "convert", "date_add"), Effect.PURE) | {"remember": Effect.WRITE}
    handlers = _handlers(files, notes)
    return [
        TrustedTool(
            ToolManifest(
                name=row.name,
                description=row.description,
                parameters=row.parameters,
                effect=effects.get(row.name, Effect.READ),
                max_instances=64,
            ),
            handlers[row.name],
            clock,
        )
        for row in builtins.BUILTIN_TOOLS
    ]


def _handlers(files: Files, notes: Notes) -> dict[str, Handler]:
    async def read_file(caller: Caller, arguments: Mapping[str, Any]) -> str:
        path, query = arguments["path"], arguments.get("query")
        try:
            text = await files.read_text(caller.owner, caller.agent, path)
        except NotFound:
            known = _comparable(path, await files.paths(caller.owner, caller.agent, MAX_NAMES))
            raise ToolFault(await asyncio.to_thread(builtins.missing_file, path, known)) from None
        return await asyncio.to_thread(_search, query, {path: text}, True) if query else text

    async def search_notes(caller: Caller, arguments: Mapping[str, Any]) -> str:
        return await files.over_texts(caller.owner, caller.agent, partial(_search, arguments["query"]))

    async def remember(caller: Caller, arguments: Mapping[str, Any]) -> str:
        await notes.remember(caller.owner, caller.agent, arguments["content"])
        return builtins.REMEMBERED

    async def recall(caller: Caller, arguments: Mapping[str, Any]) -> str:
        return await notes.over_lines(caller.owner, caller.agent, partial(_recall, arguments["query"]))

    return {
        "calculator": lambda _, a: builtins.calculator(a["expression"]),
        "convert": lambda _, a: builtins.convert(a["value"], a["from_unit"], a["to_unit"]),
        "date_add": lambda _, a: builtins.date_add(a["date"], int(a["days"])),
        "search_notes": search_notes,
        "read_file": read_file,
        "remember": remember,
        "recall": recall,
    }


# ── searches in what one agent keeps: called in a thread ──


def _search(query: str, texts: Mapping[str, str], is_all: bool) -> str:
    cut = dict(zip(texts, _first_lines(texts.values()), strict=True))
    return _told(lambda: builtins.search_lines(cut, query), is_all and cut == texts)


def _recall(query: str, facts: Sequence[str], is_all: bool) -> str:
    cut = _first_lines(reversed(facts))[::-1]
    return _told(lambda: builtins.recall_lines(cut, query), is_all and cut == facts)


def _first_lines(texts: Iterable[str]) -> list[str]:
    """The texts, cut where they have `MAX_LINES` together."""
    cut, left = [], MAX_LINES
    for text in texts:
        lines = text.splitlines()
        cut.append(text if len(lines) <= left else "\n".join(lines[:left]))
        left = max(0, left - len(lines))
    return cut


def _told(search: Callable[[], str], is_all: bool) -> str:
    """What was found, with a word about it if that was not looked for everywhere."""
    if is_all:
        return search()
    try:
        return f"{search()}\n{NOT_ALL}"
    except ToolFault as fault:
        raise ToolFault(f"{fault} {NOT_ALL}") from None


def _comparable(path: str, known: Iterable[str]) -> list[str]:
    """The paths that `path` may be compared with in a moment: a comparison takes a step for each pair of characters."""
    fitting, left = [], MAX_STEPS
    for each in known:
        steps = len(path) * len(each)
        if len(each) <= MAX_NAME and steps <= left:
            fitting.append(each)
            left -= steps
    return fitting

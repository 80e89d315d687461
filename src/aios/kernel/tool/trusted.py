"""Tools that run in the kernel's own process: the built-in ones, and functions that the program hands in.

Such code is trusted to be short, or to wait with `await`; it cannot be killed. All other tools run in
workers, of which nothing is known here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
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
    def read_file(caller: Caller, arguments: Mapping[str, Any]) -> str:
        path = arguments["path"]
        try:
            return files.read_text(caller.owner, caller.agent, path)
        except NotFound:
            raise ToolFault(builtins.missing_file(path, files.texts(caller.owner, caller.agent))) from None

    def search_notes(caller: Caller, arguments: Mapping[str, Any]) -> str:
        return builtins.search_lines(files.texts(caller.owner, caller.agent), arguments["query"])

    async def remember(caller: Caller, arguments: Mapping[str, Any]) -> str:
        await notes.remember(caller.owner, caller.agent, arguments["content"])
        return builtins.REMEMBERED

    def recall(caller: Caller, arguments: Mapping[str, Any]) -> str:
        return builtins.recall_lines(notes.lines(caller.owner, caller.agent), arguments["query"])

    return {
        "calculator": lambda _, a: builtins.calculator(a["expression"]),
        "convert": lambda _, a: builtins.convert(a["value"], a["from_unit"], a["to_unit"]),
        "date_add": lambda _, a: builtins.date_add(a["date"], int(a["days"])),
        "search_notes": search_notes,
        "read_file": read_file,
        "remember": remember,
        "recall": recall,
    }

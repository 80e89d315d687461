"""How each family of models writes tool calls: the grammar of what follows the opening, and how it is read back.

Knows no tokens, model or request. A call is JSON with a name and arguments; what stands around it is the table below.

    nano      <|call|>{"name":"add","arguments":{"a":1}}
    hermes    <tool_call>\\n{"name": "add", "arguments": {"a": 1}}\\n</tool_call>          and more of the same
    llama3    <|python_tag|>{"name": "add", "parameters": {"a": 1}}; {…}               or that without the opening
    mistral   [TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}, {…}]
    mistral3  [TOOL_CALLS]add[ARGS]{"a": 1}                                            and more of the same
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from aios.abi.messages import FunctionCall


@dataclass(frozen=True, slots=True)
class Dialect:
    """`opening` begins calls, and often is one token. `first`, `last` stand around them all, `between` two of them.

    `is_bare`: the JSON alone, where an answer begins with it, is a call as well. `glue` is what may stand around JSON
    when calls are read. Without `between` there is one call at most.
    """

    name: str
    opening: str
    first: str = ""
    last: str = ""
    between: str | None = None
    key: str = "arguments"
    glue: tuple[str, ...] = ()
    is_bare: bool = False
    is_compact: bool = False
    """JSON has no spaces."""
    is_named_first: bool = False
    """The name stands before the JSON, which is the arguments alone."""
    has_short_ids: bool = False
    """Its template takes ids of nine letters and digits only."""

    def grammar(self, schema: str, *, is_parallel: bool, with_opening: bool = False) -> str:
        """llguidance's grammar of what follows the opening (or of that as well); `schema` is of one call."""
        if self.is_named_first:
            return self._named_grammar(schema, is_parallel, with_opening)
        more = f" ({json.dumps(self.between)} call)*" if is_parallel and self.between else ""
        # A list is written with a space before it or without one.
        opening = [json.dumps(self.opening)] if with_opening and not self.is_bare else []
        first = ['" "?', '"["'] if self.first == "[" else [json.dumps(self.first)] if self.first else []
        last = [json.dumps(self.last)] if self.last else []
        return lark(" ".join([*opening, *first, f"call{more}", *last]), f"call: %json {schema}")

    def _named_grammar(self, schema: str, is_parallel: bool, with_opening: bool) -> str:
        """Each tool's name and what stands behind it, then its arguments by their own schema."""
        said = json.loads(schema)
        calls = [call["properties"] for call in said.get("anyOf", [said])]
        rules = [
            f"arguments{n}: %json {json.dumps({**call[self.key], 'x-guidance': said['x-guidance']})}"
            for n, call in enumerate(calls)
        ]
        named = " | ".join(
            f"{json.dumps(call['name']['const'] + '[ARGS]')} arguments{n}" for n, call in enumerate(calls)
        )
        opening = json.dumps(self.opening)
        more = f" ({opening} call)*" if is_parallel else ""
        return lark(f"{opening if with_opening else ''} call{more}", f"call: {named}", *rules)

    def read(self, written: str) -> list[FunctionCall] | None:
        """The calls in `written`, all that followed the opening; None if it is anything else, or unfinished."""
        if self.is_named_first:
            return _named_first(written, self.opening)
        calls: list[FunctionCall] = []
        rest = self._trimmed(written)
        while rest:
            try:
                value, end = _decoder.raw_decode(rest)
            except (ValueError, RecursionError):
                return None
            for each in value if isinstance(value, list) else [value]:
                if (call := _call(each, rest[:end])) is None:
                    return None
                calls.append(call)
            rest = self._trimmed(rest[end:])
        return calls if len(calls) == 1 or (calls and self.between) else None

    def _trimmed(self, text: str) -> str:
        before = None
        while before != text:
            before = text
            text = text.lstrip()
            for glue in self.glue:
                text = text.removeprefix(glue)
        return text


NANO = Dialect("nano", "<|call|>", is_compact=True)
HERMES = Dialect(
    "hermes", "<tool_call>", first="\n", last="\n</tool_call>", between="\n</tool_call>\n<tool_call>\n",
    glue=("<tool_call>", "</tool_call>"),
)  # fmt: skip
LLAMA3 = Dialect("llama3", "<|python_tag|>", between="; ", key="parameters", glue=("<|python_tag|>", ";"), is_bare=True)
MISTRAL = Dialect(
    "mistral", "[TOOL_CALLS]", first="[", last="]", between=", ", glue=("[TOOL_CALLS]",), has_short_ids=True
)
MISTRAL3 = Dialect("mistral3", "[TOOL_CALLS]", is_named_first=True, has_short_ids=True)

_MARKS = ((MISTRAL3, "[ARGS]"), (MISTRAL, "[TOOL_CALLS]"), (HERMES, "<tool_call>"), (LLAMA3, "<|python_tag|>"))


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The marks around what a model thinks aloud before it answers."""

    opening: str
    closing: str


REASONINGS = (Reasoning("<think>", "</think>"), Reasoning("[THINK]", "[/THINK]"))
"""Of Qwen, DeepSeek and those that learnt from them; of Mistral."""


def reasoning_of(template: str) -> Reasoning | None:
    """The marks that a chat template knows; None for a model that answers straight away."""
    return next((each for each in REASONINGS if each.opening in template or each.closing in template), None)


def dialect_of(template: str) -> Dialect | None:
    """The one that a chat template writes; None if it tells no model of tools."""
    if "tools" not in template:
        return None
    for dialect, mark in _MARKS:
        if mark in template:
            return dialect
    # Llama 3.2 and later: JSON alone, with "parameters".
    return LLAMA3 if '"parameters"' in template and '"name"' in template else None


def lark(start: str, *rules: str) -> str:
    # Forcing would leave only one way to cut text that is certain into tokens, and not always the model's own.
    return "\n".join(['%llguidance {"no_forcing": true}', f"start: {start}", *rules])


# ── reading ──

_decoder = json.JSONDecoder()


def _call(value: Any, written: str) -> FunctionCall | None:
    if not isinstance(value, dict) or not isinstance(name := value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(arguments, dict):
        return None
    # Compact JSON is passed on as it was written.
    opening = f'{{"name":{json.dumps(name, ensure_ascii=False)},"arguments":'
    if written.startswith(opening) and list(value) == ["name", "arguments"]:
        return FunctionCall(name, written.rstrip()[len(opening) : -1])
    return FunctionCall(name, json.dumps(arguments, separators=(",", ":"), ensure_ascii=False))


_NAMED = re.compile(r"\s*([^\s\[\]{}]{1,200})(?:\[CALL_ID\]\w*)?\[ARGS\]")


def _named_first(written: str, opening: str) -> list[FunctionCall] | None:
    calls = []
    rest = written
    while rest.strip():
        found = _NAMED.match(rest.lstrip().removeprefix(opening))
        if found is None:
            return None
        rest = rest.lstrip().removeprefix(opening)[found.end() :]
        try:
            arguments, end = _decoder.raw_decode(rest.lstrip())
        except (ValueError, RecursionError):
            return None
        if not isinstance(arguments, dict):
            return None
        rest = rest.lstrip()[end:]
        calls.append(FunctionCall(found[1], json.dumps(arguments, separators=(",", ":"), ensure_ascii=False)))
    return calls or None

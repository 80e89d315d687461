"""The chat template: OpenAI-format messages and tools to token ids. Knows the tokenizer, no model and no server.

    <|bos|>
    <|system|>TEXT\\nTools:\\nNAME(PARAMETER,PARAMETER:TYPE,PARAMETER:TYPE?) DESCRIPTION\\n...<|end|>   if there are any
    <|user|>TEXT<|end|>
    <|assistant|>TEXT<|call|>{"name":"calculator","arguments":{"expression":"12*7"}}<|end|>      text or call may miss
    <|tool|>TEXT<|end|>
    <|assistant|>TEXT<|end|>

A parameter is a string unless a type follows; `?` marks one that may be left out. One call a turn. JSON has no spaces
(separators "," and ":"): a grammar that constrains a call has to use the same whitespace-free JSON. Text never yields
special tokens, so nothing a user or a tool writes can open or close a turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from aios.kernel.llm.local.tokenizer import Tokenizer

MAX_DESCRIPTION: Final = 160
_ROLES: Final = {"developer": "system", "function": "tool"}


class ChatTemplate:
    """Renders conversations for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.end = tokenizer.special["<|end|>"]
        self.call = tokenizer.special["<|call|>"]

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        *,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Ids of the conversation; with `add_generation_prompt` it ends where the assistant is to speak. Like most, it
        asks for no `variables`."""
        ids = [self.tokenizer.special["<|bos|>"]]
        rest = list(messages)
        opening: list[str] = []
        while rest and _role(rest[0]) == "system":
            opening.append(content_text(rest.pop(0).get("content")))
        if tools:
            opening.append("Tools:\n" + "\n".join(tool_line(each) for each in tools))
        if opening:
            ids += self._turn("system", "\n".join(part for part in opening if part))
        for message in rest:
            ids += self._turn(_role(message), content_text(message.get("content")), message.get("tool_calls"))
        if add_generation_prompt:
            ids.append(self.tokenizer.special["<|assistant|>"])
        return ids

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def _turn(self, role: str, text: str, calls: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
        ids = [self.tokenizer.special[f"<|{role}|>"], *self.tokenizer.encode(text)]
        for each in calls or ():
            ids += [self.call, *self.tokenizer.encode(call_json(each["function"]))]
        ids.append(self.end)
        return ids


def _role(message: Mapping[str, Any]) -> str:
    role = str(message["role"])
    return _ROLES.get(role, role)


def content_text(content: Any) -> str:
    """The text of a message's content: a string, None, or a list of parts of which the text ones count."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))


def call_json(function: Mapping[str, Any]) -> str:
    """`{"name":…,"arguments":…}` of a tool call; arguments that are not JSON stand as the string they are."""
    arguments = function.get("arguments", "{}")
    if isinstance(arguments, str):
        with suppress(ValueError):
            arguments = json.loads(arguments or "{}")
    return compact_json({"name": function.get("name", ""), "arguments": arguments})


def compact_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def tool_line(tool: Mapping[str, Any]) -> str:
    """One line for one tool, from its OpenAI JSON schema."""
    function = tool.get("function", tool)
    schema = function.get("parameters") or {}
    required = schema.get("required", ())
    parameters = (
        name + _type_mark(spec) + ("" if name in required else "?")
        for name, spec in (schema.get("properties") or {}).items()
    )
    description = " ".join(str(function.get("description") or "").split("\n\n")[0].split())[:MAX_DESCRIPTION]
    return f"{function.get('name', '')}({','.join(parameters)}) {description}".rstrip()


def _type_mark(spec: Any) -> str:
    kind = spec.get("type") if isinstance(spec, Mapping) else None
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), None)
    return f":{kind}" if isinstance(kind, str) and kind != "string" else ""

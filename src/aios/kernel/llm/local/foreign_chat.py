"""A folder's chat template: messages and tools to token ids. Knows the tokenizer and the sandbox, no model.

Nothing that a user or a tool writes can open or close a turn: whatever looks like a special token in it is marked
before the template sees it, and is text afterwards.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from aios.abi.errors import BadRequest, ModuleFault

from .allowance import TemplateFault
from .chat import content_text
from .dialect import Dialect, Reasoning, dialect_of, reasoning_of
from .foreign_tokenizer import ForeignTokenizer
from .sandbox import Program, TemplateRefusal
from .shape import ModelError
from .variables import FIELD
from .weights import read_json

_ROLES = {"developer": "system", "function": "tool"}
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


class ForeignTemplate:
    """Renders conversations for one model.

    `dialect` is how it writes tool calls, `reasoning` how it thinks aloud; None: its template knows of no such thing.
    """

    def __init__(self, folder: Path, tokenizer: ForeignTokenizer) -> None:
        """Raises ModelError, and ModuleNotFoundError without the `jinja2` package."""
        config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
        source = _source(folder, config)
        self.dialect: Dialect | None = dialect_of(source)
        self.reasoning: Reasoning | None = reasoning_of(source)
        self._tokenizer = tokenizer
        self._values = _special_names(config)
        try:
            self._program = Program(source)
            self._rendered([{"role": "user", "content": "Hello"}], [], {})
        except TemplateRefusal:
            pass  # it wants another conversation, and will be given others
        except TemplateFault as error:
            raise ModelError(f"the chat template: {error}") from None

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]],
        *,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Ids up to where the assistant is to speak. Raises BadRequest for what the template refuses, ModuleFault."""
        short = self.dialect is not None and self.dialect.has_short_ids
        given = [self._defused(_message(each, short_ids=short)) for each in messages]
        try:
            text = self._rendered(given, [self._defused(_tool(each)) for each in tools], self._defused(variables or {}))
        except TemplateRefusal as error:
            raise BadRequest(f"this model's chat template refuses the messages: {error}", param="messages") from None
        except TemplateFault as error:
            if variables:  # it was tried without any when it was loaded
                why = f"this model's chat template does not go with these {FIELD}: {error}"
                raise BadRequest(why, param=FIELD) from None
            raise ModuleFault(f"this model's chat template: {error}") from None
        return self._tokenizer.encode_rendered(text)

    def encode(self, text: str) -> list[int]:
        """Tokens of text in which nothing is special."""
        return self._tokenizer.encode(text)

    def _rendered(self, messages: list[Any], tools: list[Any], variables: dict[str, Any]) -> str:
        ours = {"messages": messages, "tools": tools or None, "documents": None, "add_generation_prompt": True}
        return self._program.render(**variables | self._values | ours)

    def _defused(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._tokenizer.defused(value)
        if isinstance(value, Mapping):
            return {self._defused(key): self._defused(each) for key, each in value.items()}
        return [self._defused(each) for each in value] if isinstance(value, list | tuple) else value


def _source(folder: Path, config: Mapping[str, Any]) -> str:
    """The template's text: a file of its own, or in the tokenizer's config, alone or with others that have names."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path.name} cannot be read: {error}") from None
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, Mapping)}
        found = named.get("tool_use") or named.get("default")
    if not isinstance(found, str):
        raise ModelError(
            "it has no chat template, neither chat_template.jinja nor chat_template in tokenizer_config.json: "
            "a base model does not chat; take its 'instruct' or 'chat' version"
        )
    return found


def _special_names(config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that templates name."""
    found = {}
    for key in _TOKENS:
        value = config.get(key)
        value = value.get("content") if isinstance(value, Mapping) else value
        found[key] = value if isinstance(value, str) else ""
    return found


def _message(message: Mapping[str, Any], *, short_ids: bool) -> dict[str, Any]:
    """As templates expect it: no keys without a value, content as text, a call's arguments as the object they are."""
    role = str(message["role"])
    found: dict[str, Any] = {"role": _ROLES.get(role, role), "content": content_text(message.get("content"))}
    for key in ("name", "reasoning_content"):
        if message.get(key):
            found[key] = message[key]
    if message.get("tool_call_id"):
        found["tool_call_id"] = _id(message["tool_call_id"], is_short=short_ids)
    if calls := message.get("tool_calls"):
        found["tool_calls"] = [_call(each, short_ids=short_ids) for each in calls]
    return found


def _call(call: Mapping[str, Any], *, short_ids: bool) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments") or "{}"
    with suppress(ValueError, RecursionError):  # what a model wrote wrongly stays the text it is
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    named = {"name": function.get("name", ""), "arguments": arguments}
    return {"id": _id(call.get("id") or "", is_short=short_ids), "type": "function", "function": named}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's form, with what templates take for granted."""
    function = tool.get("function", tool)
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    described = {"name": function["name"], "description": function.get("description") or "", "parameters": parameters}
    return {"type": "function", "function": described}


def _id(given: str, *, is_short: bool) -> str:
    if not is_short or _SHORT_ID.fullmatch(given):
        return given
    return hashlib.sha256(given.encode("utf-8", "replace")).hexdigest()[:9]

"""Has a model make notes, tags and links of what is to be remembered, and merge facts that it contradicts.

After *A-MEM: Agentic Memory for LLM Agents* (Xu et al. 2025, arXiv 2502.12110): each memory gets keywords and links to
what is near it, and changes what it touches. Here nothing is changed in silence: the text itself is kept as it came,
notes are entries of their own, and what is merged keeps its earlier states in its history.

A step before a write is queued. Knows calls by their arguments and results, no core and no table.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from aios.abi.calls import Entries, Entry, LLMGenerate, MemSearch, MemWrite
from aios.abi.errors import AiosError, Cancelled, ModuleFault, Stopping
from aios.abi.messages import Generation, Message

from ..syscall import Syscall

log = logging.getLogger("aios.memory")

NEAR = 5
"""Entries that are shown beside the new one."""
MAX_SHOWN = 2000
"""Characters of each that are shown; 8,000 of the new one."""
MAX_TOKENS = 1024
INSTRUCTION = (
    "You keep the memory of an assistant. Read the new entry and the earlier ones near it, and answer with JSON. "
    '"notes": the few facts worth keeping from the new entry, each a short sentence that can be understood alone, with '
    'a few lower-case tags and how important it is from 0 to 1; none if there are none. "links": ids of earlier '
    'entries that belong to the same matter. "merged": earlier entries that the new one contradicts or completes, each '
    "with its text as it should be now. Invent nothing."
)


class Note(Struct, frozen=True):
    """A fact that was made of an entry."""

    content: Annotated[str, Meta(min_length=1, max_length=4000)]
    tags: Annotated[list[Annotated[str, Meta(max_length=60)]], Meta(max_length=10)] = field(default_factory=list)
    importance: Annotated[float, Meta(ge=0, le=1)] | None = None


class Merged(Struct, frozen=True):
    """What an earlier entry says now."""

    id: str
    content: Annotated[str, Meta(min_length=1, max_length=8000)]


class Notes(Struct, frozen=True):
    """What a model made of an entry."""

    notes: Annotated[list[Note], Meta(max_length=8)] = field(default_factory=list)
    links: Annotated[list[str], Meta(max_length=NEAR)] = field(default_factory=list)
    merged: Annotated[list[Merged], Meta(max_length=NEAR)] = field(default_factory=list)


class DistilledWrite(MemWrite, frozen=True):
    """A write with what was made of it. `problem` says why nothing was."""

    made: Notes = field(default_factory=Notes)
    problem: str | None = None


Search = Callable[[Syscall, MemSearch], Awaitable[Entries]]
Ask = Callable[[Syscall, LLMGenerate], Awaitable[Generation]]
"""Make a call that this one needs first, in its process, with its rights and on its account."""


class Distiller:
    """`model` names the one that is asked; without it the kernel's default is."""

    why = "a model makes notes of it"

    def __init__(self, search: Search, ask: Ask, model: str | None = None) -> None:
        self._search = search
        self._ask = ask
        self._model = model

    def wants(self, call: Syscall) -> bool:
        return isinstance(call.args, MemWrite) and call.args.distil

    async def prepare(self, call: Syscall) -> None:
        """Put what a model made of the text beside it. A model that fails costs the notes, never the text."""
        args: MemWrite = call.args
        fields = {name: getattr(args, name) for name in MemWrite.__struct_fields__}
        try:
            near = await self._near(call, args)
            answer = await self._ask(call, request(args, near, self._model))
            call.args = DistilledWrite(**fields, made=read(answer.message.text(), near))
        except (Cancelled, Stopping):
            raise
        except AiosError as error:
            log.warning("no notes were made of an entry of agent '%s': %s", call.process.agent, error.message)
            call.args = DistilledWrite(**fields, problem=f"no notes were made: {error.message}")

    async def _near(self, call: Syscall, args: MemWrite) -> list[Entry]:
        words = args.content[:MAX_SHOWN].strip()
        if not words:
            return []
        return (await self._search(call, MemSearch(query=words, k=NEAR, block=args.block))).entries


def request(args: MemWrite, near: Sequence[Entry], model: str | None) -> LLMGenerate:
    """What is asked of a model: its answer is held to the schema where the core can."""
    shown = [{"id": entry.id, "text": entry.content[:MAX_SHOWN]} for entry in near]
    asked = {"new": args.content[: 4 * MAX_SHOWN], "kind": args.kind, "earlier": shown}
    return LLMGenerate(
        messages=[Message("system", INSTRUCTION), Message("user", json.dumps(asked, ensure_ascii=False))],
        model=model,
        temperature=0.0,
        max_tokens=MAX_TOKENS,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "notes", "schema": schema([entry.id for entry in near]), "strict": True},
        },
        memory="off",
        window="drop",
    )


def schema(ids: Sequence[str]) -> dict[str, Any]:
    """Of the answer: earlier entries can be named by their ids only."""
    text = {"type": "string", "minLength": 1, "maxLength": 1000}
    tags = {"type": "array", "items": {"type": "string", "maxLength": 40}, "maxItems": 6}
    note = _object({"content": text, "tags": tags, "importance": {"type": "number", "minimum": 0, "maximum": 1}})
    parts: dict[str, Any] = {"notes": {"type": "array", "items": note, "maxItems": 5}}
    if ids:
        id = {"type": "string", "enum": list(ids)}
        parts["links"] = {"type": "array", "items": id, "maxItems": len(ids)}
        parts["merged"] = {"type": "array", "items": _object({"id": id, "content": text}), "maxItems": len(ids)}
    return _object(parts)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def read(answer: str, near: Sequence[Entry]) -> Notes:
    """What the model said, of entries that it was shown. Raises ModuleFault for what is no such answer: not every core
    holds its model to a schema."""
    try:
        made = msgspec.json.decode(_json_of(answer), type=Notes)
    except msgspec.DecodeError as error:
        raise ModuleFault(f"the model's notes cannot be read: {error}", code="bad_notes") from None
    known = {entry.id: entry.content for entry in near}
    merged = {each.id: each for each in made.merged if each.id in known and each.content != known[each.id]}
    return Notes(made.notes, [each for each in dict.fromkeys(made.links) if each in known], list(merged.values()))


def _json_of(answer: str) -> str:
    """Without what models like to put around: a fence, a word before."""
    begin, end = answer.find("{"), answer.rfind("}")
    return answer[begin : end + 1] if 0 <= begin < end else answer

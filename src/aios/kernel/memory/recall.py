"""What of an agent's memory is told to a model beside a question, and what of an exchange is kept. Plain decisions.

Knows messages and entries; no call, no core and no clock. What is recalled stands in the last question itself, as the
agent's own words do: entries may hold what a web page said, which must not speak as the system. It also keeps the
beginning of the prompt as it was, which cores need not compute again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from aios.abi.calls import Entry, MemWrite
from aios.abi.messages import Message

from .base import MAX_CONTENT

CANDIDATES = 20
"""Entries that a search brings; those that fit are told."""
MAX_QUERY = 4096
"""Characters of a question that are looked for."""
BYTES_A_TOKEN = 3
"""Of text, at least: an estimate on the safe side, the same as for windows."""
LINE_TOKENS = 12
"""What stands around an entry, at most."""
HEAD = "From memory of earlier conversations (it may be out of date):"
_RESULTS = ("tool", "function")


def question(messages: Sequence[Message]) -> str:
    """What to look for: the last question, its end if it is long; "" without one."""
    asked = next((message for message in reversed(messages) if message.role == "user"), None)
    return "" if asked is None else asked.text().strip()[-MAX_QUERY:]


def chosen(found: Sequence[Entry], messages: Sequence[Message], tokens: int) -> tuple[list[Entry], int]:
    """Which of `found`, best first, are told within `tokens`, and how many those take. What the conversation itself
    holds is not: the model reads it anyway."""
    known = {_plain(message.text()) for message in messages}
    known |= {called(call.function.name, call.function.arguments) for m in messages for call in m.tool_calls or ()}
    told: list[Entry] = []
    used = LINE_TOKENS
    for entry in found:
        cost = LINE_TOKENS + len(entry.content.encode()) // BYTES_A_TOKEN + 1
        if _plain(entry.content) not in known and used + cost <= tokens:
            told.append(entry)
            used += cost
    return told, used if told else 0


def with_recalled(messages: Sequence[Message], entries: Sequence[Entry]) -> list[Message]:
    """`messages` with `entries` told before the last question, oldest first."""
    at = next((n for n in range(len(messages) - 1, -1, -1) if messages[n].role == "user"), None)
    if at is None or not entries:
        return list(messages)
    lines = [f"- {_day(entry.created)}, {_who(entry)}: {entry.content}" for entry in sorted(entries, key=_age)]
    note = "\n".join([HEAD, *lines, "", ""])
    asked = messages[at]
    content = note + asked.content if isinstance(asked.content, str) else asked.content
    if isinstance(content, list):
        content = [{"type": "text", "text": note}, *content]
    return [*messages[:at], msgspec.structs.replace(asked, content=content), *messages[at + 1 :]]


def _age(entry: Entry) -> tuple[float, str]:
    return entry.created, entry.id


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _who(entry: Entry) -> str:
    role = entry.metadata.get("role")
    return {"user": "user said", "assistant": "assistant said"}.get(str(role), entry.kind.replace("_", " "))


def _plain(text: str) -> str:
    return " ".join(text.split())


# ── what is kept ──


def exchange(messages: Sequence[Message], answer: Message) -> list[MemWrite]:
    """What is new in an exchange: all after the model's last word before `answer`, and that."""
    begin = max((n + 1 for n, message in enumerate(messages) if message.role == "assistant"), default=0)
    tools = {call.id: call.function.name for message in messages for call in message.tool_calls or ()}
    kept: list[MemWrite] = []
    for message in (*messages[begin:], answer):
        kept += _entries(message, tools)
    return [entry for entry in kept if entry.content]


def _entries(message: Message, tools: dict[str, str]) -> list[MemWrite]:
    text = _fitting(message.text().strip())
    if message.role in _RESULTS:
        tool = tools.get(message.tool_call_id or "", "")
        return [MemWrite(content=text, kind="observation", metadata={"tool": tool})]
    if message.role not in ("user", "assistant"):
        return []
    said = MemWrite(content=text, kind="dialogue", metadata={"role": message.role})
    calls = [
        MemWrite(
            content=_fitting(called(call.function.name, call.function.arguments)),
            kind="tool_call",
            metadata={"tool": call.function.name},
        )
        for call in message.tool_calls or ()
    ]
    return [said, *calls]


def _fitting(text: str) -> str:
    """As much of it as an entry holds, in valid Unicode."""
    return text.encode(errors="replace")[:MAX_CONTENT].decode(errors="ignore")


def called(name: str, arguments: str) -> str:
    """A tool's call as text."""
    return f"{name}({arguments})"

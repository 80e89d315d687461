"""An answer of Anthropic's Messages API: what a server sends of it, and its pieces added up. Plain parsing, no I/O."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from aios.abi.messages import FinishReason, FunctionCall, Generation, Message, PromptDetails, ToolCall, Usage

from .openai_body import Count

_REASONS: dict[str | None, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


# ── what a server sends ──


class _Thinking(Struct):
    thinking_tokens: Count | None = None


class UsageSoFar(Struct):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    output_tokens_details: _Thinking | None = None


class Details(Struct):
    explanation: str | None = None


class Block(Struct, omit_defaults=True):
    """One block of an answer. Fields as each type has them; `input` holds what a tool is to be given."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None


class Whole(Struct):
    type: str | None = None
    model: str | None = None
    content: list[Block] | None = None
    stop_reason: str | None = None
    stop_details: Details | None = None
    usage: UsageSoFar | None = None


class Delta(Struct):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_details: Details | None = None

    def first(self) -> str | None:
        """What it holds, where its server names no type."""
        return next((name for name in PIECES if getattr(self, name)), None)


PIECES = ("text", "thinking", "signature", "partial_json")


class Event(Struct):
    type: str
    message: Whole | None = None
    index: int = 0
    content_block: Block | None = None
    delta: Delta | None = None
    usage: UsageSoFar | None = None
    error: Any = None


# ── what was said ──


class Answer:
    """Blocks of one answer, put together."""

    def __init__(self) -> None:
        self.blocks: dict[int, Block] = {}
        self.pieces: dict[int, list[str]] = {}
        """Of the text, the thinking or the tool's input of each block."""
        self.model: str | None = None
        self.stop: str | None = None
        self.refusal: str | None = None
        self.num_tokens = 0
        self._usage = UsageSoFar()

    def note(self, usage: UsageSoFar | None) -> None:
        """Counts are cumulative, and each event says only those it knows."""
        if usage is not None:
            for name in UsageSoFar.__struct_fields__:
                if (value := getattr(usage, name)) is not None:
                    setattr(self._usage, name, value)

    def end(self, reason: str | None, details: Details | None) -> None:
        self.stop = reason or self.stop
        if self.stop == "refusal":
            self.refusal = (details.explanation if details is not None else None) or "the model declined to answer"

    def turn(self) -> list[Block]:
        """What was said, block for block, as the server takes it back."""
        return [self._whole(index, block) for index, block in sorted(self.blocks.items())]

    def _whole(self, index: int, block: Block) -> Block:
        said = "".join(self.pieces[index])
        if block.type == "text":
            return Block("text", text=said)
        if block.type == "thinking":
            return Block("thinking", thinking=said, signature=block.signature or "")
        if block.type == "tool_use":
            return Block("tool_use", id=block.id or f"toolu_{index}", name=block.name or "", input=said or "{}")
        return block

    def usage(self) -> Usage:
        usage = self._usage
        read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
        prompt = (usage.input_tokens or 0) + read + written
        completion = self.num_tokens if usage.output_tokens is None else usage.output_tokens
        return Usage(prompt, completion, prompt + completion, PromptDetails(read, written))

    def _raw_usage(self) -> str | None:
        """As a client of OpenAI's API knows it, with how much was thought."""
        details = self._usage.output_tokens_details
        if details is None or details.thinking_tokens is None:
            return None
        fields = msgspec.to_builtins(self.usage())
        fields["completion_tokens_details"] = {"reasoning_tokens": details.thinking_tokens}
        return msgspec.json.encode(fields).decode()

    def generation(self, model: str, core: str) -> Generation:
        blocks = self.turn()
        calls = [ToolCall(b.id or "", FunctionCall(b.name or "", b.input)) for b in blocks if b.type == "tool_use"]
        text = "".join(b.text or "" for b in blocks if b.type == "text")
        message = Message(
            role="assistant",
            content=text or (None if calls else ""),
            tool_calls=calls or None,
            refusal=self.refusal,
            reasoning_content="".join(b.thinking or "" for b in blocks if b.type == "thinking") or None,
        )
        finish = _REASONS.get(self.stop, "tool_calls" if calls else "stop")
        return Generation(message, finish, self.usage(), self.model or model, core, raw_usage=self._raw_usage())

"""Anthropic's Messages API as a client reads it: whole answers, streams, errors. Plain parsing, no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from aios.abi.errors import AiosError, BadRequest, ContextLengthExceeded, UpstreamFault
from aios.abi.messages import (
    Chunk,
    FinishReason,
    FunctionCall,
    FunctionDelta,
    Generation,
    Message,
    PromptDetails,
    ToolCall,
    ToolCallDelta,
    Usage,
)

from ..base import Emit
from .openai_wire import MAX_ANSWER, Count
from .openai_wire import error_of as common_error_of
from .sse import EndlessEvent, EventReader

_REASONS: dict[str | None, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}

_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status that an error has which comes in mid-stream, where there is none."""


# ── what a server sends ──


class _Thinking(Struct):
    thinking_tokens: Count | None = None


class _Usage(Struct):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    output_tokens_details: _Thinking | None = None


class _Details(Struct):
    explanation: str | None = None


class _Block(Struct, omit_defaults=True):
    """One block of an answer. Fields as each type has them; `input` holds what a tool is to be given."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None


class _Message(Struct):
    type: str | None = None
    model: str | None = None
    content: list[_Block] | None = None
    stop_reason: str | None = None
    stop_details: _Details | None = None
    usage: _Usage | None = None


class _Delta(Struct):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_details: _Details | None = None


class _Event(Struct):
    type: str
    message: _Message | None = None
    index: int = 0
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_message = msgspec.json.Decoder(_Message).decode


def _garbage(core: str, why: str) -> UpstreamFault:
    return UpstreamFault(f"core '{core}' answered with what {why}", code="upstream_garbage")


# ── what was said ──


class Answer:
    """Blocks of one answer, put together."""

    def __init__(self) -> None:
        self.blocks: dict[int, _Block] = {}
        self.pieces: dict[int, list[str]] = {}
        """Of the text, the thinking or the tool's input of each block."""
        self.model: str | None = None
        self.stop: str | None = None
        self.refusal: str | None = None
        self.num_tokens = 0
        self._usage = _Usage()

    def note(self, usage: _Usage | None) -> None:
        """Counts are cumulative, and each event says only those it knows."""
        if usage is not None:
            for name in _Usage.__struct_fields__:
                if (value := getattr(usage, name)) is not None:
                    setattr(self._usage, name, value)

    def end(self, reason: str | None, details: _Details | None) -> None:
        self.stop = reason or self.stop
        if self.stop == "refusal":
            self.refusal = (details.explanation if details is not None else None) or "the model declined to answer"

    def turn(self) -> list[_Block]:
        """What was said, block for block, as the server takes it back."""
        return [self._whole(index, block) for index, block in sorted(self.blocks.items())]

    def _whole(self, index: int, block: _Block) -> _Block:
        said = "".join(self.pieces[index])
        if block.type == "text":
            return _Block("text", text=said)
        if block.type == "thinking":
            return _Block("thinking", thinking=said, signature=block.signature or "")
        if block.type == "tool_use":
            return _Block("tool_use", id=block.id or f"toolu_{index}", name=block.name or "", input=said or "{}")
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


class Events:
    """Takes a stream's bytes as they arrive, hands on one chunk for what came together, and adds up the answer."""

    def __init__(self, core: str, key_source: str, emit: Emit | None) -> None:
        self.answer = Answer()
        self.has_spoken = False
        """Something was handed on: the request cannot be sent again as if nothing had been said."""
        self._core = core
        self._key_source = key_source
        self._emit = emit
        self._is_done = False
        self._room = MAX_ANSWER
        self._reader = EventReader()
        self._calls: dict[int, int] = {}
        """Which call, counted from 0, a block is."""
        self._start()

    def _start(self) -> None:
        """A new chunk to fill."""
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._deltas: list[ToolCallDelta] = []
        self._tokens = 0

    def feed(self, data: bytes) -> bool:
        """Bytes as they came; says whether the stream is done. Raises UpstreamFault for garbage, and the error that
        the server sends."""
        self._room -= len(data)
        if self._room < 0:
            raise _garbage(self._core, "has no end: it goes on far beyond what any answer needs")
        try:
            for payload in self._reader.feed(data):
                if self._is_done:
                    break  # the message is over
                self._take(payload)
        except EndlessEvent:
            raise _garbage(self._core, "has no end of event") from None
        self._flush()
        return self._is_done

    def take_whole(self, data: bytes) -> Answer:
        """An answer that came in one piece, from a server that does not stream."""
        try:
            message = _decode_message(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            message = _Message()
        if message.content is None:
            raise _garbage(self._core, "is no message")
        self._begin(message)
        self._is_done = True
        self.answer.end(message.stop_reason, message.stop_details)
        for index, block in enumerate(message.content):
            self._open(index, block)
            self._close(index)
        self._flush()
        return self.answer

    def finish(self) -> Answer:
        """The stream has ended. Raises UpstreamFault when it ended before the answer did."""
        if not self._is_done:
            raise UpstreamFault(f"core '{self._core}': its server cut the stream short", code="upstream_cut")
        return self.answer

    def _take(self, payload: bytes) -> None:
        """One event. Kinds that nobody knows, and pings, are passed over, as the API asks of its clients."""
        try:
            event = _decode_event(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise _garbage(self._core, "is no event of a message") from None
        if event.type == "error" or event.error is not None:
            kind = event.error.get("type") if isinstance(event.error, dict) else None
            raise error_of(self._core, self._key_source, _STATUS.get(str(kind), 500), payload, {})
        if event.type == "message_start" and event.message is not None:
            self._begin(event.message)
        elif event.type == "content_block_start" and event.content_block is not None:
            self._open(event.index, event.content_block)
        elif event.type == "content_block_delta" and event.delta is not None:
            self._add(event.index, event.delta)
        elif event.type == "content_block_stop":
            self._close(event.index)
        elif event.type == "message_delta":
            self.answer.note(event.usage)
            if event.delta is not None:
                self.answer.end(event.delta.stop_reason, event.delta.stop_details)
        elif event.type == "message_stop":
            self._is_done = True

    def _begin(self, message: _Message) -> None:
        self.answer.model = message.model
        self.answer.note(message.usage)

    def _open(self, index: int, block: _Block) -> None:
        self.answer.blocks[index], self.answer.pieces[index] = block, []
        if block.type == "tool_use":
            call = self._calls.setdefault(index, len(self._calls))
            self._deltas.append(ToolCallDelta(call, block.id, "function", FunctionDelta(block.name, "")))
        self._say(index, block.text, block.thinking)

    def _add(self, index: int, delta: _Delta) -> None:
        block = self.answer.blocks.get(index)
        if block is None:
            raise _garbage(self._core, "goes on with a block that was never begun")
        if delta.signature is not None:
            block.signature = delta.signature
        if delta.partial_json is not None and block.type == "tool_use":
            self._say_input(index, delta.partial_json)
        self._say(index, delta.text, delta.thinking)

    def _close(self, index: int) -> None:
        """Some servers send a tool's input whole where the block begins."""
        block = self.answer.blocks.get(index)
        if block is not None and block.type == "tool_use" and block.input and not self.answer.pieces[index]:
            self._say_input(index, msgspec.json.encode(block.input).decode())

    def _say(self, index: int, text: str | None, thinking: str | None) -> None:
        for piece, said in ((text, self._text), (thinking, self._reasoning)):
            if piece:
                self.answer.pieces[index].append(piece)
                said.append(piece)
                self._tokens += 1

    def _say_input(self, index: int, piece: str) -> None:
        if piece:
            self.answer.pieces[index].append(piece)
            self._deltas.append(ToolCallDelta(self._calls[index], function=FunctionDelta(None, piece)))
            self._tokens += 1

    def _flush(self) -> None:
        chunk = Chunk(
            "".join(self._text), self._deltas or None, tokens=self._tokens, reasoning="".join(self._reasoning)
        )
        self.answer.num_tokens += self._tokens
        self._start()
        if self._emit is not None and (chunk.text or chunk.tool_calls or chunk.reasoning):
            self.has_spoken = True
            self._emit(chunk)


# ── refusals ──

_SPENT = re.compile(r"credit balance is too low|usage limits|spend limit", re.IGNORECASE)
_TOO_LONG = re.compile(r"prompt is too long|exceeds? (the )?context (limit|window)", re.IGNORECASE)
_PLACE = re.compile(r"([a-z_]+(?:\.[\w-]+)*): ")


def error_of(core: str, key_source: str, status: int, body: bytes, headers: Mapping[str, str]) -> AiosError:
    """The error that a server's refusal means for the agent that asked."""
    said = _message(body)
    if status == 402 or (status == 400 and _SPENT.search(said)):
        why = said or "its server wants to be paid first"
        return UpstreamFault(f"core '{core}': {why}", code="upstream_quota")
    if status == 400 and _TOO_LONG.search(said):
        return ContextLengthExceeded(f"core '{core}': {said}", param="messages")
    if status == 400 and (place := _PLACE.match(said)):
        return BadRequest(f"core '{core}': {said}", param=place[1])
    return common_error_of(core, key_source, status, body, headers)


def _message(body: bytes) -> str:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    error = decoded.get("error") if isinstance(decoded, dict) else None
    said = error.get("message") if isinstance(error, dict) else None
    return said[:500] if isinstance(said, str) else ""

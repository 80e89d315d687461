"""OpenAI's chat completions as a client reads them: whole answers, streams, errors. Plain parsing, no I/O.

Servers that call themselves compatible differ: what is missing gets a default here, what is garbage an UpstreamFault.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from aios.abi.errors import AiosError, BadRequest, ContextLengthExceeded, TimedOut, TooLarge, UpstreamFault
from aios.abi.messages import (
    Chunk,
    FinishReason,
    FunctionCall,
    FunctionDelta,
    Generation,
    Message,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Usage,
)

from ..base import Emit, Said
from .sse import MAX_EVENT, payload_of

MAX_ANSWER = 64 << 20
"""Bytes of one stream."""
BEYOND, SLACK = 2, 256
"""A stream may have so many times as many pieces as tokens were asked for, and some more: tokens may be cut up."""

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "function_call",
}

_TOO_LONG = re.compile(
    r"context (length|window|size)|(prompt|input|request) is too long|maximum (input|prompt) length"
    r"|exceeds? the (maximum number of tokens|model's max)|too many (input )?tokens",
    re.IGNORECASE,
)
"""How servers say that a prompt does not fit their model's window."""


# ── what a server sends ──


Count = Annotated[int, Meta(ge=0, le=1 << 40)]
"""Of tokens. What is below or beyond is no count: it would give budgets back, or not fit where counts are added up."""


class _PromptDetails(Struct):
    cached_tokens: Count | None = None


_NO_USAGE = Raw(b"null")
"""What `usage` is when there is none: this very object."""


class _Usage(Struct):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: _PromptDetails | None = None

    def told(self) -> Usage:
        details = self.prompt_tokens_details
        cached = (details.cached_tokens if details is not None else None) or 0
        return Usage.of(self.prompt_tokens or 0, self.completion_tokens or 0, cached)


_usage = msgspec.json.Decoder(_Usage).decode


class _Function(Struct):
    name: str | None = None
    arguments: Any = None


class _ToolCall(Struct):
    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: _Function | None = None


class _Logprobs(Struct):
    content: list[TokenLogprob] | None = None


class _Message(Struct):
    content: str | list[dict[str, Any]] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    """The same as `reasoning_content`, as vLLM and OpenRouter call it; others send other things under this name."""
    tool_calls: list[_ToolCall] | None = None


class _Choice(Struct):
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Body(Struct):
    choices: list[_Choice] | None = None
    usage: Raw = _NO_USAGE
    model: str | None = None
    system_fingerprint: str | None = None
    error: Any = None


class _Head(Struct):
    id: Any = None
    created: Any = None


_decode = msgspec.json.Decoder(_Body).decode
_decode_head = msgspec.json.Decoder(_Head).decode
_PLAIN = b"data: "
_DONE = b"data: [DONE]\n\n"


def _read(core: str, data: bytes) -> _Body:
    try:
        body = _decode(data)
        if body.usage is not _NO_USAGE:
            if bytes(body.usage) == b"null":
                body.usage = _NO_USAGE
            else:
                _usage(body.usage)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise garbage(core, _why_none(data, error)) from None
    if body.error is not None:
        raise UpstreamFault(f"core '{core}': {_message(body.error) or 'its server failed'}")
    return body


def _why_none(data: bytes, error: Exception) -> str:
    if data.lstrip()[:1] == b"<":
        return "is a page for people, not JSON; does [[core]] base_url lead to the API (it mostly ends in /v1)?"
    if "_tokens" in str(error):
        return "is not a chat completion: its usage is no count of tokens"
    return "is not a chat completion"


def garbage(core: str, why: str) -> UpstreamFault:
    return UpstreamFault(f"core '{core}' answered with what {why}", code="upstream_garbage")


# ── what was said ──


class Answer:
    """Pieces of one answer, added up."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.reasoning: list[str] = []
        self.refusals: list[str] = []
        self.parts: list[dict[str, Any]] | None = None
        self.calls: dict[int, tuple[list[str], list[str], list[str]]] = {}
        self.logprobs: list[TokenLogprob] = []
        self.finish: str | None = None
        self.usage: Usage | None = None
        self.raw_usage = ""
        """It as the server wrote it: JSON."""
        self.model: str | None = None
        self.fingerprint: str | None = None
        self.id: str | None = None
        self.created: int | None = None
        self.num_tokens = 0
        self.prompt_ids: list[int] | None = None
        self.ids: list[int] = []
        """Tokens, where the server tells them."""
        self.is_level = False
        """All tokens so far are in the text so far: none is held back."""

    def add(self, piece: _Message) -> None:
        if isinstance(piece.content, str):
            self.texts.append(piece.content)
        elif piece.content is not None:
            self.parts = [*(self.parts or []), *piece.content]
        if thought := _thought(piece):
            self.reasoning.append(thought)
        if piece.refusal:
            self.refusals.append(piece.refusal)
        for n, call in enumerate(piece.tool_calls or ()):
            self._add_call(n if call.index is None else call.index, call)

    def _add_call(self, index: int, call: _ToolCall) -> None:
        ids, names, arguments = self.calls.setdefault(index, ([], [], []))
        if call.id:
            ids.append(call.id)
        if call.function is not None:
            if call.function.name:
                names.append(call.function.name)
            arguments.append(_arguments(call.function.arguments))

    @classmethod
    def behind(cls, said: Said) -> Answer:
        """One that goes on from what was said."""
        answer = cls()
        answer.texts = [said.text]
        answer.num_tokens = said.tokens
        answer.logprobs = list(said.logprobs or ())
        answer.id, answer.created = said.id, said.created
        answer.model, answer.fingerprint = said.model, said.fingerprint
        answer.prompt_ids, answer.ids = said.prompt_ids, list(said.ids or ())
        return answer

    def said(self) -> Said | None:
        """So far; None when it is more than text, which nobody could go on from."""
        if self.calls or self.reasoning or self.refusals or self.parts is not None or self.finish is not None:
            return None
        return Said(
            "".join(self.texts),
            self.num_tokens,
            self.logprobs or None,
            self.prompt_ids if self.is_level else None,
            self.ids if self.is_level else None,
            id=self.id,
            created=self.created,
            model=self.model,
            fingerprint=self.fingerprint,
        )

    def note(self, body: _Body) -> None:
        """What stands beside the pieces."""
        self.model = body.model or self.model
        self.fingerprint = body.system_fingerprint or self.fingerprint
        if body.usage is not _NO_USAGE:
            self.usage, self.raw_usage = _usage(body.usage).told(), bytes(body.usage).decode()

    def name(self, event: bytes) -> None:
        """What the server calls its stream: clients see it as it came, and again when the answer is repeated."""
        head = _decode_head(event)
        self.id = head.id if isinstance(head.id, str) and head.id else None
        self.created = int(head.created) if isinstance(head.created, int | float) else None

    def tool_calls(self) -> list[ToolCall] | None:
        return [
            ToolCall(
                ids[0] if ids else f"call_{index}",
                FunctionCall("".join(names), "".join(arguments) or "{}"),
            )
            for index, (ids, names, arguments) in sorted(self.calls.items())
        ] or None

    def generation(self, model: str, core: str, seed: int | None) -> Generation:
        calls = self.tool_calls()
        text = "".join(self.texts)
        message = Message(
            role="assistant",
            content=self.parts or text or (None if calls else ""),
            tool_calls=calls,
            refusal="".join(self.refusals) or None,
            reasoning_content="".join(self.reasoning) or None,
        )
        return Generation(
            message,
            _REASONS.get(self.finish or "", "tool_calls" if calls else "stop"),
            self.usage or Usage.of(0, self.num_tokens),
            self.model or model,
            core,
            seed,
            self.logprobs or None,
            self.fingerprint,
            self.raw_usage or None,
            self.id,
            self.created,
        )

    def as_chunk(self) -> Chunk:
        """The whole answer as one piece, for a listener of a server that does not stream."""
        deltas = [
            ToolCallDelta(n, c.id, c.type, FunctionDelta(c.function.name, c.function.arguments))
            for n, c in enumerate(self.tool_calls() or ())
        ]
        tokens = self.usage.completion_tokens if self.usage else 0
        text, thought = "".join(self.texts), "".join(self.reasoning)
        return Chunk(text, deltas or None, self.logprobs or None, tokens=tokens, reasoning=thought)


def _arguments(value: Any) -> str:
    """JSON text; some servers send the object itself."""
    if value is None or isinstance(value, str):
        return value or ""
    return msgspec.json.encode(value).decode()


def parse_whole(core: str, data: bytes) -> Answer:
    """An answer that came in one piece."""
    body = _read(core, data)
    if not body.choices or body.choices[0].message is None:
        raise garbage(core, "holds no message")
    choice = body.choices[0]
    answer = Answer()
    answer.note(body)
    answer.add(body.choices[0].message)
    answer.finish = choice.finish_reason
    if choice.logprobs is not None:
        answer.logprobs = choice.logprobs.content or []
    return answer


# ── a stream ──


class Events:
    """Takes a stream's bytes as they arrive, hands on one chunk for what came together, and adds up the answer.

    The finishing event is held back until the usage behind it is known, and goes out with it: some clients look for
    it nowhere else.
    """

    def __init__(self, core: str, emit: Emit, most: int | None = None) -> None:
        """`most` is how many tokens the server was told to say at most."""
        self.answer = Answer()
        self.is_done = False
        self.has_spoken = False
        """Something was handed on: the request cannot be sent again as if nothing had been said."""
        self._core = core
        self._emit = emit
        self._most = sys.maxsize if most is None else most * BEYOND + SLACK
        self._room = MAX_ANSWER
        self._rest = b""
        self._is_named = False
        self._held: bytes | None = None
        self._start()

    def _start(self) -> None:
        """A new chunk to fill."""
        self._raw: list[bytes] = []
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._deltas: list[ToolCallDelta] = []
        self._logprobs: list[TokenLogprob] = []
        self._tokens = 0

    def feed(self, data: bytes) -> bool:
        """Bytes as they came; says whether the stream is done. Raises UpstreamFault for garbage and for an error that
        the server sends."""
        self._room -= len(data)
        if self.answer.num_tokens > self._most or self._room < 0:
            raise garbage(self._core, "has no end: it goes on far beyond max_tokens, or what any answer needs")
        if (
            not self._rest
            and data.startswith(_PLAIN)
            and data.endswith(b"\n\n")
            and data.count(b"\n") == 2
            and self._one(data)
        ):
            return False
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self._rest = data.split(b"\n\n")
        if len(self._rest) > MAX_EVENT:
            raise garbage(self._core, "has no end of event")
        try:
            for event in events:
                if event.startswith(_PLAIN) and b"\n" not in event:
                    self._take(event, event[6:])
                elif payload := payload_of(event):
                    self._take(_PLAIN + payload, payload)
        finally:  # what was well said before garbage is told all the same
            if self._raw:
                self._flush()
        return self.is_done

    def _one(self, data: bytes) -> bool:
        """The commonest case in one go: a single event that holds a piece of text and nothing else."""
        if data == _DONE:
            return False
        body = _read(self._core, data[6:])
        if not body.choices or body.usage is not _NO_USAGE:
            return False
        choice = body.choices[0]
        delta = choice.delta
        if choice.finish_reason is not None or choice.logprobs is not None or delta is None:
            return False
        text = delta.content
        if text.__class__ is not str or not text or delta.tool_calls or _is_odd(delta):
            return False
        answer = self.answer
        if answer.model is None:
            answer.note(body)
        if not self._is_named:
            self._name(data[6:])
        answer.texts.append(text)
        answer.num_tokens += 1
        self.has_spoken = True
        self._emit(Chunk(text, None, None, None, None, 1, data))
        return True

    def _take(self, event: bytes, payload: bytes) -> None:
        if payload == b"[DONE]":
            self.is_done = True
            return
        body = _read(self._core, payload)
        if body.usage is not _NO_USAGE or self.answer.model is None:
            self.answer.note(body)
        if not body.choices:
            self._take_usage(event, body)
            return
        if not self._is_named:
            self._name(payload)
        choice = body.choices[0]
        if choice.finish_reason is not None:
            self.answer.finish = choice.finish_reason
            self._held = event
        else:
            self._raw.append(event)
        if choice.delta is not None:
            self._take_delta(choice.delta)
        if choice.logprobs is not None and choice.logprobs.content:
            self._logprobs += choice.logprobs.content

    def _name(self, payload: bytes) -> None:
        self._is_named = True
        self.answer.name(payload)

    def _take_delta(self, delta: _Message) -> None:
        if delta.content.__class__ is str and not (delta.tool_calls or _is_odd(delta)):
            if delta.content:
                self._text.append(delta.content)
                self._tokens += 1
                self.answer.texts.append(delta.content)
            return
        self.answer.add(delta)
        if isinstance(delta.content, str):
            self._text.append(delta.content)
        for n, call in enumerate(delta.tool_calls or ()):
            self._deltas.append(_delta(n, call))
        if thought := _thought(delta):
            self._reasoning.append(thought)
        if delta.content or delta.tool_calls or thought:
            self._tokens += 1

    def _take_usage(self, event: bytes, body: _Body) -> None:
        """The last event: the usage and no choice."""
        if body.usage is _NO_USAGE:
            return
        self._release()
        self._emit(Chunk(usage=self.answer.usage, raw=event + b"\n\n"))

    def _flush(self) -> None:
        self.answer.num_tokens += self._tokens
        self.answer.logprobs += self._logprobs
        chunk = Chunk(
            "".join(self._text),
            self._deltas or None,
            self._logprobs or None,
            tokens=self._tokens,
            raw=b"\n\n".join(self._raw) + b"\n\n",
            reasoning="".join(self._reasoning),
        )
        self._start()
        self.has_spoken = True
        self._emit(chunk)

    def _release(self) -> None:
        """Let the finishing event go, with the usage if that is known by now."""
        if self._held is None:
            return
        held, self._held = self._held, None
        if self.answer.usage is not None:
            fields = msgspec.json.decode(held[6:], type=dict[str, Raw])
            if fields.get("usage", b"null") == b"null":
                fields["usage"] = Raw(self.answer.raw_usage.encode())
                held = _PLAIN + msgspec.json.encode(fields)
        self._raw.append(held)
        text, deltas, tokens = "".join(self._text), self._deltas or None, self._tokens
        logprobs, raw = self._logprobs or None, b"\n\n".join(self._raw) + b"\n\n"
        thought = "".join(self._reasoning)
        self.answer.num_tokens += tokens
        self.answer.logprobs += self._logprobs
        self._start()
        finish = _REASONS.get(self.answer.finish or "", "stop")
        self._emit(Chunk(text, deltas, logprobs, finish, self.answer.usage, tokens, raw, thought))

    def finish(self) -> Answer:
        """The stream has ended. Raises UpstreamFault when it ended before the answer did."""
        if not self.is_done and self.answer.finish is None:
            raise UpstreamFault(f"core '{self._core}': its server cut the stream short", code="upstream_cut")
        if not self._is_named:
            raise garbage(self._core, "holds no choice")
        self._release()
        return self.answer

    def whole(self, data: bytes) -> Answer:
        """The answer of a server that does not stream."""
        answer = parse_whole(self._core, data)
        self._emit(answer.as_chunk())
        return answer


def _is_odd(delta: _Message) -> bool:
    """Whether it holds more than text and calls."""
    return bool(delta.reasoning_content or delta.reasoning or delta.refusal)


def _thought(piece: _Message) -> str | None:
    """What the model thought aloud, whatever the server calls it."""
    return piece.reasoning_content or (piece.reasoning if isinstance(piece.reasoning, str) else None)


def _delta(n: int, call: _ToolCall) -> ToolCallDelta:
    function = None
    if call.function is not None:
        arguments = call.function.arguments
        function = FunctionDelta(call.function.name, None if arguments is None else _arguments(arguments))
    return ToolCallDelta(n if call.index is None else call.index, call.id, call.type, function)


# ── refusals ──


def error_of(core: str, key_source: str, status: int, body: bytes, headers: Mapping[str, str]) -> AiosError:
    """The error that a server's refusal means for the agent that asked."""
    detail = _detail(body)
    said = _message(detail) or f"status {status}"
    after = _retry_after(headers)
    if status in (401, 403):
        why = f"its server refuses the kernel's key ({status}); see {key_source}. Your own key is not at fault"
        return UpstreamFault(f"core '{core}': {why}", code="upstream_refused")
    if 300 <= status < 400:
        where = headers.get("location", "nowhere")[:200]
        why = f"its server redirects to {where} ({status}), which is not followed; should that be its base_url?"
        return UpstreamFault(f"core '{core}': {why}", code="upstream_rejected")
    if status in (408, 504):
        return TimedOut(f"core '{core}': {said}", code="upstream_timeout", retry_after=after)
    if status == 501:
        return BadRequest(f"core '{core}' (501): {said}", code="unsupported")
    if status == 413:
        return TooLarge(f"core '{core}': {said}")
    if status in (400, 409, 422):
        return _bad_request(core, detail, said)
    if status == 429 and isinstance(detail, dict) and detail.get("code") == "insufficient_quota":
        return UpstreamFault(f"core '{core}': {said}", code="upstream_quota")
    if status in (429, 503, 529):
        return UpstreamFault(f"core '{core}' is busy: {said}", code="upstream_busy", retry_after=after)
    code = "upstream_failed" if status >= 500 else "upstream_rejected"
    return UpstreamFault(f"core '{core}' ({status}): {said}", code=code, retry_after=after)


def _bad_request(core: str, detail: Any, said: str) -> AiosError:
    code = detail.get("code") if isinstance(detail, dict) else None
    param = detail.get("param") if isinstance(detail, dict) else None
    kind = detail.get("type") if isinstance(detail, dict) else None
    param = param if isinstance(param, str) else None
    if code == "context_length_exceeded" or kind == "exceed_context_size_error" or _TOO_LONG.search(said):
        return ContextLengthExceeded(f"core '{core}': {said}", param=param or "messages")
    return BadRequest(f"core '{core}': {said}", code=code if isinstance(code, str) else None, param=param)


def _detail(body: bytes) -> Any:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return decoded.get("error", decoded) if isinstance(decoded, dict) else decoded


def _message(detail: Any) -> str:
    """What a server says of its error, in the shapes that are about; at most some lines of it."""
    if isinstance(detail, dict):
        detail = detail.get("message") or detail.get("detail") or detail.get("msg")
    return detail[:500] if isinstance(detail, str) else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after-ms")
    factor = 0.001
    if text is None:
        text, factor = headers.get("retry-after"), 1.0
    if text is None or not text.replace(".", "", 1).isdigit():
        return None
    return min(float(text) * factor, 3600.0)

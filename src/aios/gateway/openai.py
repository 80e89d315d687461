"""OpenAI's surface: `/v1/models` and `/v1/chat/completions`, whole and streamed. Knows the wire; asks the kernel.

Written for what clients were seen to send and to need: unknown parameters, roles and parts of all kinds, a role in the
first delta, the usage on the finishing event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from aios.abi.calls import LLMGenerate, nearest
from aios.abi.errors import AiosError, BadRequest, NotFound
from aios.abi.messages import Chunk, FunctionDelta, Generation, TokenLogprob, ToolCall, ToolCallDelta, Usage

from .body import read_args, read_json
from .errors import openai_error
from .exchange import JSON, Exchange, call_headers, encode
from .stream import stream_call

if TYPE_CHECKING:
    from aios.kernel import Kernel, Syscall


class StreamOptions(Struct):
    include_usage: bool | None = None


class ChatRequest(LLMGenerate, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The body of a chat completion: the call's arguments, and what only the wire knows."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(extra_json_schema={"enum": [1]})] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None


_KNOWN = frozenset(ChatRequest.__struct_encode_fields__)
_OURS = ("extra", "stream", "stream_options", "n", "max_completion_tokens")
"""Fields of the request that are none of the call."""
_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _unknown(body: bytes) -> dict[str, Any]:
    """Parameters that are none of ours, but for those that are null."""
    raw = _keys(body)
    return {name: value for name in raw.keys() - _KNOWN if (value := msgspec.json.decode(raw[name])) is not None}


def decode_chat(body: bytes) -> tuple[ChatRequest, LLMGenerate]:
    """What was asked, and the call's arguments. Parameters nobody knows are kept for remote cores."""
    request = read_args(body, ChatRequest)
    if request.n not in (None, 1):
        raise BadRequest(f"n must be 1, not {request.n}: ask once for each answer", code="unsupported_n", param="n")
    limit = request.max_completion_tokens if request.max_tokens is None else request.max_tokens
    extra = read_json(body, _unknown)
    fields = msgspec.structs.asdict(request)
    for name in _OURS:
        del fields[name]
    fields["max_tokens"] = limit
    return request, LLMGenerate(extra=extra or None, **fields)


async def chat_completions(exchange: Exchange) -> None:
    request, args = decode_chat(await exchange.body())
    if args.window is None and (window := exchange.window()) is not None:
        args = msgspec.structs.replace(args, window=window)
    if args.memory is None and (memory := exchange.memory()) is not None:
        args = msgspec.structs.replace(args, memory=memory)
    if request.stream:
        wants_usage = request.stream_options is not None and bool(request.stream_options.include_usage)
        await _streamed(exchange, args, wants_usage)
        return
    kernel = exchange.kernel
    call = kernel.submit(
        exchange.principal,
        "llm_generate",
        args,
        key=exchange.idempotency_key(),
        timeout=exchange.timeout(),
        session=exchange.session(),
        nice=exchange.nice(),
    )
    generation = await exchange.outcome(call)
    body = encode(_completion(call, generation))
    await exchange.reply(200, body, JSON, call_headers(call))


# ── whole ──


class Answer(Struct, omit_defaults=True):
    role: str
    content: Any
    refusal: str | None
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = None


class Logprobs(Struct):
    content: list[TokenLogprob]
    refusal: None = None


class Choice(Struct):
    index: int
    message: Answer
    logprobs: Logprobs | None
    finish_reason: str


class Completion(Struct, omit_defaults=True):
    """`aios` is ours: what the kernel did that OpenAI's format has no place for."""

    id: str
    object: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | msgspec.Raw
    system_fingerprint: str | None
    aios: dict[str, Any] | None = None


def _completion(call: Syscall, generation: Generation) -> Completion:
    message = generation.message
    answer = Answer(
        "assistant",
        message.content,
        message.refusal,
        tool_calls=message.tool_calls,
        reasoning_content=message.reasoning_content,
    )
    logprobs = None if generation.logprobs is None else Logprobs(generation.logprobs)
    choice = Choice(0, answer, logprobs, generation.finish_reason)
    return Completion(
        generation.id or f"chatcmpl-{call.id}",
        "chat.completion",
        generation.created or int(call.opened),
        generation.model,
        [choice],
        _usage(generation),
        generation.fingerprint,
        _ours(generation),
    )


def _ours(generation: Generation) -> dict[str, Any] | None:
    """What the kernel did with the question, where it did anything."""
    told = {"context": generation.context, "memory": generation.memory, "cost": generation.cost}
    return {name: value for name, value in told.items() if value is not None} or None


def _usage(generation: Generation) -> Usage | msgspec.Raw:
    """An upstream's own as it came, or the kernel's."""
    return generation.usage if generation.raw_usage is None else msgspec.Raw(generation.raw_usage.encode())


# ── streamed ──


async def _streamed(exchange: Exchange, args: LLMGenerate, wants_usage: bool) -> None:
    encoder = ChatStream(exchange.kernel, wants_usage)
    await stream_call(exchange, "llm_generate", args, encoder)


class _Head(Struct):
    """Of an upstream's event: whatever it put there."""

    id: Any = None
    created: Any = None
    model: Any = None


class ChatStream:
    """Chunks of an answer as `chat.completion.chunk` events.

    A chunk with `raw` is an upstream's own events and goes out as it came. The rest is written here: the role in
    the first delta, the usage on the finishing one too (some clients look nowhere else), `[DONE]` at the end.
    """

    def __init__(self, kernel: Kernel, wants_usage: bool) -> None:
        self._kernel = kernel
        self._wants_usage = wants_usage
        self._model = ""
        self._has_begun = False
        self._is_finished = False
        self._has_usage = False
        self._first = b""
        """Of what passed through: what is written here behind it is of the same answer, and says so."""
        self._passed: Generation | None = None
        """On record: an upstream's stream that went out as it came, to be told again under its own name."""

    def begin(self, call: Syscall) -> None:
        self._call = call
        self._id, self._created = f"chatcmpl-{call.id}", int(call.opened)
        if isinstance(call.result, Generation) and call.result.id is not None:
            self._passed = call.result
            self._id, self._created = call.result.id, call.result.created or self._created

    def chunk(self, chunk: Chunk) -> bytes:
        """The events for `chunk`; empty when there is nothing to say yet."""
        if chunk.raw:
            return self._passed_through(chunk)
        delta: dict[str, Any] = {}
        if chunk.reasoning:
            delta["reasoning_content"] = chunk.reasoning
        if chunk.text:
            delta["content"] = chunk.text
        if chunk.tool_calls:
            delta["tool_calls"] = [_whole_delta(piece) for piece in chunk.tool_calls]
        if not delta:
            return b""
        logprobs = None if chunk.logprobs is None else Logprobs(chunk.logprobs)
        return self._begin(None if chunk.tool_calls else "") + self._event(delta, None, logprobs=logprobs)

    def _passed_through(self, chunk: Chunk) -> bytes:
        self._first = self._first or chunk.raw
        self._has_begun = True
        if chunk.finish_reason is not None:
            self._is_finished = True
        elif chunk.usage is not None and not chunk.text and not chunk.tool_calls:
            self._has_usage = True
            return chunk.raw if self._wants_usage else b""
        return chunk.raw

    def error(self, error: AiosError) -> bytes:
        """What ends the stream badly: one event, and no `[DONE]`."""
        return b"data: %s\n\n" % encode(openai_error(error))

    def tail(self, generation: Generation) -> bytes:
        """What ends the stream well. An answer that was never streamed is said here in one piece."""
        events = b""
        if not self._has_begun:
            events = self._unsaid(generation)
        if not self._is_finished:
            if generation.message.refusal:
                events += self._begin("") + self._event({"refusal": generation.message.refusal}, None)
            events += self._begin("") + self._event({}, generation.finish_reason, generation)
        elif _ours(generation) is not None:  # the server's own finishing event went out as it came
            events += self._event({}, None, generation)
        if self._wants_usage and not self._has_usage:
            events += self._encode([], _usage(generation), None)
        return events + b"data: [DONE]\n\n"

    def _unsaid(self, generation: Generation) -> bytes:
        message = generation.message
        pieces = [
            ToolCallDelta(n, c.id, c.type, FunctionDelta(c.function.name, c.function.arguments))
            for n, c in enumerate(message.tool_calls or ())
        ]
        reasoning = message.reasoning_content or ""
        return self.chunk(Chunk(message.text(), pieces or None, generation.logprobs, reasoning=reasoning))

    def _begin(self, content: str | None) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        self._model = self._model_name()
        return self._event({"role": "assistant", "content": content}, None)

    def _model_name(self) -> str:
        """The core's, as no answer is there yet that could say more."""
        recorded, core = self._call.result, self._call.core
        if core is None and self._passed is None and isinstance(recorded, Generation):
            core = recorded.core if recorded.core in self._kernel.llm.names() else None
        if core is not None:
            return self._kernel.llm.core(core).model
        return recorded.model if isinstance(recorded, Generation) else ""

    def _take_name(self) -> None:
        """What the server whose events passed through calls the answer: another core may have gone on with it."""
        head = msgspec.json.decode(self._first.partition(b"\n\n")[0].removeprefix(b"data: "), type=_Head)
        self._first = b""
        self._id = head.id if isinstance(head.id, str) and head.id else self._id
        self._created = int(head.created) if isinstance(head.created, int | float) else self._created
        self._model = head.model if isinstance(head.model, str) and head.model else self._model_name()

    def _event(
        self,
        delta: dict[str, Any],
        finish: str | None,
        end: Generation | None = None,
        logprobs: Logprobs | None = None,
    ) -> bytes:
        """`end` is the whole answer, for an event that ends it."""
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        usage = _usage(end) if end is not None and finish is not None else None
        return self._encode([choice], usage, None if end is None else _ours(end))

    def _encode(
        self, choices: list[dict[str, Any]], usage: Usage | msgspec.Raw | None, ours: dict[str, Any] | None
    ) -> bytes:
        if self._first:
            self._take_name()
        body: dict[str, Any] = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }
        if self._passed is not None and self._passed.fingerprint is not None:
            body["system_fingerprint"] = self._passed.fingerprint
        if usage is not None:
            body["usage"] = usage
        if ours is not None:
            body["aios"] = ours
        return b"data: %s\n\n" % encode(body)


def _whole_delta(piece: ToolCallDelta) -> ToolCallDelta:
    """Clients add arguments up from the first piece on, so that one needs some, if empty."""
    function = piece.function
    if function is None or function.arguments is not None:
        return piece
    return msgspec.structs.replace(piece, function=FunctionDelta(function.name, ""))


# ── models ──


def _models(exchange: Exchange) -> dict[str, dict[str, Any]]:
    """Each name that a request may put into `model`, cores' own names first."""
    created = int(exchange.kernel.clock.wall())
    names = exchange.kernel.llm.router.names()
    return {name: {"id": name, "object": "model", "created": created, "owned_by": "aios"} for name in names}


async def list_models(exchange: Exchange) -> None:
    await exchange.reply_json({"object": "list", "data": list(_models(exchange).values())})


async def get_model(exchange: Exchange, model: str) -> None:
    models = _models(exchange)
    if model not in models:
        hint = nearest(model[:200], models) or f"; known are {', '.join(models)}"
        raise NotFound(f"there is no model '{model[:200]}'{hint}", code="model_not_found", param="model")
    await exchange.reply_json(models[model])

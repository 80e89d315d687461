"""Embeddings of a server that speaks OpenAI's API. Knows that wire, and nothing of queues or of how answers stream."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from aios.abi.calls import LLMEmbed
from aios.abi.messages import Embedding, Embeddings, Usage

from ..embed import in_form, texts_of
from .connection import Response
from .faults import error_of, garbage
from .openai_body import Count

PATH = "/embeddings"
BATCH = 256
"""Texts that are posted at once, where the configuration says nothing: some servers take no more."""


class Server(Protocol):
    """What is asked: an `Upstream`, or a server of our own."""

    name: str

    @property
    def key_source(self) -> str: ...

    async def post(self, path: str, body: bytes) -> Response: ...

    def attempt(self, *, is_streamed: bool, has_spoken: Callable[[], bool]) -> AbstractContextManager[None]: ...


class _Item(Struct):
    index: int
    embedding: list[float] | str


class _Usage(Struct):
    prompt_tokens: Count | None = None


class _Body(Struct):
    data: list[_Item]
    model: str | None = None
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Body).decode


async def embed(upstream: Server, args: LLMEmbed, model: str, batch: int | None) -> Embeddings:
    """Vectors of all texts, asked batch by batch; those that come in the form that was asked stay as they are."""
    texts = texts_of(args)
    size = batch or BATCH
    found: list[Embedding] = []
    tokens, named = 0, model
    with upstream.attempt(is_streamed=False, has_spoken=lambda: False):
        for start in range(0, len(texts), size):
            part = texts[start : start + size]
            body = await _ask(upstream, args, model, args.input if len(part) == len(texts) else part, len(part))
            found += in_form(args, [item.embedding for item in body.data], upstream.name, start)
            tokens += (body.usage.prompt_tokens or 0) if body.usage is not None else 0
            named = body.model or named
        return Embeddings(found, named, upstream.name, Usage.of(tokens, 0))


async def _ask(upstream: Server, args: LLMEmbed, model: str, given: Any, count: int) -> _Body:
    fields: dict[str, Any] = {**(args.extra or {}), "model": model, "input": given}
    if args.dimensions is not None:
        fields["dimensions"] = args.dimensions
    if args.encoding_format is not None:
        fields["encoding_format"] = args.encoding_format
    response = await upstream.post(PATH, msgspec.json.encode(fields))
    if response.status != 200:
        raise error_of(upstream.name, upstream.key_source, response.status, response.body, response.headers)
    try:
        body = _decode(response.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise garbage(upstream.name, "is no list of embeddings") from None
    body.data.sort(key=lambda item: item.index)
    if [item.index for item in body.data] != list(range(count)):
        raise garbage(upstream.name, f"holds {len(body.data)} embeddings of {count} texts")
    return body

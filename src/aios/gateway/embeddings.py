"""OpenAI's `/v1/embeddings`. Knows the wire; asks the kernel."""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import Struct

from aios.abi.calls import LLMEmbed
from aios.abi.messages import Embeddings

from .body import read_args, read_json
from .exchange import JSON, Exchange, encode

_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
AT_ONCE = 64
"""Vectors that are written without letting others have the loop."""
_KNOWN = frozenset(LLMEmbed.__struct_encode_fields__) - {"extra"}


class EmbedRequest(LLMEmbed, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The body: the call's arguments, and parameters that nobody here knows."""


class Item(Struct):
    object: str
    index: int
    embedding: list[float] | str


class Used(Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct):
    object: str
    data: msgspec.Raw
    model: str
    usage: Used


def decode_embed(body: bytes) -> LLMEmbed:
    """The call's arguments. Parameters nobody knows are kept for remote cores."""
    request = read_args(body, EmbedRequest)
    raw = read_json(body, _keys)
    extra = {name: value for name in raw.keys() - _KNOWN if (value := msgspec.json.decode(raw[name])) is not None}
    fields = {name: getattr(request, name) for name in _KNOWN}
    return LLMEmbed(extra=extra or None, **fields)


async def embeddings(exchange: Exchange) -> None:
    args = decode_embed(await exchange.body())
    call = exchange.kernel.submit(
        exchange.principal, "llm_embed", args, key=exchange.idempotency_key(), timeout=exchange.timeout()
    )
    found: Embeddings = await exchange.outcome(call)
    await exchange.reply(200, await _written(found), JSON, [(b"x-aios-call-id", call.id.encode())])


async def _written(found: Embeddings) -> bytes:
    """The answer's body, a few vectors at a time: millions of numbers would keep the loop from everybody else."""
    pieces = []
    for start in range(0, len(found.data), AT_ONCE):
        items = [Item("embedding", each.index, each.embedding) for each in found.data[start : start + AT_ONCE]]
        pieces.append(encode(items)[1:-1])
        await asyncio.sleep(0)
    used = Used(found.usage.prompt_tokens, found.usage.total_tokens)
    return encode(EmbeddingList("list", msgspec.Raw(b"[%b]" % b",".join(pieces)), found.model, used))

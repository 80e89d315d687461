"""What a server of OpenAI's chat completions sends: its fields, and reading them. Plain parsing, no I/O.

Servers that call themselves compatible differ: what is missing gets a default, what is garbage is an UpstreamFault.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from aios.abi.errors import UpstreamFault
from aios.abi.messages import TokenLogprob, Usage

from .faults import garbage, message_of

T = TypeVar("T")
Count = Annotated[int, Meta(ge=0, le=1 << 40)]
"""Of tokens. What is below or beyond is no count: it would give budgets back, or not fit where counts are added up."""


class _PromptDetails(Struct):
    cached_tokens: Count | None = None


NO_USAGE = Raw(b"null")
"""What `usage` is when there is none: this very object."""


class _Usage(Struct):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: _PromptDetails | None = None

    def told(self) -> Usage:
        """Some servers (xAI, Google) leave what a model thought out of the completion and have it in the total only;
        it is paid for all the same."""
        details = self.prompt_tokens_details
        cached = (details.cached_tokens if details is not None else None) or 0
        prompt = self.prompt_tokens or 0
        return Usage.of(prompt, max(self.completion_tokens or 0, (self.total_tokens or 0) - prompt), cached)


usage_of = msgspec.json.Decoder(_Usage).decode


class Function(Struct):
    name: str | None = None
    arguments: Any = None


class Call(Struct):
    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: Function | None = None


class Logprobs(Struct):
    content: list[TokenLogprob] | None = None


class Delta(Struct):
    """A message, or a piece of one."""

    content: str | list[dict[str, Any]] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    """The same as `reasoning_content`, as vLLM and OpenRouter call it; others send other things under this name."""
    tool_calls: list[Call] | None = None


class Choice(Struct):
    index: int | None = None
    message: Delta | None = None
    delta: Delta | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Body(Struct):
    choices: list[Choice] | None = None
    usage: Raw = NO_USAGE
    model: str | None = None
    system_fingerprint: str | None = None
    error: Any = None


class Head(Struct):
    id: Any = None
    created: Any = None


_decode = msgspec.json.Decoder(Body).decode
_decode_head = msgspec.json.Decoder(Head).decode


def arguments_of(value: Any) -> str:
    """JSON text; some servers send the object itself."""
    if value is None or isinstance(value, str):
        return value or ""
    return msgspec.json.encode(value).decode()


def thought_of(piece: Delta) -> str | None:
    """What the model thought aloud, whatever the server calls it."""
    return piece.reasoning_content or (piece.reasoning if isinstance(piece.reasoning, str) else None)


class _Anything(Struct):
    delta: dict[str, Any] | None = None


class _Anyhow(Struct):
    choices: list[_Anything]


_decode_anyhow = msgspec.json.Decoder(_Anyhow).decode


def has_more(core: str, event: bytes) -> bool:
    """Whether the delta of an event holds anything at all, if of a kind unknown here; a role is nothing."""
    delta = _decoded(core, event, _decode_anyhow).choices[0].delta or {}
    return any(value for name, value in delta.items() if name != "role")


def head_of(core: str, event: bytes) -> Head:
    return _decoded(core, event, _decode_head)


def _decoded(core: str, data: bytes, decode: Callable[[bytes], T]) -> T:
    """What `read` has passed over may still be none: a number beyond all bounds, lists within lists without end."""
    try:
        return decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise garbage(core, _why_none(data, error)) from None


def read(core: str, data: bytes) -> Body:
    try:
        body = _decode(data)
        if body.usage is not NO_USAGE:
            if bytes(body.usage) == b"null":
                body.usage = NO_USAGE
            else:
                usage_of(body.usage)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise garbage(core, _why_none(data, error)) from None
    if body.error is not None:
        raise UpstreamFault(f"core '{core}': {message_of(body.error) or 'its server failed'}")
    return body


def _why_none(data: bytes, error: Exception) -> str:
    if data.lstrip()[:1] == b"<":
        return "is a page for people, not JSON; does [[core]] base_url lead to the API (it mostly ends in /v1)?"
    if "_tokens" in str(error):
        return "is not a chat completion: its usage is no count of tokens"
    return "is not a chat completion"

"""A core that is Anthropic's Messages API, or a server that speaks it. Knows that wire and nothing of queues.

Answers are always streamed, also when nobody listens: a long one would else be silent for minutes.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError
from aios.abi.messages import Generation, Message

from ...config import CoreSection
from ..base import Request, Said
from .anthropic_answer import Answer
from .anthropic_faults import error_of
from .anthropic_request import Block, body_of, input_of, refuse
from .anthropic_stream import Events
from .connection import Response
from .core import RemoteCore

VERSION = "2023-06-01"
"""Of the API. The next one, 2026-10-21, refuses temperature, top_p and top_k for every model; under this one the
models that still take them do, and the others say themselves that they don't."""
MAX_TOKENS = 32_000
"""The API wants a bound, and this is asked for when an agent names none: what each model from 2025 on can do."""
TURN_BYTES = 8 << 20
THINKING = {"thinking", "redacted_thinking"}


class AnthropicCore(RemoteCore):
    """`resume` is "none": newer models refuse to go on with an answer that is begun, so a call runs to its end."""

    kind = "anthropic"

    def __init__(
        self,
        section: CoreSection,
        *,
        now: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(section, _headers, now=now, rng=rng)
        self._max_tokens = section.max_tokens or MAX_TOKENS
        self._ignored = frozenset(section.ignore or ())
        self._turns = Turns()
        path = urlsplit(section.url or "").path.rstrip("/")
        self._path = "/messages" if path.endswith("/v1") else "/v1/messages"

    # ── the contract of a core ──

    async def open(self) -> None:
        self._upstream.open()

    async def close(self) -> None:
        self._upstream.close()

    def check(self, args: LLMGenerate) -> None:
        refuse(self.name, args, self._ignored)

    def can_continue(self, args: LLMGenerate, said: Said) -> bool:
        return not said.text

    async def run(self, request: Request, quantum: int | None) -> Generation:
        upstream = self._upstream
        events = Events(self.name, upstream.key_source, request.emit if request.is_streamed else None)
        with upstream.attempt(is_streamed=True, has_spoken=lambda: events.has_spoken):
            body = self._body(request.args)
            answer = self._read(await upstream.post(self._path, body, events.feed), events)
        generation = answer.generation(self.model, self.name)
        self._turns.keep(generation.message, answer)
        return generation

    # ── one request ──

    def _body(self, args: LLMGenerate) -> bytes:
        model = self._model_for(args.model)
        return msgspec.json.encode(body_of(args, model, self._max_tokens, self._ignored, self._turns.find))

    def _refusal(self, response: Response) -> AiosError:
        return error_of(self.name, self._upstream.key_source, response.status, response.body, response.headers)


def _headers(key: str | None) -> dict[str, str]:
    return {"anthropic-version": VERSION} | ({"x-api-key": key} if key else {})


class Turns:
    """Late answers in which the model thought before it called tools, block for block.

    The server wants its signed thinking back, unchanged, with the results of the tools, and programs that speak
    OpenAI's API have no place to keep it. An answer is found by the ids that the server gave its calls, when text and
    arguments are still the same; what is not found goes without. Bounded; the oldest go first.
    """

    def __init__(self, most: int = TURN_BYTES) -> None:
        self._kept: OrderedDict[tuple[str, ...], bytes] = OrderedDict()
        self._most = most
        self._size = 0

    def keep(self, message: Message, answer: Answer) -> None:
        turn = answer.turn()
        kinds = {block.type for block in turn}
        if not message.tool_calls or not kinds & THINKING or kinds - THINKING - {"text", "tool_use"}:
            return
        blocks = [msgspec.to_builtins(block) for block in turn]
        for block in blocks:
            if block["type"] == "tool_use":
                block["input"] = input_of(block["input"])
        kept = msgspec.json.encode(blocks)
        self._drop(_ids(message))
        self._kept[_ids(message)] = kept
        self._size += len(kept)
        while self._size > self._most:
            self._drop(next(iter(self._kept)))

    def find(self, message: Message) -> list[Block] | None:
        kept = self._kept.get(_ids(message))
        if kept is None:
            return None
        blocks: list[Block] = msgspec.json.decode(kept)
        calls = [(b["id"], b["name"], b["input"]) for b in blocks if b["type"] == "tool_use"]
        asked = [(c.id, c.function.name, input_of(c.function.arguments)) for c in message.tool_calls or ()]
        text = "".join(b["text"] for b in blocks if b["type"] == "text")
        return blocks if calls == asked and text == message.text() else None

    def _drop(self, ids: tuple[str, ...]) -> None:
        self._size -= len(self._kept.pop(ids, b""))


def _ids(message: Message) -> tuple[str, ...]:
    return tuple(call.id for call in message.tool_calls or ())

"""A core that is Anthropic's Messages API, or a server that speaks it. Knows that wire and nothing of queues.

Answers are always streamed, also when nobody listens: a long one would else be silent for minutes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError
from aios.abi.messages import Generation

from ...config import CoreSection
from ..base import Request, Said
from .anthropic_faults import error_of
from .anthropic_request import body_of, refuse
from .anthropic_stream import Events
from .anthropic_thoughts import Thoughts
from .connection import Response
from .core import RemoteCore

VERSION = "2023-06-01"
"""Of the API. The next one, 2026-10-21, refuses temperature, top_p and top_k for every model; under this one the
models that still take them do, and the others say themselves that they don't."""
MAX_TOKENS = 32_000
"""The API wants a bound, and this is asked for when an agent names none: what each model from 2025 on can do."""


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
        self._thoughts = Thoughts()
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
        self._thoughts.keep(generation.message, answer)
        return generation

    # ── one request ──

    def _body(self, args: LLMGenerate) -> bytes:
        model = self._model_for(args.model)
        return msgspec.json.encode(body_of(args, model, self._max_tokens, self._ignored, self._thoughts.find))

    def _refusal(self, response: Response) -> AiosError:
        return error_of(self.name, self._upstream.key_source, response.status, response.body, response.headers)


def _headers(key: str | None) -> dict[str, str]:
    return {"anthropic-version": VERSION} | ({"x-api-key": key} if key else {})

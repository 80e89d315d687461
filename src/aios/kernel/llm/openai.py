"""A core that is somebody else's server: anything that speaks OpenAI's chat completions at a `base_url`.

Knows that wire and nothing of queues, journals or the surface agents speak. What streams through is passed on as it
came, and read on the way: enough to say at the end what was said.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import msgspec

from aios.abi.calls import LLMEmbed, LLMGenerate
from aios.abi.messages import Embeddings, Generation

from ..config import CoreSection
from .base import Request
from .openai_embed import embed
from .openai_wire import Answer, Events, error_of, parse_whole
from .upstream import Upstream

CHAT = "/chat/completions"


class OpenAICore:
    """`resume` is "none": an interrupt would throw paid tokens away, so a call runs to its end here."""

    kind = "openai"
    resume = "none"

    def __init__(
        self,
        section: CoreSection,
        *,
        now: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.name = section.name
        self.model = section.model or section.name
        self.slots = section.slots
        self.context_length = section.context_length
        self._section = section
        self._asks_for = section.model
        self._upstream = Upstream(section, _headers, now=now, rng=rng)

    # ── the contract of a core ──

    async def open(self) -> None:
        self._upstream.open()

    async def close(self) -> None:
        self._upstream.close()

    def check(self, args: LLMGenerate) -> None:
        """The server behind knows what it can do; its refusals come back as they are."""

    def can_take(self, snapshot: Any, active: int = 0) -> bool:
        return active < self._upstream.pace.room

    def drop(self, snapshot: Any) -> None:
        """There are no snapshots here."""

    def statistics(self) -> dict[str, Any]:
        return self._upstream.statistics()

    async def run(self, request: Request, quantum: int | None) -> Generation:
        events = Events(self.name, request.emit) if request.is_streamed else None
        with self._upstream.attempt(
            is_streamed=request.is_streamed, has_spoken=lambda: events is not None and events.has_spoken
        ):
            answer = await self._ask(request, events)
        return answer.generation(self.model, self.name, request.args.seed)

    @property
    def embeds(self) -> bool | None:
        return self._section.embeddings

    def check_embed(self, args: LLMEmbed) -> None:
        """The server behind knows what it can do."""

    async def embed(self, args: LLMEmbed) -> Embeddings:
        return await embed(self._upstream, args, self._model_for(args.model), self._section.embed_batch)

    # ── one request ──

    async def _ask(self, request: Request, events: Events | None) -> Answer:
        upstream = self._upstream
        response = await upstream.post(CHAT, self._body(request), None if events is None else events.feed)
        if response.status != 200:
            raise error_of(self.name, upstream.key_source, response.status, response.body, response.headers)
        if events is not None and response.is_streamed:
            return events.finish()
        answer = parse_whole(self.name, response.body)
        if events is not None:
            request.emit(answer.as_chunk())
        return answer

    def _model_for(self, asked: str | None) -> str:
        return self._asks_for or (asked if asked != self.name else None) or self.model

    def _body(self, request: Request) -> bytes:
        args = request.args
        fields = {name: value for name, value in msgspec.structs.asdict(args).items() if value is not None}
        fields.pop("window", None)  # the kernel has seen to it
        if extra := fields.pop("extra", None):
            fields = {**extra, **fields}
            fields.pop("stream", None)
        fields["model"] = self._model_for(args.model)
        if request.is_streamed:
            fields["stream"] = True
            fields["stream_options"] = {"include_usage": True}
        return msgspec.json.encode(fields)


def _headers(key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}

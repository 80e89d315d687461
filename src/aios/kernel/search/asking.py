"""A model of the kernel's that makes vectors, asked by calls as anybody's are. Knows no core and no queue."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from aios.abi.calls import LLMEmbed
from aios.abi.errors import UpstreamFault
from aios.abi.messages import Embeddings

from .base import F32

Ask = Callable[[LLMEmbed, bool], Awaitable[Embeddings]]
"""Runs an `llm_embed`; True for one that somebody waits for."""
CHARS = 3
"""Of a token of the model's, as a guess: of a text that is too long after all less is asked."""
UNKNOWN_TOKENS = 2048


class Asking:
    """An `Embedder`. `model` is what calls name, and `name` what it is known by among vectors; `context` says how many
    tokens of a text it takes, once that is known."""

    floor = -1.0
    """What two texts have in common that are about different things is another number with each model."""
    batch = 32
    dimension = None

    def __init__(self, model: str, name: str, ask: Ask, context: Callable[[], int | None]) -> None:
        self.name = name
        self._model = model
        self._ask = ask
        self._context = context

    @property
    def max_chars(self) -> int:
        return CHARS * (self._context() or UNKNOWN_TOKENS)

    async def embed(self, texts: Sequence[str], *, is_urgent: bool = False) -> list[F32]:
        asked = LLMEmbed(input=list(texts), model=self._model, encoding_format="base64")
        answer = await self._ask(asked, is_urgent)
        try:
            return [np.frombuffer(base64.b64decode(str(each.embedding)), "<f4") for each in answer.data]
        except ValueError:
            why = f"core '{answer.core}' answered with a vector that is none"
            raise UpstreamFault(why, code="upstream_garbage") from None

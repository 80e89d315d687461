"""A core that only embeds: a model in a folder, in this process. How texts become vectors is `local/sentences.py`."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from aios.abi.calls import LLMEmbed, LLMGenerate
from aios.abi.errors import BadRequest, ContextLengthExceeded, ModuleFault, NotFound
from aios.abi.messages import Embeddings, Generation, Usage

from ..config import CoreSection
from ..syscall import Suspended
from .aside import aside
from .base import Request, Said
from .embed import in_form, texts_of
from .local.sentences import Sentences, load_sentences
from .local.shape import ModelError


class SentenceCore:
    """Of a `[[core]]` section of kind "embed". One thread computes, text by text, so that calls take turns and a
    cancelled one leaves after the text that is under way."""

    kind = "embed"
    resume = "none"
    embeds = True

    def __init__(self, section: CoreSection) -> None:
        self._folder = Path(section.path or "").expanduser()
        self.name = section.name
        self.model = section.model or self._folder.name or section.name
        self.slots = section.slots
        self.context_length = section.context_length
        self._section = section
        self._sentences: Sentences | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._counts = {"active": 0, "texts": 0, "tokens": 0}

    async def open(self) -> None:
        """Raises ModuleFault that says what is wrong with the folder."""
        try:
            self._sentences = await aside(
                f"open {self.name}", lambda: load_sentences(self._folder, self._section.context_length)
            )
        except ModelError as error:
            raise ModuleFault(f"core '{self.name}': {error}", code="bad_model") from None
        self.context_length = self._sentences.context
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"embed-{self.name}")

    async def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _compute(self, work: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    # ── vectors ──

    def check_embed(self, args: LLMEmbed) -> None:
        width = self._sentences.width if self._sentences is not None else args.dimensions
        if args.dimensions not in (None, width):
            raise BadRequest(
                f"core '{self.name}' gives vectors of {width} dimensions, not {args.dimensions}; leave dimensions out",
                param="dimensions",
            )

    async def embed(self, args: LLMEmbed) -> Embeddings:
        assert self._sentences is not None, "opened before it is asked"
        counts, vectors, tokens = self._counts, [], 0
        counts["active"] += 1
        try:
            for n, text in enumerate(texts_of(args)):
                vector, size = await self._compute(self._one, n, text)
                vectors.append(vector)
                tokens += size
                counts["texts"] += 1
                counts["tokens"] += size
        finally:
            counts["active"] -= 1
        return Embeddings(in_form(args, vectors, self.name), self.model, self.name, Usage.of(tokens, 0))

    def _one(self, n: int, text: str | list[int]) -> tuple[list[float], int]:
        sentences = self._sentences
        assert sentences is not None
        tokens = sentences.tokens(text) if isinstance(text, str) else text
        if len(tokens) < sentences.least:
            raise BadRequest(f"input[{n}] holds nothing that core '{self.name}' has a token for", param="input")
        if len(tokens) > sentences.context:
            raise ContextLengthExceeded(
                f"input[{n}] has {len(tokens)} tokens, and core '{self.name}' takes {sentences.context}", param="input"
            )
        if (largest := max(tokens, default=0)) >= sentences.vocabulary:
            why = f"input[{n}] has token {largest}; core '{self.name}' has {sentences.vocabulary}"
            raise BadRequest(why, param="input")
        with np.errstate(over="ignore", invalid="ignore"):
            vector = sentences.vector(tokens)
        if not np.isfinite(vector).all():
            raise ModuleFault(
                f"core '{self.name}' computes for input[{n}] what is no number: its weights are broken",
                code="bad_model",
            )
        return vector.tolist(), len(tokens)

    # ── the rest of the contract of a core ──

    def check(self, args: LLMGenerate) -> None:
        why = f"core '{self.name}' gives embeddings only; ask another model for answers"
        raise NotFound(why, code="model_not_found", param="model")

    def can_take(self, snapshot: Any, active: int = 0) -> bool:
        return True

    def can_continue(self, args: LLMGenerate, said: Said) -> bool:
        return False

    async def run(self, request: Request, quantum: int | None) -> Generation | Suspended:
        raise AssertionError("such a call is refused before it is queued")

    def drop(self, snapshot: Any) -> None:
        """There are no snapshots here."""

    def statistics(self) -> dict[str, Any]:
        return dict(self._counts)

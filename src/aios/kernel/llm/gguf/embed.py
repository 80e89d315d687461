"""A model in a GGUF file that turns texts into vectors. Knows what is asked of the server; the rest is `core.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aios.abi.calls import LLMEmbed, LLMGenerate
from aios.abi.errors import AiosError, BadRequest, ContextLengthExceeded
from aios.abi.messages import Embeddings

from ..base import Said
from ..remote.connection import Response, Unreachable
from ..remote.openai_embed import embed
from .core import GgufCore
from .process import Process

TOO_LONG = "too large to process"
"""In the server's words, which have the status of a fault of its own."""


class GgufEmbedCore(GgufCore):
    """Of a section with `embeddings = true`. It embeds and does not chat."""

    embeds = True

    def check(self, args: LLMGenerate) -> None:
        raise BadRequest(f"core '{self.name}' is for embedding and does not chat; ask another model", param="model")

    def can_continue(self, args: LLMGenerate, said: Said) -> bool:
        return False

    def check_embed(self, args: LLMEmbed) -> None:
        """The server says what it cannot take."""

    async def embed(self, args: LLMEmbed) -> Embeddings:
        self._counts["active"] += 1
        try:
            return await self._vectors(args)
        except Unreachable:
            raise self._not_begun() from None
        finally:
            self._counts["active"] -= 1

    async def _vectors(self, args: LLMEmbed) -> Embeddings:
        process = await self._serving(is_patient=False)
        self._counts["requests"] += 1
        try:
            server = _Server(self.name, process, self._section.timeout)
            return await embed(server, args, self.model, self._section.embed_batch)
        except (AiosError, OSError) as error:
            self._counts["failed"] += 1
            if isinstance(error, Unreachable):
                raise
            told = await self._told(error, process)
            if TOO_LONG in told.message:
                why = f"core '{self.name}': a text is longer than its window of {self.context_length} tokens"
                raise ContextLengthExceeded(why, param="input") from None
            raise told from None


class _Server:
    """The process, as `embed` asks it."""

    key_source = "its own key"

    def __init__(self, name: str, process: Process, timeout: float) -> None:
        self.name = name
        self._process = process
        self._timeout = timeout

    async def post(self, path: str, body: bytes) -> Response:
        return await self._process.post(f"/v1{path}", body, self._timeout)

    @contextmanager
    def attempt(self, *, is_streamed: bool, has_spoken: Callable[[], bool]) -> Iterator[None]:
        """Nothing is tried again here."""
        yield

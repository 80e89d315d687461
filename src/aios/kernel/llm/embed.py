"""What `llm_embed` asks of a core: who embeds, what may be given, and vectors in the form that was asked for.

Knows no model and no wire.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from aios.abi.calls import LLMEmbed
from aios.abi.errors import BadRequest, NotFound, UpstreamFault
from aios.abi.messages import Embedding, Embeddings

from .base import Core

MAX_ITEMS = 2048
MAX_SIZE = 8 << 20
"""Characters, or tokens, of all texts of a call."""


NOBODY = '; add a [[core]] of kind "embed", or one of kind "openai" whose server has a model for that'


@runtime_checkable
class Embeds(Protocol):
    """A core that turns texts into vectors. `embeds`: True where that is what it is for, None where only its server
    knows, False where it does not after all."""

    @property
    def embeds(self) -> bool | None: ...

    def check_embed(self, args: LLMEmbed) -> None:
        """Raise BadRequest for what this core can never do. Cheap: called before queueing."""

    async def embed(self, args: LLMEmbed) -> Embeddings:
        """The Embeddings of `args.input`. Cancelling it stops the work. Raises as `Core.run` does."""


def embedder(core: Core) -> Embeds | None:
    return core if isinstance(core, Embeds) and core.embeds is not False else None


def is_for_embedding(core: Core) -> bool:
    found = embedder(core)
    return found is not None and bool(found.embeds)


def check_embed(core: Core, args: LLMEmbed, cores: Iterable[Core]) -> None:
    """Raise what keeps `core` from embedding this; where it never can, with the one of `cores` that does."""
    if (found := embedder(core)) is not None:
        found.check_embed(args)
        return
    names = [each.name for each in cores if is_for_embedding(each)]
    hint = f"; {' and '.join(names)} can" if names else NOBODY
    raise NotFound(f"core '{core.name}' cannot embed{hint}", code="model_not_found", param="model")


def check_input(args: LLMEmbed) -> None:
    """Raise BadRequest for an input that no core could embed."""
    texts = texts_of(args)
    if len(texts) > MAX_ITEMS:
        raise _bad(f"input has {len(texts)} texts; ask for at most {MAX_ITEMS} at once")
    if not texts:
        raise _bad("input is empty; give a text, or a list of texts")
    for n, text in enumerate(texts):
        if not text:
            raise _bad(f"input[{n}] is empty, and nothing has no meaning; leave it out")
        if isinstance(text, list) and not all(isinstance(t, int) and 0 <= t < 1 << 31 for t in text):
            raise _bad(f"input[{n}] must hold tokens, whole numbers from 0 on")
    if (size := sum(map(len, texts))) > MAX_SIZE:
        raise _bad(f"input has {size} characters or tokens; ask for at most {MAX_SIZE} at once")


def texts_of(args: LLMEmbed) -> list[str] | list[list[int]]:
    """The input as a list, each of it a text or the tokens of one. Raises BadRequest for a mixture."""
    given = args.input
    if isinstance(given, str):
        return [given]
    if given and all(isinstance(each, int) for each in given):
        return [[each for each in given if isinstance(each, int)]]
    if all(isinstance(each, str) for each in given):
        return [each for each in given if isinstance(each, str)]
    if all(isinstance(each, list) for each in given):
        return [each for each in given if isinstance(each, list)]
    raise _bad("input mixes texts and tokens; give a list of texts, or one of lists of tokens")


def in_form(args: LLMEmbed, vectors: Sequence[list[float] | str], core: str, first: int = 0) -> list[Embedding]:
    """`vectors`, of the texts from number `first` on, as the agent asked for them; what is in that form already stays
    as it is. Raises UpstreamFault for one that is no vector, or not as long as was asked for."""
    return [Embedding(n, _in_form(args, vector, core, n)) for n, vector in enumerate(vectors, first)]


def _in_form(args: LLMEmbed, vector: list[float] | str, core: str, n: int) -> list[float] | str:
    wants_text = args.encoding_format == "base64"
    try:
        numbers = from_base64(vector) if isinstance(vector, str) else vector
        if args.dimensions not in (None, len(numbers)):
            raise _none(core, n, f"{len(numbers)} dimensions, where {args.dimensions} were asked for")
        with np.errstate(over="ignore"):
            packed = np.asarray(numbers, "<f4")
        if not packed.size or not np.isfinite(packed).all():
            raise ValueError
    except (ValueError, binascii.Error):
        raise _none(core, n, "what is no vector of numbers") from None
    if wants_text:
        return vector if isinstance(vector, str) else base64.b64encode(packed.tobytes()).decode()
    return packed.tolist() if isinstance(vector, str) else vector


def _none(core: str, n: int, what: str) -> UpstreamFault:
    return UpstreamFault(f"core '{core}' answered input[{n}] with {what}", code="upstream_garbage")


def from_base64(text: str) -> NDArray[np.float32]:
    """Raises ValueError, or binascii.Error."""
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4")


def _bad(why: str) -> BadRequest:
    return BadRequest(why, code="bad_arguments", param="input")

"""A table of vectors, one a token, whose mean is a text's: what model2vec distils of a sentence model. Knows no core.

The folder is told by its tensors: `embeddings`, perhaps `weights` of tokens and a `mapping` of tokens to rows, as
model2vec writes them, or `embedding.weight`, as sentence-transformers does, there in a folder `0_StaticEmbedding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .linear import F32
from .shape import ModelError
from .weights import ONE, Weights

NAMES = ("embeddings", "embedding.weight")
INNER = "0_StaticEmbedding"
CONTEXT = 1 << 15
"""Tokens of a text where nothing else is said: there are no positions that could end."""


class Table(NamedTuple):
    """Vectors (rows, width); the row of each token, and its weight, where there are such."""

    vectors: NDArray[Any]
    rows: NDArray[np.int64] | None
    weights: F32 | None

    @property
    def vocabulary(self) -> int:
        return len(self.vectors if self.rows is None else self.rows)

    def states(self, tokens: Sequence[int]) -> F32:
        """One vector a token. A text without any has one that points nowhere."""
        if not tokens:
            return np.zeros((1, self.vectors.shape[1]), np.float32)
        ids = np.asarray(tokens, np.intp)
        found = self.vectors[ids if self.rows is None else self.rows[ids]].astype(np.float32)
        return found if self.weights is None else found * self.weights[ids][:, None]


class Words:
    """A tokenizer that adds nothing to a text, and leaves out what it does not know."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        unknown = getattr(tokenizer.model, "unk_token", None)
        self._unknown = tokenizer.token_to_id(unknown) if unknown is not None else None

    def encode(self, text: str) -> Words.Encoding:
        found = self._tokenizer.encode(text, add_special_tokens=False).ids
        return Words.Encoding([token for token in found if token != self._unknown])

    class Encoding(NamedTuple):
        ids: list[int]


def static_folder(folder: Path) -> Path | None:
    """Where in `folder` such a table is, if that is what it holds."""
    for place in (folder, folder / INNER):
        if (place / ONE).is_file() and any(name in Weights(place) for name in NAMES):
            return place
    return None


def read_table(place: Path) -> Table:
    """Raises ModelError."""
    tensors = Weights(place)
    name = next(name for name in NAMES if name in tensors)
    vectors = tensors.numbers(name, dimensions=2)
    if not vectors.size:
        raise ModelError(f"the weights' {name} is empty")
    rows = tensors.numbers("mapping", dimensions=1) if "mapping" in tensors else None
    weights = tensors.numbers("weights", dimensions=1) if "weights" in tensors else None
    if rows is not None and (rows.dtype.kind != "i" or not ((rows >= 0) & (rows < len(vectors))).all()):
        raise ModelError(f"the weights' mapping names rows that {name} does not have: it has {len(vectors)}")
    table = Table(vectors, None if rows is None else rows.astype(np.int64), None)
    if weights is None:
        return table
    if len(weights) != table.vocabulary:
        raise ModelError(f"there are {len(weights)} weights, for {table.vocabulary} tokens")
    return table._replace(weights=weights.astype(np.float32))

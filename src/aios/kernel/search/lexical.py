"""Vectors of letters and words: no model, no download, the same on every machine. They find other forms of a word and
misspelt ones, and no synonyms.

A word is the sum of its features, which are its runs of three letters, its borders among them, and a little of itself;
each feature adds or takes away at a place that its hash says (Weinberger et al. 2009). A text is the sum of its words,
each weighed by its length, for short words say little, and by the logarithm of how often it occurs. Runs of other
lengths, and more of the word, were worse on one half of the corpus of `aios bench retrieval`, misspelt words above all.
"""

from __future__ import annotations

import asyncio
import math
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .base import F32
from .words import words_of

NAME = "lexical-1"
"""Another number for whatever changes a vector: then all are made anew."""
DIMENSION = 256
ITSELF = 0.2
"""How much a word's own feature counts beside all its runs together."""
LONG = 6
"""Letters from which on a word counts fully."""
KNOWN = 20_000
"""Words whose vectors are kept: 9 MiB."""


class Lexical:
    """The default `Embedder`."""

    name = NAME
    dimension = DIMENSION
    floor = 0.25
    """Four times what two texts that have nothing in common deviate from 0."""
    max_chars = 1 << 16
    batch = 64

    def __init__(self) -> None:
        self._known: dict[str, NDArray[np.int8]] = {}

    async def embed(self, texts: Sequence[str], *, is_urgent: bool = False) -> list[F32]:
        return self.vectors(texts) if is_urgent else await asyncio.to_thread(self.vectors, texts)

    def vectors(self, texts: Sequence[str]) -> list[F32]:
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> F32:
        counts = Counter(words_of(text))
        if not counts:
            return _mark(text)
        weights = np.array([_weight(word, count) for word, count in counts.items()], np.float32)
        words = np.stack([self._word(word) for word in counts]).astype(np.float32)
        return np.asarray(weights @ words, np.float32)

    def _word(self, word: str) -> NDArray[np.int8]:
        found = self._known.get(word)
        if found is None:
            if len(self._known) >= KNOWN:
                self._known.clear()
            found = self._known[word] = _features(word)
        return found


def _features(word: str) -> NDArray[np.int8]:
    """A word's vector: bytes, of length 32 or so."""
    found = np.zeros(DIMENSION, np.float32)
    runs = [f"<{word}>"[at : at + 3] for at in range(len(word))]
    for feature, weight in [(word, ITSELF * math.sqrt(len(runs))), *((run, 1.0) for run in runs)]:
        hashed = _hash(feature)
        found[hashed % DIMENSION] += weight if hashed >> 31 else -weight
    if not found.any():  # what few features it has cancel out
        found[_hash(word) % DIMENSION] = 1
    return np.asarray(np.round(found * (96 / np.linalg.norm(found))), np.int8)


def _hash(feature: str) -> int:
    return zlib.crc32(feature.encode(errors="surrogatepass"))


def _weight(word: str, count: int) -> float:
    return (1 + math.log(count)) * min(1.0, len(word) / LONG) ** 2


def _mark(text: str) -> F32:
    """Of a text without words: by its signs; one without these too has a vector that no other is like."""
    found = np.zeros(DIMENSION, np.float32)
    for sign in text.strip() or "\0":
        hashed = _hash(sign)
        found[hashed % DIMENSION] += 1.0 if hashed >> 31 else -1.0
    return found

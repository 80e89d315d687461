"""Vectors as they are kept: a byte a number, since only their direction counts; and many of them compared with one.

Knows no database and no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import F32

I8 = NDArray[np.int8]
I64 = NDArray[np.int64]

BLOCK = 8192
"""Vectors that are kept together."""
_CHUNK = 512
"""Vectors that are turned into f32 at once: what a processor's cache holds."""


def fault_of(vector: NDArray[Any], dimension: int | None) -> str | None:
    """What keeps it from being a vector of `dimension` numbers."""
    if vector.ndim != 1 or (dimension is not None and len(vector) != dimension):
        return f"it has {len(vector) if vector.ndim == 1 else vector.shape} numbers where the model gives {dimension}"
    if not vector.size or vector.dtype.kind not in "fiu":
        return "it is no list of numbers"
    if not np.isfinite(vector).all():
        return "it has a number that is none (NaN), or none that is finite"
    return None


def is_nowhere(vector: NDArray[Any]) -> bool:
    """Whether it points in no direction: all its numbers are 0."""
    return not np.abs(vector).max() > 1e-30


def packed(vector: NDArray[Any]) -> bytes:
    """A sound vector's direction: its numbers as whole ones from -127 to 127, the largest of which is one of these."""
    wide = np.asarray(vector, np.float64)
    return bytes(np.round(wide * (127 / np.abs(wide).max())).astype(np.int8).tobytes())


def direction(vector: NDArray[Any]) -> F32:
    """A sound vector with length 1."""
    wide = np.asarray(vector, np.float64)
    wide = wide / np.abs(wide).max()  # a square of a large number is not finite
    return np.asarray(wide / np.linalg.norm(wide), np.float32)


class Block:
    """Up to BLOCK vectors with their keys. Only appended to: who reads `count` first may read so many of the rest."""

    def __init__(self, dimension: int, room: int = BLOCK) -> None:
        self.count = 0
        self.keys: I64 = np.empty(room, np.int64)
        self._vectors: I8 = np.empty((room, dimension), np.int8)
        self._norms: F32 = np.empty(room, np.float32)

    def append(self, keys: Sequence[int], vectors: Sequence[bytes]) -> None:
        begin, end = self.count, self.count + len(keys)
        self.keys[begin:end] = keys
        added = np.frombuffer(b"".join(vectors), np.int8).reshape(len(keys), -1)
        self._vectors[begin:end] = added
        self._norms[begin:end] = np.sqrt(np.square(added, dtype=np.float32).sum(axis=1))
        self.count = end

    def cosines(self, query: F32, count: int) -> F32:
        """Of the first `count` vectors with `query`, whose length is 1."""
        found = np.empty(count, np.float32)
        wide = np.empty((min(_CHUNK, count), len(query)), np.float32)
        for begin in range(0, count, _CHUNK):
            end = min(begin + _CHUNK, count)
            part = wide[: end - begin]
            part[...] = self._vectors[begin:end]
            np.dot(part, query, out=found[begin:end])
        found /= self._norms[:count]
        return found

    @property
    def num_bytes(self) -> int:
        return self.keys.nbytes + self._vectors.nbytes + self._norms.nbytes


class Matrix:
    """All vectors of one scope and model that have keys up to `last`. One thread at a time appends; any may read."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.last = 0
        self.count = 0
        self._blocks: list[Block] = []

    def append(self, keys: Sequence[int], vectors: Sequence[bytes]) -> None:
        at = 0
        while at < len(keys):
            if not self._blocks or self._blocks[-1].count == len(self._blocks[-1].keys):
                self._blocks.append(Block(self.dimension, min(BLOCK, max(64, self.count, len(keys) - at))))
            block = self._blocks[-1]
            end = at + len(block.keys) - block.count
            block.append(keys[at:end], vectors[at:end])
            self.count += len(keys[at:end])
            at = end

    def cosines(self, query: F32) -> tuple[I64, F32]:
        """Keys, and each one's cosine with `query`, whose length is 1."""
        found = [(block.keys[:count], block.cosines(query, count)) for block, count in self._counted()]
        if not found:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        keys, cosines = zip(*found, strict=True)
        return np.concatenate(keys), np.concatenate(cosines)

    def _counted(self) -> Iterator[tuple[Block, int]]:
        yield from [(block, block.count) for block in list(self._blocks) if block.count]

    @property
    def num_bytes(self) -> int:
        return sum(block.num_bytes for block in self._blocks)

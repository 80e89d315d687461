"""Attention over keys and values on NumPy, sequence by sequence. Knows no weights, no tokens and no requests.

The products have shapes made from one sequence's length and the layer's window, so their bits depend on that sequence
alone; softmax works element by element, or sums one sequence's row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .backend import Rows
from .kv import KV, MANY, STEP
from .linear import F32, aligned


class Scores:
    """One buffer for the scores of whatever is computed next."""

    def __init__(self) -> None:
        self._data = aligned((0,))

    def of(self, rows: int, heads: int, longest: int) -> F32:
        size = rows * heads * longest
        if size > self._data.size:
            self._data = aligned((size,))
        found = self._data[:size].reshape(rows, heads, longest)
        found.fill(0)  # what is masked must be finite: one sequence's NaN, left here, would be every other's
        return found


class Batch:
    """One decoding step of many sequences, for all layers that look back `window` positions (0: on all)."""

    def __init__(self, rows: Rows, kvs: Sequence[KV], where: NDArray[np.intp], window: int, buffer: Scores) -> None:
        count = len(kvs)
        _, kv_heads, group, dim = rows.queries.shape
        heads, lengths = kv_heads * group, where + 1
        first = _first(lengths, window)
        seen = -(-lengths // STEP) * STEP - first
        longest = int(seen.max()) + STEP  # one step more: sums need an end inside the array
        scores = buffer.of(count, heads, longest)
        starts = np.arange(count * heads) * longest
        # reduceat sums between neighbouring indices: from a row's start to its end, and (unused) on to the next start.
        ends = starts + np.repeat(seen, heads)
        self._segments = np.stack([starts, ends], axis=1).reshape(-1)
        self._mask = _mask(longest, lengths - first, window)
        self._scores, self._flat = scores, scores.reshape(-1)
        self._best = np.empty((count, heads, 1), np.float32)
        attended = rows.attended[:count]
        self._by_head = attended.reshape(count, heads, dim)
        by_group = scores.reshape(count, kv_heads, group, longest)
        mine = [by_group[i, :, :, :n] for i, n in enumerate(seen.tolist())]
        pairs = zip(rows.queries, mine, strict=False)
        asked = [(q, m) if m.shape[2] <= MANY else (q[:, :, None], m[:, :, None]) for q, m in pairs]
        at = where.tolist()
        for kv, position in zip(kvs, at, strict=True):
            kv.room_for(position + 1, position)
        views = [kv.views(p + 1, f) for kv, p, f in zip(kvs, at, first.tolist(), strict=True)]
        self._asking = list(zip(views, at, rows.new_kv, asked, strict=False))
        self._answering = list(zip(views, mine, attended, strict=True))

    def attend(self, layer: int) -> None:
        matmul, scores = np.matmul, self._scores
        for views, at, new, (query, out) in self._asking:
            keys, _, both = views[layer]
            both[:, at] = new
            matmul(query, keys, out=out)
        np.add(scores, self._mask, out=scores)
        np.maximum.reduce(scores, axis=-1, keepdims=True, out=self._best)
        np.subtract(scores, self._best, out=scores)
        np.exp(scores, out=scores)
        for views, mine, out in self._answering:
            matmul(mine, views[layer].values, out=out)
        sums = np.add.reduceat(self._flat, self._segments)[::2]
        np.divide(self._by_head, sums.reshape(self._best.shape), out=self._by_head)


class Chunk:
    """The positions from `start` to `end` of one sequence, for all layers that look back `window` positions."""

    def __init__(self, rows: Rows, kv: KV, start: int, end: int, window: int) -> None:
        self._rows, self._start, self._end = rows, start, end
        self._first = int(_first(np.asarray([start + 1]), window)[0])
        self._views = kv.views(end)
        places, asking = np.arange(self._first, end), np.arange(start, end)[:, None]
        hidden = places > asking
        if window:
            hidden |= places <= asking - window
        self._mask = np.where(hidden, np.float32(-np.inf), np.float32(0))

    def attend(self, layer: int) -> None:
        both, first, end = self._views[layer].both, self._first, self._end
        count, heads = end - self._start, len(both) // 2
        both[:, self._start : end] = self._rows.new_kv[:count].swapaxes(0, 1)
        queries = self._rows.queries[:count].transpose(1, 2, 0, 3)
        scores = np.matmul(queries, both[:heads, None, first:end].swapaxes(2, 3))
        np.add(scores, self._mask, out=scores)
        np.subtract(scores, np.maximum.reduce(scores, axis=-1, keepdims=True), out=scores)
        np.exp(scores, out=scores)
        sums = np.add.reduce(scores, axis=-1, keepdims=True)
        out = np.matmul(scores, both[heads:, None, first:end])
        np.divide(out, sums, out=self._rows.attended[:count].transpose(1, 2, 0, 3))


def _first(lengths: NDArray[np.intp], window: int) -> NDArray[np.intp]:
    """The position at which each view begins: that of a whole step, so that it moves seldom and stays aligned."""
    if not window:
        return np.zeros_like(lengths)
    return np.maximum(lengths - window, 0) // STEP * STEP


def _mask(longest: int, ends: NDArray[np.intp], window: int) -> F32:
    """0 where a position, counted from its view's beginning, is looked at, and -inf elsewhere."""
    places, limits = np.arange(longest), ends[:, None, None]
    seen = places < limits
    if window:
        seen &= places >= limits - window
    return np.where(seen, np.float32(0), np.float32(-np.inf))

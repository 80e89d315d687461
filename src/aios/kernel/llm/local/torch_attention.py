"""Attention over keys and values on torch, sequence by sequence. Knows no weights, no tokens and no requests.

Each sequence is asked about in a call of its own, whose shapes are made from its length and the layer's window, so the
bits depend on that sequence alone. A key head's group of queries is asked as if it were so many positions, which takes
no mask: a decoding step sees all there is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from .backend import Array, Rows
from .kv import KV


class Batch:
    """One decoding step of many sequences, for all layers that look back `window` positions (0: on all)."""

    def __init__(self, rows: Rows, kvs: Sequence[KV], where: Sequence[int], window: int) -> None:
        self._new, self._scale = rows.new_kv[: len(kvs)], rows.scale
        self._queries, self._attended = rows.queries[: len(kvs)], rows.attended[: len(kvs)]
        views = [_views(kv, at, window) for kv, at in zip(kvs, where, strict=True)]
        places, keys, values = zip(*views, strict=True)
        self._places = list(zip(*places, strict=True))
        by_layer = zip(zip(*keys, strict=True), zip(*values, strict=True), strict=True)
        self._seen = [list(zip(*each, strict=True)) for each in by_layer]

    def attend(self, layer: int) -> None:
        dtype = self._attended.dtype
        torch._foreach_copy_(self._places[layer], self._new.unbind())
        queries = self._queries.to(dtype, memory_format=torch.contiguous_format).unsqueeze(1).unbind()
        asked = zip(queries, self._seen[layer], strict=True)
        found = [scaled_dot_product_attention(query, *seen, scale=self._scale) for query, seen in asked]
        torch.cat(found, out=self._attended)


class Chunk:
    """The positions from `start` to `end` of one sequence, for all layers that look back `window` positions."""

    def __init__(self, rows: Rows, kv: KV, start: int, end: int, window: int) -> None:
        self._count = end - start
        self._rows, self._data, self._start, self._end = rows, kv.data, start, end
        self._first = max(start + 1 - window, 0) if window else 0
        device, group = self._data.device, rows.queries.shape[2]
        places, asking = torch.arange(self._first, end, device=device), torch.arange(start, end, device=device)[:, None]
        seen = places <= asking
        if window:
            seen &= places > asking - window
        self._mask = seen.repeat(group, 1)

    def attend(self, layer: int) -> None:
        rows, count, both = self._rows, self._count, self._data[layer]
        heads = len(both) // 2
        both[:, self._start : self._end] = rows.new_kv[:count].transpose(0, 1)
        queries = rows.queries[:count].permute(1, 2, 0, 3)
        asked = queries.to(both.dtype).reshape(1, heads, -1, queries.shape[3])
        seen = both[None, :, self._first : self._end]
        found = scaled_dot_product_attention(
            asked, seen[:, :heads], seen[:, heads:], attn_mask=self._mask, scale=rows.scale
        )
        rows.attended[:count] = found.view(queries.shape).permute(2, 0, 1, 3)


def _views(kv: KV, at: int, window: int) -> tuple[Sequence[Array], Sequence[Array], Sequence[Array]]:
    """For each layer: where the keys and values of position `at` go, and the keys and values that it sees."""
    kv.room_for(at + 1, at)
    first = max(at + 1 - window, 0) if window else 0
    heads = kv.data.shape[1] // 2
    seen = kv.data[:, None, :, first : at + 1]
    return kv.data[:, :, at].unbind(), seen[:, :, :heads].unbind(), seen[:, :, heads:].unbind()

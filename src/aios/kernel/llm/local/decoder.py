"""A Llama-shaped decoder on NumPy: tokens and KV in, logits out. Knows nothing about requests, sampling or time.

Exactness: what a sequence computes depends on that sequence alone, bit for bit. Linear layers run on row counts that
were proven equal (`linear.py`); attention's products run sequence by sequence, on shapes made from that sequence's
length; softmax works element by element or sums one sequence's row; prefill runs alone, in chunks that end at
multiples of `CHUNK`.

Speed, where NumPy's cost per operation counts: norm weights, the attention scale and the sign of SiLU are folded into
the matrices; q, k, v are one product and gate, up another; a rotary pair is one complex number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from .blas import kernel_family, use_one_thread
from .kv import KV, MANY, STEP, KVShape
from .linear import F32, MAX_ROWS, aligned, blocks_in, blocks_out, proven_rows, tiled

CHUNK = 64
"""Prefill computes at most this many positions at once and never across a multiple of it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model; `from_config` reads them from a Hugging Face `config.json`."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    context: int
    rope_theta: float
    norm_eps: float
    is_tied: bool
    """The output matrix is the embedding."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Shape:
        heads = int(config["num_attention_heads"])
        width = int(config["hidden_size"])
        rope = config.get("rope_parameters") or {}
        return cls(
            vocabulary=int(config["vocab_size"]),
            width=width,
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or width // heads),
            hidden=int(config["intermediate_size"]),
            context=int(config["max_position_embeddings"]),
            rope_theta=float(config.get("rope_theta") or rope.get("rope_theta") or 10_000.0),
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            is_tied=bool(config.get("tie_word_embeddings", False)),
        )

    @property
    def kv(self) -> KVShape:
        return KVShape(self.layers, self.kv_heads, self.head_dim, self.context)


class Tensors(Protocol):
    """Weights by their Hugging Face names, of any float type."""

    def get_tensor(self, name: str) -> NDArray[Any]: ...


class Layer(NamedTuple):
    """One block's matrices, tiled. The attention and MLP norms are folded into `qkv` and `gate_up`."""

    qkv: F32
    out: F32
    gate_up: F32
    down: F32


class Decoder:
    """Weights and buffers. One thread at a time. `is_padded=False` gives up exactness; for measuring only."""

    def __init__(self, shape: Shape, tensors: Tensors, *, digest: str = "", is_padded: bool = True) -> None:
        use_one_thread()  # the number of threads changes bits
        self.shape = shape
        self._embedding = np.ascontiguousarray(tensors.get_tensor("model.embed_tokens.weight"))
        self._layers = [_layer(shape, tensors, index) for index in range(shape.layers)]
        self._head = _head(shape, tensors, self._embedding)
        self._turns = _rotations(shape)
        self.row_counts = proven_rows([*self._layers[0], self._head]) if is_padded else ()
        self._rooms: dict[tuple[int, int], _Workspace] = {}
        self._scores = aligned((0,))
        self._last: F32 = aligned((shape.width,))
        self.fingerprint = _fingerprint(shape, digest, self.row_counts)

    def block_rows(self, rows: int) -> tuple[int, int]:
        """How `rows` rows are computed: rows of a block, and number of blocks."""
        if not self.row_counts:
            return rows, 1
        for count in self.row_counts:
            if count >= rows:
                return count, 1
        return self.row_counts[-1], -(-rows // self.row_counts[-1])

    def prefill(self, kv: KV, tokens: Sequence[int], start: int) -> int:
        """Compute positions from `start` up to the next chunk border or the end of `tokens`; returns where it stopped.

        `start` is 0 or what the last call returned. The logits of the last position are then in `last_logits`.
        """
        end = min(len(tokens), (start // CHUNK + 1) * CHUNK)
        room = self._room(end - start)
        kv.room_for(end, start)
        room.begin(self._embedding, np.asarray(tokens[start:end], np.intp), self._turns[start:end])
        mask = _causal(start, end)
        for layer, view in zip(self._layers, kv.views(end), strict=True):
            room.project(layer)
            _attend_chunk(room, view, mask, start, end)
            room.finish(layer)
        self._last[...] = room.x[end - start - 1]
        return end

    def last_logits(self) -> F32:
        """Logits (vocabulary,) after the last position that `prefill` computed. Valid until the next computation."""
        room = self._room(1)
        room.x[0] = self._last
        logits: F32 = room.logits(self._head, 1)[0]
        return logits

    def decode(self, tokens: Sequence[int], kvs: Sequence[KV], positions: Sequence[int]) -> F32:
        """One step for many sequences: `tokens[i]` stands at `positions[i]` of sequence i.

        Returns logits (sequences, vocabulary), valid until the next computation.
        """
        count = len(tokens)
        room = self._room(count)
        where = np.asarray(positions, np.intp)
        room.begin(self._embedding, np.asarray(tokens, np.intp), self._turns[where])
        batch = self._batch(room, kvs, where)
        for index, layer in enumerate(self._layers):
            room.project(layer)
            batch.attend(index)
            room.finish(layer)
        return room.logits(self._head, count)

    def _batch(self, room: _Workspace, kvs: Sequence[KV], where: NDArray[np.intp]) -> _Batch:
        lengths = where + 1
        longest = -(-int(lengths.max()) // STEP) * STEP + STEP  # one step more: sums need an end inside the array
        rows, heads = len(kvs), self.shape.heads
        size = rows * heads * longest
        if size > self._scores.size:
            self._scores = aligned((size,))
        scores = self._scores[:size].reshape(rows, heads, longest)
        return _Batch(self.shape, room, kvs, lengths, scores)

    def _room(self, rows: int) -> _Workspace:
        key = self.block_rows(rows)
        if key not in self._rooms:
            self._rooms[key] = _Workspace(self.shape, *key)
        return self._rooms[key]


class _Workspace:
    """Buffers for a number of rows, and views of them in the shapes that each product wants."""

    def __init__(self, shape: Shape, block: int, blocks: int) -> None:
        rows = block * blocks
        query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.rows, self.block, self.shape = rows, block, shape
        self.x = aligned((rows, shape.width))
        self._h = aligned((rows, shape.width))
        self._delta = aligned((rows, shape.width))
        self._norm = aligned((rows,))
        self._qkv = aligned((rows, query + 2 * key))
        self._gate_up = aligned((rows, 2 * shape.hidden))
        self._gate = self._gate_up[:, : shape.hidden]
        self._up = self._gate_up[:, shape.hidden :]
        self._mid = aligned((rows, shape.hidden))
        self._logits = aligned((rows, shape.vocabulary))
        self._out = aligned((rows, query))
        group = shape.heads // shape.kv_heads
        self.queries = self._qkv[:, :query].reshape(rows, shape.kv_heads, group, shape.head_dim)
        self.new_kv = self._qkv[:, query:].reshape(rows, 2 * shape.kv_heads, shape.head_dim)
        self.attended = self._out.reshape(rows, shape.kv_heads, group, shape.head_dim)
        self._pairs = (
            self._qkv[:, : query + key]
            .view(np.complex64)
            .reshape(rows, shape.heads + shape.kv_heads, shape.head_dim // 2)
        )
        self._turns = np.zeros((rows, 1, shape.head_dim // 2), np.complex64)
        self._h_in = blocks_in(self._h, block)
        self._out_in = blocks_in(self._out, block)
        self._mid_in = blocks_in(self._mid, block)

    def begin(self, embedding: NDArray[Any], tokens: NDArray[np.intp], turns: NDArray[np.complex64]) -> None:
        """Load the rows' embeddings and rotations. Rows past them keep old finite numbers that nobody reads."""
        count = len(tokens)
        self.x[:count] = embedding[tokens]
        self._turns[:count, 0] = turns

    def project(self, layer: Layer) -> None:
        """x → queries, and keys and values that are not yet in any KV."""
        self._normalise()
        np.matmul(self._h_in, layer.qkv, out=blocks_out(self._qkv, self.block, len(layer.qkv)))
        np.multiply(self._pairs, self._turns, out=self._pairs)

    def finish(self, layer: Layer) -> None:
        """What attention gave goes through the output matrix and the MLP into x."""
        delta, gate, mid = self._delta, self._gate, self._mid
        np.matmul(self._out_in, layer.out, out=blocks_out(delta, self.block, len(layer.out)))
        np.add(self.x, delta, out=self.x)
        self._normalise()
        np.matmul(self._h_in, layer.gate_up, out=blocks_out(self._gate_up, self.block, len(layer.gate_up)))
        # gate and up come negated, so silu(g) * u = (-g) * (-u) / (1 + exp(-g)); exp may overflow to a right 0.
        np.multiply(gate, self._up, out=mid)
        np.exp(gate, out=gate)
        np.add(gate, 1.0, out=gate)
        np.divide(mid, gate, out=mid)
        np.matmul(self._mid_in, layer.down, out=blocks_out(delta, self.block, len(layer.down)))
        np.add(self.x, delta, out=self.x)

    def logits(self, head: F32, count: int) -> F32:
        self._normalise()
        np.matmul(self._h_in, head, out=blocks_out(self._logits, self.block, len(head)))
        return self._logits[:count]

    def _normalise(self) -> None:
        norm = self._norm
        np.vecdot(self.x, self.x, out=norm)
        np.add(norm, np.float32(self.shape.norm_eps * self.shape.width), out=norm)
        np.sqrt(norm, out=norm)
        np.divide(self.x, norm[:, None], out=self._h)


class _Batch:
    """Attention of one decoding step: products sequence by sequence, all else at once."""

    def __init__(
        self, shape: Shape, room: _Workspace, kvs: Sequence[KV], lengths: NDArray[np.intp], scores: F32
    ) -> None:
        count, heads, longest = scores.shape
        seen = -(-lengths // STEP) * STEP
        starts = np.arange(count * heads) * longest
        # reduceat sums between neighbouring indices: from a row's start to its end, and (unused) on to the next start.
        ends = starts + np.repeat(seen, heads)
        self._segments = np.stack([starts, ends], axis=1).reshape(-1)
        positions = np.arange(longest)
        self._mask = np.where(positions < lengths[:, None, None], np.float32(0), np.float32(-np.inf))
        self._scores, self._flat = scores, scores.reshape(-1)
        self._best = np.empty((count, heads, 1), np.float32)
        self._attended = room.attended[:count]
        self._by_head = self._attended.reshape(count, heads, shape.head_dim)
        group = heads // shape.kv_heads
        by_group = scores.reshape(count, shape.kv_heads, group, longest)
        mine = [by_group[i, :, :, :n] for i, n in enumerate(seen.tolist())]
        pairs = zip(room.queries, mine, strict=False)
        asked = [(q, m) if m.shape[2] <= MANY else (q[:, :, None], m[:, :, None]) for q, m in pairs]
        at = (lengths - 1).tolist()
        for kv, position in zip(kvs, at, strict=True):
            kv.room_for(position + 1, position)
        views = [kv.views(position + 1) for kv, position in zip(kvs, at, strict=True)]
        self._asking = list(zip(views, at, room.new_kv, asked, strict=False))
        self._answering = list(zip(views, mine, self._attended, strict=True))

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


def _attend_chunk(room: _Workspace, view: Any, mask: F32, start: int, end: int) -> None:
    count = end - start
    view.both[:, start:end] = room.new_kv[:count].swapaxes(0, 1)
    queries = room.queries[:count].transpose(1, 2, 0, 3)
    keys = view.both[: len(view.values), None, :end]
    scores = np.matmul(queries, keys.swapaxes(2, 3))
    np.add(scores, mask, out=scores)
    np.subtract(scores, np.maximum.reduce(scores, axis=-1, keepdims=True), out=scores)
    np.exp(scores, out=scores)
    sums = np.add.reduce(scores, axis=-1, keepdims=True)
    out = np.matmul(scores, view.values[:, None, :end])
    np.divide(out, sums, out=room.attended[:count].transpose(1, 2, 0, 3))


def _causal(start: int, end: int) -> F32:
    after = np.arange(end) > np.arange(start, end)[:, None]
    return np.where(after, np.float32(-np.inf), np.float32(0))


def _rotations(shape: Shape) -> NDArray[np.complex64]:
    """cos + i sin of each position and pair, (context, head_dim / 2), rounded as the f32 reference rounds it."""
    exponent = np.arange(0, shape.head_dim, 2, dtype=np.float32) / np.float32(shape.head_dim)
    frequency = np.float32(1) / np.float32(shape.rope_theta) ** exponent
    angle = np.arange(shape.context, dtype=np.float32)[:, None] * frequency
    turns: NDArray[np.complex64] = np.exp(1j * angle.astype(np.float64)).astype(np.complex64)
    return turns


def _layer(shape: Shape, tensors: Tensors, index: int) -> Layer:
    def weight(name: str) -> F32:
        return np.asarray(tensors.get_tensor(f"model.layers.{index}.{name}.weight"), np.float32)

    # The workspace divides x by its length, not by its root mean square: the missing root goes into the norm's weight.
    root = np.float32(np.sqrt(shape.width))
    before_attention = weight("input_layernorm") * root
    before_mlp = weight("post_attention_layernorm") * root
    scale = np.float32(shape.head_dim**-0.5)
    query = _interleave(weight("self_attn.q_proj"), shape.head_dim) * scale
    key = _interleave(weight("self_attn.k_proj"), shape.head_dim)
    qkv = np.concatenate([query, key, weight("self_attn.v_proj")]) * before_attention
    gate_up = np.concatenate([weight("mlp.gate_proj"), weight("mlp.up_proj")]) * -before_mlp
    return Layer(tiled(qkv.T), tiled(weight("self_attn.o_proj").T), tiled(gate_up.T), tiled(weight("mlp.down_proj").T))


def _interleave(weight: F32, head_dim: int) -> F32:
    """Reorder each head's rows so that the two of a rotary pair (i, i + dim / 2) are neighbours: a complex number."""
    heads = weight.reshape(-1, 2, head_dim // 2, weight.shape[1])
    return heads.swapaxes(1, 2).reshape(weight.shape)


def _head(shape: Shape, tensors: Tensors, embedding: NDArray[Any]) -> F32:
    weight = embedding if shape.is_tied else tensors.get_tensor("lm_head.weight")
    norm = np.asarray(tensors.get_tensor("model.norm.weight"), np.float32) * np.float32(np.sqrt(shape.width))
    return tiled((np.asarray(weight, np.float32) * norm).T)


def _fingerprint(shape: Shape, digest: str, row_counts: Sequence[int]) -> str:
    """Names all that the bits of a result depend on: code version, shape, weights, NumPy, its kernels, row counts."""
    parts = ("1", repr(shape), digest, np.__version__, kernel_family(), str(max(row_counts, default=0)), str(MAX_ROWS))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def load(folder: Path, *, is_padded: bool = True) -> Decoder:
    """The decoder in `folder`: `config.json` and `model.safetensors` with Hugging Face's names."""
    config = json.loads((folder / "config.json").read_text())
    path = folder / "model.safetensors"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with safe_open(str(path), framework="numpy") as tensors:
        return Decoder(Shape.from_config(config), tensors, digest=digest, is_padded=is_padded)

"""A Llama-shaped decoder on NumPy: tokens and KV in, logits out. Knows no file, request, sampling or time.

One decoder for all architectures: where they differ, a `Shape` says so (`shape.py`), and a layer holds a bias, a norm
or a window that others do not.

Exactness: what a sequence computes depends on that sequence alone, bit for bit. Linear layers run on row counts that
were proven equal (`linear.py`); attention runs sequence by sequence (`attention.py`); all else works element by
element or within a row; prefill runs alone, in chunks that end at multiples of `CHUNK`.

Speed, where NumPy's cost per operation counts: norm weights, the attention scale and the sign of SiLU are folded into
the matrices; q, k, v are one product and gate, up another; a rotary pair is one complex number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .attention import Batch, Chunk, Rows, Scores
from .blas import kernel_family, use_one_thread
from .kv import KV
from .linear import F32, LANES, MAX_ROWS, Spare, aligned, blocks_in, product, proven_rows, tiled
from .rope import rotations
from .shape import Shape

CHUNK = 64
"""Prefill computes at most this many positions at once and never across a multiple of it."""


class Tensors(Protocol):
    """Weights by their Hugging Face names, of any float type."""

    def get_tensor(self, name: str) -> NDArray[Any]: ...


class Layer(NamedTuple):
    """One block's matrices, tiled. The attention and MLP norms are folded into `qkv` and `gate_up`.

    What a model has not is None: each matrix's bias, and the norm of each head of queries and keys.
    """

    qkv: F32
    out: F32
    gate_up: F32
    down: F32
    qkv_bias: F32 | None
    out_bias: F32 | None
    gate_up_bias: F32 | None
    down_bias: F32 | None
    head_norm: F32 | None


class Decoder:
    """Weights and buffers. One thread at a time. `is_padded=False` gives up exactness; for measuring only."""

    def __init__(self, shape: Shape, tensors: Tensors, *, digest: str = "", is_padded: bool = True) -> None:
        use_one_thread()  # the number of threads changes bits
        self.shape = shape
        self._embedding = np.ascontiguousarray(tensors.get_tensor("model.embed_tokens.weight"))
        self._layers = [_Builder(shape, tensors, index).layer() for index in range(shape.layers)]
        self._head = _head(shape, tensors, self._embedding)
        self._turns = rotations(shape.rope, shape.head_dim, shape.context)
        self._windows = shape.windows or (0,) * shape.layers
        self.row_counts = proven_rows([*self._layers[0][:4], self._head]) if is_padded else ()
        self._rooms: dict[tuple[int, int], _Workspace] = {}
        self._scores = Scores()
        self._spare = Spare()
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
        chunks = {window: Chunk(room.attending, kv, start, end, window) for window in set(self._windows)}
        for index, (layer, window) in enumerate(zip(self._layers, self._windows, strict=True)):
            room.project(layer)
            chunks[window].attend(index)
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
        batches = {w: Batch(room.attending, kvs, where, w, self._scores) for w in set(self._windows)}
        for index, (layer, window) in enumerate(zip(self._layers, self._windows, strict=True)):
            room.project(layer)
            batches[window].attend(index)
            room.finish(layer)
        return room.logits(self._head, count)

    def _room(self, rows: int) -> _Workspace:
        key = self.block_rows(rows)
        if key not in self._rooms:
            self._rooms[key] = _Workspace(self.shape, *key, self._spare)
        return self._rooms[key]


class _Workspace:
    """Buffers for a number of rows, and views of them in the shapes that each product wants."""

    def __init__(self, shape: Shape, block: int, blocks: int, spare: Spare) -> None:
        rows = block * blocks
        self._spare = spare
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
        self._logits: F32 | None = None
        """Made when asked for: a large vocabulary's are the largest of all, and prefill needs none."""
        self._out = aligned((rows, query))
        group = shape.heads // shape.kv_heads
        self.attending = Rows(
            self._qkv[:, :query].reshape(rows, shape.kv_heads, group, shape.head_dim),
            self._qkv[:, query:].reshape(rows, 2 * shape.kv_heads, shape.head_dim),
            self._out.reshape(rows, shape.kv_heads, group, shape.head_dim),
        )
        self._heads = self._qkv[:, : query + key].reshape(rows, shape.heads + shape.kv_heads, shape.head_dim)
        self._pairs = self._heads.view(np.complex64)
        self._head_norm = aligned((rows, shape.heads + shape.kv_heads))
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
        product(self._h_in, layer.qkv, self.block, self._qkv, self._spare)
        if layer.qkv_bias is not None:
            np.add(self._qkv, layer.qkv_bias, out=self._qkv)
        if layer.head_norm is not None:
            self._normalise_heads(layer.head_norm)
        np.multiply(self._pairs, self._turns, out=self._pairs)

    def finish(self, layer: Layer) -> None:
        """What attention gave goes through the output matrix and the MLP into x."""
        delta, gate, mid = self._delta, self._gate, self._mid
        product(self._out_in, layer.out, self.block, delta, self._spare)
        if layer.out_bias is not None:
            np.add(delta, layer.out_bias, out=delta)
        np.add(self.x, delta, out=self.x)
        self._normalise()
        product(self._h_in, layer.gate_up, self.block, self._gate_up, self._spare)
        if layer.gate_up_bias is not None:
            np.add(self._gate_up, layer.gate_up_bias, out=self._gate_up)
        # gate and up come negated, so silu(g) * u = (-g) * (-u) / (1 + exp(-g)); exp may overflow to a right 0.
        np.multiply(gate, self._up, out=mid)
        np.exp(gate, out=gate)
        np.add(gate, 1.0, out=gate)
        np.divide(mid, gate, out=mid)
        product(self._mid_in, layer.down, self.block, delta, self._spare)
        if layer.down_bias is not None:
            np.add(delta, layer.down_bias, out=delta)
        np.add(self.x, delta, out=self.x)

    def logits(self, head: F32, count: int) -> F32:
        self._normalise()
        if self._logits is None:
            self._logits = aligned((self.rows, head.shape[1] * head.shape[3]))
        product(self._h_in, head, self.block, self._logits, self._spare)
        return self._logits[:count, : self.shape.vocabulary]

    def _normalise(self) -> None:
        norm = self._norm
        np.vecdot(self.x, self.x, out=norm)
        np.add(norm, np.float32(self.shape.norm_eps * self.shape.width), out=norm)
        np.sqrt(norm, out=norm)
        np.divide(self.x, norm[:, None], out=self._h)

    def _normalise_heads(self, weight: F32) -> None:
        """Queries and keys, each head by itself; `weight` is (heads, dim)."""
        heads, norm = self._heads, self._head_norm
        np.vecdot(heads, heads, out=norm)
        np.add(norm, np.float32(self.shape.norm_eps * self.shape.head_dim), out=norm)
        np.sqrt(norm, out=norm)
        np.divide(heads, norm[:, :, None], out=heads)
        np.multiply(heads, weight, out=heads)


class _Builder:
    """Makes one block's arrays of its tensors."""

    def __init__(self, shape: Shape, tensors: Tensors, index: int) -> None:
        self._shape = shape
        self._tensors = tensors
        self._at = f"model.layers.{index}."

    def layer(self) -> Layer:
        shape = self._shape
        # The workspace divides x by its length, not by its root mean square: the root goes into the norm's weight.
        root = np.float32(np.sqrt(shape.width))
        before_attention = self._get("input_layernorm.weight") * root
        before_mlp = self._get("post_attention_layernorm.weight") * root
        qkv = self._qkv("weight")
        qkv *= before_attention
        gate_up = np.concatenate([self._get("mlp.gate_proj.weight"), self._get("mlp.up_proj.weight")])
        gate_up *= -before_mlp
        biased_mlp = shape.has_mlp_bias
        return Layer(
            tiled(qkv.T),
            tiled(self._get("self_attn.o_proj.weight").T),
            tiled(gate_up.T),
            tiled(self._get("mlp.down_proj.weight").T),
            self._qkv("bias") if shape.has_qkv_bias else None,
            self._get("self_attn.o_proj.bias") if shape.has_out_bias else None,
            -np.concatenate([self._get("mlp.gate_proj.bias"), self._get("mlp.up_proj.bias")]) if biased_mlp else None,
            self._get("mlp.down_proj.bias") if biased_mlp else None,
            self._head_norm() if shape.has_qk_norm else None,
        )

    def _qkv(self, kind: str) -> F32:
        shape = self._shape
        # Where heads are normalised the scale would be lost here: it goes into the norm.
        scale = np.float32(1 if shape.has_qk_norm else shape.head_dim**-0.5)
        query, key, value = (self._get(f"self_attn.{name}_proj.{kind}") for name in "qkv")
        return np.concatenate([_interleave(query, shape.head_dim) * scale, _interleave(key, shape.head_dim), value])

    def _head_norm(self) -> F32:
        shape = self._shape
        root = np.float32(np.sqrt(shape.head_dim))
        query = _interleave(self._get("self_attn.q_norm.weight"), shape.head_dim)  # times root, divided by root
        key = _interleave(self._get("self_attn.k_norm.weight"), shape.head_dim) * root
        return np.stack([query] * shape.heads + [key] * shape.kv_heads)

    def _get(self, name: str) -> F32:
        return np.asarray(self._tensors.get_tensor(self._at + name), np.float32)


def _interleave(weight: F32, head_dim: int) -> F32:
    """Reorder each head's rows so that the two of a rotary pair (i, i + dim / 2) are neighbours: a complex number."""
    heads = weight.reshape(-1, 2, head_dim // 2, *weight.shape[1:])
    return heads.swapaxes(1, 2).reshape(weight.shape)


def _head(shape: Shape, tensors: Tensors, embedding: NDArray[Any]) -> F32:
    """The output matrix, with columns of zeros up to a number that cuts well into tiles."""
    weight = embedding if shape.is_tied else tensors.get_tensor("lm_head.weight")
    norm = np.asarray(tensors.get_tensor("model.norm.weight"), np.float32) * np.float32(np.sqrt(shape.width))
    out = np.zeros((-(-shape.vocabulary // LANES) * LANES, shape.width), np.float32)
    np.multiply(weight, norm, out=out[: shape.vocabulary])
    return tiled(out.T)


def _fingerprint(shape: Shape, digest: str, row_counts: Sequence[int]) -> str:
    """Names all that the bits of a result depend on: code version, shape, weights, NumPy, its kernels, row counts."""
    parts = ("2", repr(shape), digest, np.__version__, kernel_family(), str(max(row_counts, default=0)), str(MAX_ROWS))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]

"""A Llama-shaped decoder: tokens and KV in, logits out. Knows no file, request, sampling or time.

One decoder for all architectures: where they differ, a `Shape` says so (`shape.py`), and a layer holds a bias, a norm
or a window that others do not. And one for all libraries: what it computes with is a `Backend` (`backend.py`).

Exactness: what a sequence computes depends on that sequence alone, bit for bit. Linear layers run on row counts that
were proven equal (`linear.py`); attention runs sequence by sequence (`attention.py`); all else works element by
element or within a row; prefill runs alone, in chunks that end at multiples of `CHUNK`.

Speed, where the cost per operation counts: the sign of SiLU, and in f32 norm weights and the attention scale as well,
are folded into the matrices; q, k, v are one product and gate, up another; a rotary pair is one complex number. The
residual stream, norms, rotations and SiLU are f32 whatever the products are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .backend import Array, Backend, Matrix, Rows
from .kv import KV, KVPool
from .linear import F32
from .numpy_backend import NumPyBackend
from .rope import rotations
from .shape import Shape

CHUNK = 64
"""Prefill computes at most this many positions at once and never across a multiple of it."""


class Tensors(Protocol):
    """Weights by their Hugging Face names, of any float type."""

    def get_tensor(self, name: str) -> NDArray[Any]: ...


class Layer(NamedTuple):
    """One block's matrices.

    What a model has not is None: each matrix's bias, and the norm of each head of queries and keys. So are the norms
    before attention and MLP where they are folded into `qkv` and `gate_up`.
    """

    qkv: Matrix
    out: Matrix
    gate_up: Matrix
    down: Matrix
    qkv_bias: Array | None
    out_bias: Array | None
    gate_up_bias: Array | None
    down_bias: Array | None
    head_norm: Array | None
    attention_norm: Array | None
    mlp_norm: Array | None


class Head(NamedTuple):
    """The output matrix, and the norm before it where it is not folded in."""

    matrix: Matrix
    norm: Array | None


class Decoder:
    """Weights and buffers. One thread at a time. `is_padded=False` gives up exactness; for measuring only.

    Without `backend` it is NumPy's.
    """

    def __init__(
        self,
        shape: Shape,
        tensors: Tensors,
        *,
        digest: str = "",
        is_padded: bool = True,
        backend: Backend | None = None,
    ) -> None:
        ops: Backend = backend or NumPyBackend()
        self.backend = ops
        self.shape = shape
        self.kv = replace(shape.kv, item_bytes=ops.memory.item_bytes)
        builder = _Builder(shape, tensors, ops)
        embedding = tensors.get_tensor("model.embed_tokens.weight")
        self._embedding = ops.table(embedding)
        self._layers = [builder.layer(index) for index in range(shape.layers)]
        self._head = builder.head(embedding, self._embedding)
        self._turns = ops.constant(rotations(shape.rope, shape.head_dim, shape.context))
        self._windows = shape.windows or (0,) * shape.layers
        self.row_counts = self._proven_rows() if is_padded else ()
        self._rooms: dict[tuple[int, int], _Workspace] = {}
        self._last = ops.zeros((shape.width,))
        self.fingerprint = _fingerprint(shape, digest, self.row_counts, ops.name)

    def pool(self, budget: int) -> KVPool:
        """Memory of `budget` bytes for this decoder's sequences."""
        return KVPool(self.kv, budget, memory=self.backend.memory)

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
        room, ops = self._room(end - start), self.backend
        kv.room_for(end, start)
        with ops.scope():
            room.begin(self._embedding, ops.indices(tokens[start:end]), self._turns[start:end])
            chunks = {window: ops.chunk(room.attending, kv, start, end, window) for window in set(self._windows)}
            for index, (layer, window) in enumerate(zip(self._layers, self._windows, strict=True)):
                room.project(layer)
                chunks[window].attend(index)
                room.finish(layer)
            self._last[...] = room.x[end - start - 1]
        return end

    def last_logits(self) -> F32:
        """Logits (vocabulary,) after the last position that `prefill` computed. Valid until the next computation."""
        room = self._room(1)
        with self.backend.scope():
            room.x[0] = self._last
            logits: F32 = room.logits(self._head, 1)[0]
        return logits

    def last_state(self) -> F32:
        """State (width,) of the last position that `prefill` computed, before the last norm."""
        with self.backend.scope():
            return np.array(self.backend.host(self._last))

    def decode(self, tokens: Sequence[int], kvs: Sequence[KV], positions: Sequence[int]) -> F32:
        """One step for many sequences: `tokens[i]` stands at `positions[i]` of sequence i.

        Returns logits (sequences, vocabulary), valid until the next computation.
        """
        count = len(tokens)
        room, ops = self._room(count), self.backend
        with ops.scope():
            where = ops.indices(positions)
            room.begin(self._embedding, ops.indices(tokens), self._turns[where])
            batches = {window: ops.batch(room.attending, kvs, where, window) for window in set(self._windows)}
            for index, (layer, window) in enumerate(zip(self._layers, self._windows, strict=True)):
                room.project(layer)
                batches[window].attend(index)
                room.finish(layer)
            return room.logits(self._head, count)

    def _room(self, rows: int) -> _Workspace:
        key = self.block_rows(rows)
        if key not in self._rooms:
            self._rooms[key] = _Workspace(self.shape, *key, self.backend)
        return self._rooms[key]

    def _proven_rows(self) -> tuple[int, ...]:
        first = self._layers[0]
        return self.backend.proven_rows([*first[:4], self._head.matrix], self._row_wise, self.shape.width)

    def _row_wise(self, x: F32) -> F32:
        """One layer, without attention, and logits of rows (rows, width): all that must not depend on their number."""
        count, ops = len(x), self.backend
        room = _Workspace(self.shape, count, 1, ops)
        with ops.scope():
            room.x[...] = ops.constant(x)
            room.turn(self._turns[[-1] * count])
            room.project(self._layers[0])
            room.attending.attended[...] = room.attending.queries
            room.finish(self._layers[0])
            made = [room.logits(self._head, count), *map(ops.host, room.steps())]
            return np.concatenate([each.reshape(count, -1) for each in made], axis=1)


class _Workspace:
    """Buffers for a number of rows, and views of them in the shapes that each product wants."""

    def __init__(self, shape: Shape, block: int, blocks: int, backend: Backend) -> None:
        self._ops, rows = backend, block * blocks
        zeros, operand = backend.zeros, backend.operand
        query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.rows, self.block, self.shape = rows, block, shape
        self._eps = np.float32(shape.norm_eps * shape.width)
        self._head_eps = np.float32(shape.norm_eps * shape.head_dim)
        self.x = zeros((rows, shape.width))
        self._unit = zeros((rows, shape.width))
        self._h = operand(self._unit)
        self._delta = zeros((rows, shape.width))
        self._norm = zeros((rows,))
        self._qkv = zeros((rows, query + 2 * key))
        self._gate_up = zeros((rows, 2 * shape.hidden))
        self._gate = self._gate_up[:, : shape.hidden]
        self._up = self._gate_up[:, shape.hidden :]
        self._both = zeros((rows, shape.hidden))
        self._mid = operand(self._both)
        self._logits: Array | None = None
        """Made when asked for: a large vocabulary's are the largest of all, and prefill needs none."""
        self._out = operand(zeros((rows, query)))
        group = shape.heads // shape.kv_heads
        self.attending = Rows(
            self._qkv[:, :query].reshape(rows, shape.kv_heads, group, shape.head_dim),
            self._qkv[:, query:].reshape(rows, 2 * shape.kv_heads, shape.head_dim),
            self._out.reshape(rows, shape.kv_heads, group, shape.head_dim),
            1.0 if backend.is_folded or shape.has_qk_norm else shape.head_dim**-0.5,
        )
        self._heads = self._qkv[:, : query + key].reshape(rows, shape.heads + shape.kv_heads, shape.head_dim)
        self._pairs = backend.pairs(self._heads)
        self._head_norm = zeros((rows, shape.heads + shape.kv_heads))
        self._turns = backend.constant(np.zeros((rows, 1, shape.head_dim // 2), np.complex64))
        self._h_in = backend.blocks(self._h, block)
        self._out_in = backend.blocks(self._out, block)
        self._mid_in = backend.blocks(self._mid, block)

    def begin(self, embedding: Array, tokens: Array, turns: Array) -> None:
        """Load the rows' embeddings and rotations. Rows past them keep old finite numbers that nobody reads."""
        self.x[: len(tokens)] = embedding[tokens]
        self.turn(turns)

    def turn(self, turns: Array) -> None:
        self._turns[: len(turns), 0] = turns

    def project(self, layer: Layer) -> None:
        """x → queries, and keys and values that are not yet in any KV."""
        ops, qkv = self._ops, self._qkv
        self._normalise(layer.attention_norm)
        ops.product(self._h_in, layer.qkv, self.block, qkv)
        if layer.qkv_bias is not None:
            ops.add(qkv, layer.qkv_bias, out=qkv)
        if layer.head_norm is not None:
            self._normalise_heads(layer.head_norm)
        ops.multiply(self._pairs, self._turns, out=self._pairs)

    def finish(self, layer: Layer) -> None:
        """What attention gave goes through the output matrix and the MLP into x."""
        ops, delta = self._ops, self._delta
        ops.product(self._out_in, layer.out, self.block, delta)
        if layer.out_bias is not None:
            ops.add(delta, layer.out_bias, out=delta)
        ops.add(self.x, delta, out=self.x)
        self._normalise(layer.mlp_norm)
        ops.product(self._h_in, layer.gate_up, self.block, self._gate_up)
        if layer.gate_up_bias is not None:
            ops.add(self._gate_up, layer.gate_up_bias, out=self._gate_up)
        self._activate()
        ops.product(self._mid_in, layer.down, self.block, delta)
        if layer.down_bias is not None:
            ops.add(delta, layer.down_bias, out=delta)
        ops.add(self.x, delta, out=self.x)

    def steps(self) -> tuple[Array, ...]:
        """What the last layer left on the way, before it was rounded to what products read."""
        return self.x, self._norm, self._qkv, self._head_norm, self._gate, self._both

    def _activate(self) -> None:
        ops, gate, both = self._ops, self._gate, self._both
        # gate and up come negated, so silu(g) * u = (-g) * (-u) / (1 + exp(-g)); exp may overflow to a right 0.
        ops.multiply(gate, self._up, out=both)
        ops.exp(gate, out=gate)
        ops.add(gate, 1.0, out=gate)
        ops.divide(both, gate, out=self._mid)

    def logits(self, head: Head, count: int) -> F32:
        self._normalise(head.norm)
        if self._logits is None:
            self._logits = self._ops.zeros((self.rows, self._ops.columns(head.matrix)))
        self._ops.product(self._h_in, head.matrix, self.block, self._logits)
        return self._ops.host(self._logits[:count, : self.shape.vocabulary])

    def _normalise(self, weight: Array | None) -> None:
        ops, norm = self._ops, self._norm
        ops.vecdot(self.x, self.x, out=norm)
        ops.add(norm, self._eps, out=norm)
        ops.sqrt(norm, out=norm)
        if weight is None:
            ops.divide(self.x, norm[:, None], out=self._h)
        else:
            ops.divide(self.x, norm[:, None], out=self._unit)
            ops.multiply(self._unit, weight, out=self._h)

    def _normalise_heads(self, weight: Array) -> None:
        """Queries and keys, each head by itself; `weight` is (heads, dim)."""
        ops, heads, norm = self._ops, self._heads, self._head_norm
        ops.vecdot(heads, heads, out=norm)
        ops.add(norm, self._head_eps, out=norm)
        ops.sqrt(norm, out=norm)
        ops.divide(heads, norm[:, :, None], out=heads)
        ops.multiply(heads, weight, out=heads)


class _Builder:
    """Makes arrays of tensors, one block's at a time."""

    def __init__(self, shape: Shape, tensors: Tensors, backend: Backend) -> None:
        self._shape = shape
        self._tensors = tensors
        self._ops = backend
        self._at = ""
        # The workspace divides x by its length, not by its root mean square: the root goes into the norm's weight.
        self._root = np.float32(np.sqrt(shape.width))

    def layer(self, index: int) -> Layer:
        self._at = f"model.layers.{index}."
        shape, matrix = self._shape, self._ops.matrix
        before_attention = self._get("input_layernorm.weight") * self._root
        before_mlp = self._get("post_attention_layernorm.weight") * self._root
        biased_mlp = shape.has_mlp_bias
        return Layer(
            matrix(self._folded(self._qkv("weight"), before_attention)),
            matrix(self._get("self_attn.o_proj.weight")),
            matrix(self._folded(-self._gate_up("weight"), before_mlp)),
            matrix(self._get("mlp.down_proj.weight")),
            self._constant(self._qkv("bias")) if shape.has_qkv_bias else None,
            self._constant(self._get("self_attn.o_proj.bias")) if shape.has_out_bias else None,
            self._constant(-self._gate_up("bias")) if biased_mlp else None,
            self._constant(self._get("mlp.down_proj.bias")) if biased_mlp else None,
            self._constant(self._head_norm()) if shape.has_qk_norm else None,
            self._left(before_attention),
            self._left(before_mlp),
        )

    def head(self, embedding: NDArray[Any], table: Array) -> Head:
        """The output matrix, with columns of zeros up to a number that is computed best."""
        shape, ops = self._shape, self._ops
        weight = embedding if shape.is_tied else self._tensors.get_tensor("lm_head.weight")
        norm = np.asarray(self._tensors.get_tensor("model.norm.weight"), np.float32) * self._root
        if not ops.is_folded:
            return Head(ops.matrix(table if shape.is_tied else weight), self._left(norm))
        out = np.zeros((-(-shape.vocabulary // ops.lanes) * ops.lanes, shape.width), np.float32)
        np.multiply(weight, norm, out=out[: shape.vocabulary])
        return Head(ops.matrix(out), None)

    def _folded(self, weight: F32, norm: F32) -> F32:
        """`weight` times the norm before it, where that may be; its memory is taken."""
        if self._ops.is_folded:
            weight *= norm
        return weight

    def _left(self, norm: F32) -> Array | None:
        """`norm` where `_folded` leaves it."""
        return None if self._ops.is_folded else self._constant(norm)

    def _constant(self, values: F32) -> Array:
        return self._ops.constant(values)

    def _qkv(self, kind: str) -> F32:
        shape = self._shape
        # Where heads are normalised the scale would be lost here: it goes into the norm.
        is_scaled = self._ops.is_folded and not shape.has_qk_norm
        scale = np.float32(shape.head_dim**-0.5 if is_scaled else 1)
        query, key, value = (self._get(f"self_attn.{name}_proj.{kind}") for name in "qkv")
        return np.concatenate([_interleave(query, shape.head_dim) * scale, _interleave(key, shape.head_dim), value])

    def _gate_up(self, kind: str) -> F32:
        return np.concatenate([self._get(f"mlp.gate_proj.{kind}"), self._get(f"mlp.up_proj.{kind}")])

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


def _fingerprint(shape: Shape, digest: str, row_counts: Sequence[int], backend: str) -> str:
    """Names all that the bits of a result depend on: code version, shape, weights, libraries, kernels, row counts."""
    parts = ("3", repr(shape), digest, backend, str(max(row_counts, default=0)))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]

"""The decoder's arrays on NumPy: f32, one thread. Knows no model; how products and attention go is in their files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .attention import Batch, Chunk, Scores
from .backend import Operation, Rows
from .blas import kernel_family, use_one_thread
from .host import free_bytes
from .kv import KV, KVMemory, NumPyMemory
from .linear import F32, LANES, MAX_ROWS, Spare, aligned, blocks_in, product, proven_rows, tiled


class NumPyBackend:
    """A `Backend`."""

    is_folded = True
    place = "memory"
    lanes = LANES

    def __init__(self) -> None:
        use_one_thread()  # the number of threads changes bits
        self.name = f"{np.__version__}|{kernel_family()}|{MAX_ROWS}"
        self.memory: KVMemory = NumPyMemory()
        self.add: Operation = np.add
        self.multiply: Operation = np.multiply
        self.divide: Operation = np.divide
        self.exp: Operation = np.exp
        self.sqrt: Operation = np.sqrt
        self.vecdot: Operation = np.vecdot
        self._scores = Scores()
        self._spare = Spare()
        self._scope = contextlib.nullcontext()

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        return self._scope

    def zeros(self, shape: Sequence[int]) -> F32:
        return aligned(shape)

    def constant(self, values: NDArray[Any]) -> NDArray[Any]:
        return values

    def indices(self, numbers: Sequence[int]) -> NDArray[np.intp]:
        return np.asarray(numbers, np.intp)

    def pairs(self, heads: F32) -> NDArray[np.complex64]:
        return heads.view(np.complex64)

    def operand(self, like: F32) -> F32:
        return like

    def blocks(self, operand: F32, rows: int) -> F32:
        return blocks_in(operand, rows)

    def table(self, embedding: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(embedding)

    def matrix(self, weight: NDArray[Any]) -> F32:
        return tiled(weight.T)

    def columns(self, matrix: F32) -> int:
        return int(matrix.shape[1] * matrix.shape[3])

    def product(self, x: F32, matrix: F32, rows: int, out: F32) -> None:
        product(x, matrix, rows, out, self._spare)

    def proven_rows(self, matrices: Sequence[F32], row_wise: Callable[[F32], F32], width: int) -> tuple[int, ...]:
        return proven_rows(matrices)  # all else that is done row by row is element by element, or a row's own sum

    def batch(self, rows: Rows, kvs: Sequence[KV], where: NDArray[np.intp], window: int) -> Batch:
        return Batch(rows, kvs, where, window, self._scores)

    def chunk(self, rows: Rows, kv: KV, start: int, end: int, window: int) -> Chunk:
        return Chunk(rows, kv, start, end, window)

    def host(self, array: F32) -> F32:
        return array

    def free_bytes(self) -> int | None:
        return free_bytes()

"""What a decoder computes with: arrays, the operations on them, products, attention and the memory of keys and values.

Knows no model. `make_backend` gives the one that a configuration asks for; torch is imported only then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol

from numpy.typing import NDArray

from .kv import KV, KVMemory
from .linear import F32
from .shape import ModelError

Array = Any
"""An array of the backend, in its memory: numpy's or torch's. Slices, reshapes and assignments work alike on both."""
Matrix = Any
"""A weight as the backend's products want it."""
Operation = Callable[..., Any]

_BEFORE_TORCH = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""Read when torch is loaded: threads that wait must not spin, since agents need the cores, and cuBLAS must always have
the same room to work in, on which its choice of kernels depends."""

BackendName = Literal["numpy", "torch"]
DType = Literal["f32", "bf16", "f16"]
ITEM_BYTES: dict[DType, int] = {"f32": 4, "bf16": 2, "f16": 2}


class Compute(NamedTuple):
    """How a model is computed: by which library, in which numbers, and where ("cpu", "cuda" or "cuda:1")."""

    backend: BackendName = "numpy"
    dtype: DType = "f32"
    device: str = "cpu"

    @property
    def item_bytes(self) -> int:
        return ITEM_BYTES[self.dtype]


AS_EVER = Compute()


class Rows(NamedTuple):
    """A workspace's rows: queries (rows, kv heads, group, dim), new keys and values (rows, 2 * kv heads, dim), and
    where the result goes, shaped as the queries are. Scores are still to be multiplied by `scale`."""

    queries: Array
    new_kv: Array
    attended: Array
    scale: float


class Attending(Protocol):
    """Rows of a step that look back, in one layer after another."""

    def attend(self, layer: int) -> None:
        """Store the rows' new keys and values in their KV, and let their queries look at all that is there."""


class Backend(Protocol):
    """Every array is f32 but for what products read (`operand`, `table`, `matrix`) and KV holds: those are `dtype`.

    The bits of a row of `product` depend on that row and the matrix alone, in blocks of any of `proven_rows`; those of
    what `batch` and `chunk` attend to depend on one sequence alone.
    """

    name: str
    """All of it that bits depend on."""
    is_folded: bool
    """Whether factors of a product's input may go into its matrix, since that is stored as finely as they are."""
    place: str
    """Whose memory it takes, for people: "memory", "memory of cuda:0"."""
    lanes: int
    """Matrices of a multiple of so many columns are computed best."""
    memory: KVMemory
    add: Operation
    multiply: Operation
    divide: Operation
    exp: Operation
    sqrt: Operation
    vecdot: Operation

    def scope(self) -> AbstractContextManager[Any]:
        """Around all computation. Raises MemoryError where there is too little left for it, as `memory.zeros` does."""

    def zeros(self, shape: Sequence[int]) -> Array: ...

    def constant(self, values: NDArray[Any]) -> Array:
        """`values` as they are."""

    def indices(self, numbers: Sequence[int]) -> Array: ...

    def pairs(self, heads: Array) -> Array:
        """A view of heads (…, dim) as complex numbers (…, dim / 2)."""

    def operand(self, like: Array) -> Array:
        """Room for what a product reads: `like` itself where products read f32, else as much in their type."""

    def blocks(self, operand: Array, rows: int) -> Array:
        """A view of `operand` for products in blocks of `rows` rows."""

    def table(self, embedding: NDArray[Any]) -> Array: ...

    def matrix(self, weight: Array | NDArray[Any]) -> Matrix:
        """Of a weight (columns, depth), or of a `table`."""

    def columns(self, matrix: Matrix) -> int: ...

    def product(self, x: Array, matrix: Matrix, rows: int, out: Array) -> None:
        """Into `out`: what `x` (from `blocks`) gives times `matrix`, in blocks of `rows` rows."""

    def proven_rows(self, matrices: Sequence[Matrix], row_wise: Callable[[F32], F32], width: int) -> tuple[int, ...]:
        """The row counts of blocks that were seen to give equal bits. `row_wise` computes all that is done row by row,
        for one block of rows (rows, `width`)."""

    def batch(self, rows: Rows, kvs: Sequence[KV], where: Array, window: int) -> Attending:
        """One step of many sequences, each at its place `where` (from `indices`), looking back `window` positions."""

    def chunk(self, rows: Rows, kv: KV, start: int, end: int, window: int) -> Attending:
        """The positions from `start` to `end` of one sequence."""

    def host(self, array: Array) -> F32:
        """`array` for NumPy. It may share its memory."""

    def free_bytes(self) -> int | None:
        """Bytes of memory that are free for weights; None where nobody says."""


def make_backend(compute: Compute) -> Backend:
    """The backend that `compute` asks for. Raises ModelError: not installed, no such device, not possible there."""
    if compute.backend == "torch":
        return _torch(compute)
    from .numpy_backend import NumPyBackend

    return NumPyBackend()


def _torch(compute: Compute) -> Backend:
    for name, value in _BEFORE_TORCH.items():
        os.environ.setdefault(name, value)
    try:
        from .torch_backend import TorchBackend
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModelError("torch is not installed; pip install 'aios-kernel[torch]' brings it") from None
    except (ImportError, OSError) as error:
        raise ModelError(f"torch is installed and cannot be loaded: {str(error)[:300]}") from None
    return TorchBackend(compute.dtype, compute.device)

"""The decoder's arrays on torch: on the CPU or a GPU, products and KV in f32, bf16 or f16. Knows no model.

Imported when a core asks for it, and only then.

Exactness: products run in blocks of the row counts that were seen to give equal bits, with the matrices they are used
with; so does all that is done row by row, since kernels of sums and exponentials may change with the number of rows
too. Attention runs sequence by sequence. The number of threads, the device, its kind and the library's version are in
`name`, on which the engine's fingerprint depends.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .backend import Array, DType, Matrix, Rows
from .host import free_bytes, num_cores
from .kv import KV, KVMemory
from .linear import F32, agreeing, probe
from .shape import ModelError
from .torch_attention import Batch, Chunk

CANDIDATE_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class TorchBackend:
    """A `Backend`. Raises ModelError when there is no such device."""

    lanes = 1

    def __init__(self, dtype: DType = "f32", device: str = "cpu") -> None:
        self._device = _device(device)
        self._dtype = _DTYPES[dtype]
        self.place = "memory" if self._device.type == "cpu" else f"memory of {self._device}"
        self.is_folded = dtype == "f32"
        self._is_packed = dtype == "f32" and self._device.type == "cpu" and _can_pack()
        order = "packed" if self._is_packed else "plain"
        self.name = "|".join([*_be_exact(self._device), dtype, order, np.__version__])
        self.memory: KVMemory = TorchMemory(self._dtype, self._device)
        self.add, self.multiply, self.divide = torch.add, torch.mul, torch.div
        self.exp, self.sqrt, self.vecdot = torch.exp, torch.sqrt, torch.linalg.vecdot
        self._spare = torch.empty(0, dtype=self._dtype, device=self._device)

    @contextmanager
    def scope(self) -> Iterator[None]:
        with _memory_told(), torch.inference_mode():
            yield

    def zeros(self, shape: Sequence[int]) -> Array:
        return torch.zeros(tuple(shape), device=self._device)

    def constant(self, values: NDArray[Any]) -> Array:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

    def indices(self, numbers: Sequence[int]) -> Array:
        return torch.tensor(numbers, dtype=torch.int64, device=self._device)

    def pairs(self, heads: Array) -> Array:
        return torch.view_as_complex(heads.unflatten(-1, (-1, 2)))

    def operand(self, like: Array) -> Array:
        return like if self.is_folded else torch.zeros_like(like, dtype=self._dtype)

    def blocks(self, operand: Array, rows: int) -> Array:
        return operand

    def table(self, embedding: NDArray[Any]) -> Array:
        return self._typed(embedding)

    def matrix(self, weight: Array | NDArray[Any]) -> Matrix:
        typed = self._typed(weight)
        return _Packed(typed) if self._is_packed else typed.t()

    def columns(self, matrix: Matrix) -> int:
        return int(matrix.shape[1])

    def product(self, x: Array, matrix: Matrix, rows: int, out: Array) -> None:
        if isinstance(matrix, _Packed):
            for start in range(0, len(x), rows):
                out[start : start + rows] = matrix.times(x[start : start + rows])
            return
        into = out if self.is_folded else self._room_like(out)
        if len(x) == rows:
            torch.mm(x, matrix, out=into)
        else:
            for start in range(0, len(x), rows):
                torch.mm(x[start : start + rows], matrix, out=into[start : start + rows])
        if into is not out:
            out.copy_(into)

    def proven_rows(self, matrices: Sequence[Matrix], row_wise: Callable[[F32], F32], width: int) -> tuple[int, ...]:
        tests = [_Test(row_wise, probe(width, max(CANDIDATE_ROWS)))]
        with self.scope():
            for columns, depth in {(each.shape[1], each.shape[0]) for each in matrices}:
                tests.append(self._cancelling(columns, depth))
            return agreeing(CANDIDATE_ROWS, lambda rows, reference: all(t.is_exact(rows, reference) for t in tests))

    def _cancelling(self, columns: int, depth: int) -> _Test:
        """A product of this size that comes to nothing but what rounding leaves, whose bits tell any other order of
        summing. Those of a product of the model's own would not: rounded to bf16, most sums are alike."""
        torch.manual_seed(0)
        half, step = depth // 2, 1024
        some = torch.randn(min(step, columns), half).to(self._dtype)
        weight = torch.zeros(columns, depth, dtype=self._dtype, device=self._device)
        for start in range(0, columns, step):
            weight[start : start + step, :half] = some[: columns - start]
        weight[:, half : 2 * half] = -weight[:, :half]
        x = probe(half, max(CANDIDATE_ROWS))
        matrix = self.matrix(weight)

        def multiply(x: F32) -> F32:
            out = self.zeros((len(x), columns))
            self.product(self._typed(x), matrix, len(x), out)
            return self.host(out)

        return _Test(multiply, np.concatenate([x, x, np.zeros((len(x), depth % 2), np.float32)], axis=1))

    def batch(self, rows: Rows, kvs: Sequence[KV], where: Array, window: int) -> Batch:
        return Batch(rows, kvs, where.tolist(), window)

    def chunk(self, rows: Rows, kv: KV, start: int, end: int, window: int) -> Chunk:
        return Chunk(rows, kv, start, end, window)

    def host(self, array: Array) -> F32:
        found: F32 = array.cpu().numpy()
        return found

    def free_bytes(self) -> int | None:
        if self._device.type == "cuda":
            return int(torch.cuda.mem_get_info(self._device)[0])
        return free_bytes()

    def _typed(self, weight: Array | NDArray[Any]) -> Array:
        if isinstance(weight, np.ndarray):
            weight = torch.from_numpy(np.ascontiguousarray(weight))
        return weight.to(self._device, self._dtype)

    def _room_like(self, out: Array) -> Array:
        if self._spare.numel() < out.numel():
            self._spare = torch.empty(out.numel(), dtype=self._dtype, device=self._device)
        return self._spare[: out.numel()].view(out.shape)


class _Packed:
    """A matrix (depth, columns) in oneDNN's own order. Its products of two rows have the bits of any more, where those
    of torch's usual library need four; and they read the matrix faster than one in plain order can be."""

    def __init__(self, weight: Array) -> None:
        columns, depth = weight.shape
        self.shape = (depth, columns)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight)

    def times(self, x: Array) -> Array:
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "none", [], "")


def _can_pack() -> bool:
    """Whether this torch has oneDNN, and gives compiled programs and us a way to it."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


class _Test:
    """Whether `compute` gives each row of `x` the same bits in blocks of so many rows as in blocks of others."""

    def __init__(self, compute: Callable[[F32], F32], x: F32) -> None:
        self._compute = compute
        self._x = x
        self._wanted: dict[int, NDArray[np.int32]] = {}

    def is_exact(self, rows: int, reference: int) -> bool:
        most = len(self._x)
        if reference not in self._wanted:
            every = np.arange(-(-most // reference) * reference) % most
            self._wanted[reference] = self._in_blocks(reference, every)[:most]
        for shift in (0, most // 2 + 1 + rows // 3):  # another place in the block, and other neighbours
            places = (np.arange(rows) + shift) % most
            if not np.array_equal(self._in_blocks(rows, places), self._wanted[reference][places]):
                return False
        return True

    def _in_blocks(self, rows: int, places: NDArray[np.intp]) -> NDArray[np.int32]:
        made = [self._compute(self._x[places[at : at + rows]]) for at in range(0, len(places), rows)]
        return np.concatenate(made).view(np.int32)


class TorchMemory:
    """A `KVMemory` on a device."""

    def __init__(self, dtype: Any, device: Any) -> None:
        self.item_bytes = int(dtype.itemsize)
        self._dtype = dtype
        self._device = device

    def zeros(self, shape: Sequence[int]) -> Array:
        # Made while it computes or not, they are written to in both: restored, copied, handed on.
        with _memory_told(), torch.inference_mode(False):
            return torch.zeros(tuple(shape), dtype=self._dtype, device=self._device)

    def read(self, data: Array) -> NDArray[Any]:
        held = data.to("cpu", copy=True, memory_format=torch.contiguous_format)
        if self._dtype is torch.bfloat16:
            held = held.view(torch.uint16)
        copied: NDArray[Any] = held.numpy()
        return copied

    def written(self, saved: NDArray[Any]) -> Array:
        held = torch.from_numpy(saved if saved.flags.writeable else saved.copy())
        return held.view(self._dtype) if self._dtype is torch.bfloat16 else held


@contextmanager
def _memory_told() -> Iterator[None]:
    """What torch says when there is no memory left becomes a MemoryError, as NumPy's is one."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from None
    except RuntimeError as error:  # of the CPU
        if "can't allocate memory" in str(error):
            raise MemoryError(str(error)) from None
        raise


def _device(name: str) -> Any:
    """Raises ModelError that says what devices there are."""
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ModelError(f"device is '{name}', and this torch ({torch.__version__}) sees no GPU here; take 'cpu'")
    device, count = torch.device(name), torch.cuda.device_count()
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= count:
        there = ", ".join(f"'cuda:{n}'" for n in range(count))
        raise ModelError(f"there is no device '{name}' here; there are 'cpu', {there}")
    return torch.device("cuda", index)


def _be_exact(device: Any) -> list[str]:
    """Make this process's torch compute the same bits each time; returns what they depend on."""
    if device.type == "cpu":
        threads = _num_threads()
        torch.set_num_threads(threads)
        return [torch.__version__, "cpu", torch.backends.cpu.get_cpu_capability(), str(threads)]
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    return [torch.__version__, torch.cuda.get_device_name(device), str(torch.version.cuda)]


def _num_threads() -> int:
    """As OMP_NUM_THREADS says, or one less than there are cores: the kernel and its agents need one as well."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(said) if said.isdecimal() else num_cores() - 1)

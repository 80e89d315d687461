"""Keys and values of sequences, pooled and within a byte budget. Knows nothing about tokens, requests or threads.

Each sequence has one array of its own that grows in steps, so that what its attention computes has a shape that
depends on that sequence alone. Arrays given back are kept for the next sequence: fresh memory costs page faults.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from .linear import F32, aligned

STEP = 16
"""Attention looks at whole steps of positions, so its views change only every STEP tokens (and stay aligned)."""
MANY = 512
"""Above this many positions scores are computed head by head: OpenBLAS packs larger products, at 5 times the cost."""
_SMALLEST = 128


@dataclass(frozen=True, slots=True)
class KVShape:
    layers: int
    kv_heads: int
    head_dim: int
    context: int
    item_bytes: int = 4

    def capacity(self, tokens: int) -> int:
        """Positions of the array that holds `tokens`."""
        size = _SMALLEST
        while size < tokens:  # 128, 192, 256, 384, 512, …
            size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
        return min(size, self._whole_steps(self.context))

    def bytes(self, tokens: int) -> int:
        """Bytes of the array that holds `tokens`."""
        return self.capacity(tokens) * self.layers * self.kv_heads * self.head_dim * 2 * self.item_bytes

    def exact_bytes(self, tokens: int) -> int:
        """Bytes of the keys and values of `tokens` positions, as `KV.export` gives them."""
        return self.bytes(1) // self.capacity(1) * tokens

    @staticmethod
    def _whole_steps(tokens: int) -> int:
        return -(-tokens // STEP) * STEP


class KVMemory(Protocol):
    """Where arrays of keys and values lie. They are sliced and assigned to as NumPy's are, and have `shape`, `nbytes`.

    Numbers take `item_bytes`. `read` gives a copy that NumPy can hold (bf16 as its bits, uint16), `written` what may be
    assigned to an array.
    """

    item_bytes: int

    def zeros(self, shape: Sequence[int]) -> Any: ...

    def read(self, data: Any) -> NDArray[Any]: ...

    def written(self, saved: NDArray[Any]) -> Any: ...


class NumPyMemory:
    """A `KVMemory` of f32."""

    item_bytes = 4

    def zeros(self, shape: Sequence[int]) -> F32:
        return aligned(shape)

    def read(self, data: F32) -> F32:
        return data.copy()

    def written(self, saved: F32) -> F32:
        return saved


class LayerView(NamedTuple):
    """What attention reads and writes in one layer: keys (heads, dim, n), values (heads, n, dim), and both as stored.

    With MANY positions keys are (heads, 1, dim, n).
    """

    keys: F32
    values: F32
    both: F32


class KV:
    """The keys and values of one sequence, an array (layers, 2 * heads, capacity, dim). Made by `KVPool.open`.

    Positions from the end of the sequence up to the next whole step are 0 or, when it has been cut back, finite at
    least, and meaningless; attention masks them.
    """

    __slots__ = ("_data", "_pool", "_views", "reserved")

    def __init__(self, pool: KVPool, reserved: int, data: Any) -> None:
        self._pool = pool
        self._data = data
        self._views: dict[bool, tuple[int, int, list[LayerView]]] = {}
        self.reserved = reserved

    @property
    def is_open(self) -> bool:
        return self.reserved > 0

    @property
    def data(self) -> Any:
        """The array, until `room_for` makes a larger one."""
        return self._data

    @property
    def capacity(self) -> int:
        return int(self._data.shape[2])

    def room_for(self, tokens: int, used: int) -> None:
        """Make positions up to `tokens` usable; the first `used` keep what they hold. Stay within what was reserved."""
        if tokens > self.capacity:
            self._data = self._pool._grow(self, self._data, tokens, used)
            self._views = {}

    def views(self, tokens: int, first: int = 0) -> list[LayerView]:
        """A view for each layer of the positions from `first` up to `tokens`, rounded up to whole steps.

        The latest are kept, one that begins at 0 and one that does not: a model may have layers of both kinds.
        """
        seen = -(-tokens // STEP) * STEP
        kept = self._views.get(first > 0)
        if kept is None or kept[0] != first or kept[1] != seen:
            self._data[:, :, tokens:seen] = 0  # what was there is somebody else's, and may be no number
            heads = self._data.shape[1] // 2
            keys = self._data[:, :heads, first:seen].swapaxes(2, 3)
            if seen - first > MANY:
                keys = keys[:, :, None]
            made = list(map(LayerView, keys, self._data[:, heads:, first:seen], self._data))
            kept = self._views[first > 0] = (first, seen, made)
        return kept[2]

    def export(self, tokens: int) -> NDArray[Any]:
        """A copy of the first `tokens` positions."""
        return self.piece(0, tokens)

    def piece(self, start: int, end: int) -> NDArray[Any]:
        """A copy of the positions from `start` up to `end`."""
        return self._pool.memory.read(self._data[:, :, start:end])

    def load(self, saved: NDArray[Any], start: int = 0) -> None:
        """Put back what `export` or `piece` gave, from position `start` on."""
        end = start + saved.shape[2]
        self.room_for(end, start)
        self._data[:, :, start:end] = self._pool.memory.written(saved)

    def copy(self, other: KV, tokens: int) -> None:
        """Hold what `other` does in its first `tokens` positions."""
        self.room_for(tokens, 0)
        self._data[:, :, :tokens] = other._data[:, :, :tokens]

    def free(self) -> None:
        """Give the memory back at once. Freeing twice is harmless; using it afterwards is not."""
        if self.is_open:
            self._pool._close(self, self._data)
            self._views = {}


class PoolFull(MemoryError):
    """Others have reserved what a sequence needs: there will be room when they are done."""


class KVPool:
    """Hands out `KV`s as long as their reservations fit the budget. Threads may share it, though not a KV.

    A reservation is for the longest the sequence may become, so one that was admitted can always be finished; memory
    is taken as it grows. At most `keep` bytes of arrays given back are kept for reuse.
    """

    def __init__(self, shape: KVShape, budget: int, *, keep: int = 64 << 20, memory: KVMemory | None = None) -> None:
        self.shape = shape
        self.memory = memory or NumPyMemory()
        self.budget = budget
        self._keep = min(keep, budget)
        self._reserved = 0
        self._held = 0
        self._idle = 0
        self._open = 0
        self._free: dict[int, list[Any]] = {}
        self._lock = threading.Lock()

    @property
    def reserved(self) -> int:
        return self._reserved

    @property
    def room(self) -> int:
        """Bytes not yet reserved."""
        return self.budget - self._reserved

    def has_room(self, tokens: int) -> bool:
        """Whether a sequence of up to `tokens` tokens may be opened now."""
        return self.shape.bytes(tokens) <= self.room

    def open(self, tokens: int, *, now: int = 0) -> KV:
        """A KV for a sequence that will have at most `tokens` tokens, `now` of them at once. PoolFull, and MemoryError
        when the machine has none."""
        reserved = self.shape.bytes(tokens)
        with self._lock:
            if reserved > self.room:
                raise PoolFull(f"no room for {tokens} tokens of KV: {self.room} of {self.budget} bytes are left")
            data = self._take(max(now, 1))  # which the machine may not have: nothing is reserved then
            self._reserved += reserved
            self._open += 1
            return KV(self, reserved, data)

    def statistics(self) -> dict[str, int]:
        """Bytes: budget, reserved, held by sequences, idle for reuse; and how many sequences are open."""
        return {
            "budget_bytes": self.budget,
            "reserved_bytes": self._reserved,
            "held_bytes": self._held,
            "idle_bytes": self._idle,
            "sequences": self._open,
        }

    def _take(self, tokens: int) -> Any:
        capacity = self.shape.capacity(tokens)
        idle = self._free.get(capacity)
        if idle:
            data = idle.pop()
            self._idle -= data.nbytes
        else:
            s = self.shape
            data = self.memory.zeros((s.layers, 2 * s.kv_heads, capacity, s.head_dim))
        self._held += data.nbytes
        return data

    def _give(self, data: Any) -> None:
        self._held -= data.nbytes
        if self._idle + data.nbytes <= self._keep:
            self._free.setdefault(data.shape[2], []).append(data)
            self._idle += data.nbytes

    def _grow(self, kv: KV, data: Any, tokens: int, used: int) -> Any:
        if self.shape.bytes(tokens) > kv.reserved:
            raise MemoryError(f"a sequence outgrew its reservation: {tokens} tokens")
        with self._lock:
            larger = self._take(tokens)
        larger[:, :, :used] = data[:, :, :used]
        with self._lock:
            self._give(data)
        return larger

    def _close(self, kv: KV, data: Any) -> None:
        with self._lock:
            self._reserved -= kv.reserved
            self._open -= 1
            kv.reserved = 0
            self._give(data)

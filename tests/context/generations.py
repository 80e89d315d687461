"""Generations without a model: what they hold is known, so that what comes back can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aios.kernel.context import ContextManager
from aios.kernel.context.base import Array, Form
from aios.kernel.storage import Swap


class FakePool:
    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.reserved = 0

    @property
    def room(self) -> int:
        return self.budget - self.reserved


class Fake:
    """A `Held` of `size` bytes that reserves twice as many. `num_lost` counts how often it had to be computed anew."""

    core = "fake"
    fingerprint = "fp"
    vocabulary = "v"

    def __init__(self, key: str, pool: FakePool, size: int, form: Form = "logits") -> None:
        self.key, self.pool, self.size, self.form = key, pool, size, form
        self.needs = 2 * size
        self.is_inside = False
        self.num_lost = 0
        self.content = np.frombuffer(hashlib.shake_128(key.encode()).digest(size), "<u2")
        self.reopen(None)()
        self.num_lost = 0

    @property
    def state(self) -> bytes:
        return b'{"of": "%s"}' % self.key.encode()

    def copying(self) -> Callable[[], list[Array]]:
        assert self.is_inside
        return lambda: [self.content.copy()]

    def reopen(self, arrays: Sequence[Array] | None) -> Callable[[], None]:
        assert not self.is_inside
        if self.pool.room < self.needs:
            raise MemoryError
        if arrays is not None and not np.array_equal(arrays[0], self.content):
            raise ValueError("these are another's")
        self.num_lost += arrays is None
        self.is_inside = True
        self.pool.reserved += self.needs
        return lambda: None

    def forget(self) -> None:
        if self.is_inside:
            self.is_inside = False
            self.pool.reserved -= self.needs


def keeper(path: Path, *, ram: int = 1 << 26, disk: int = 0, **more: Any) -> tuple[ContextManager, Swap]:
    swap = Swap(path / "swap", disk)
    manager = ContextManager(swap, **{"ram_bytes": ram, "now": lambda: 0.0, **more})
    manager.open()
    return manager, swap

"""First in, first out. A call runs to its end: nobody is interrupted.

Bound: a call that fits waits for no call that came after it.
"""

from __future__ import annotations

from ..syscall import Syscall
from .base import Fits


class Fifo:
    def __init__(self, quantum: int = 0) -> None:
        self._waiting: dict[str, Syscall] = {}

    def push(self, call: Syscall) -> None:
        later = [c for c in self._waiting.values() if c.created > call.created] if call.num_slices else []
        self._waiting[call.id] = call
        for other in later:  # a call that comes back keeps its place
            self._waiting[other.id] = self._waiting.pop(other.id)

    def next(self, fits: Fits) -> Syscall | None:
        for call in self._waiting.values():
            if fits(call):
                del self._waiting[call.id]
                return call
        return None

    def charge(self, call: Syscall, tokens: int) -> None:
        """Order of arrival owes nothing to use."""

    def quantum(self, call: Syscall) -> int | None:
        return None

    def should_yield(self, call: Syscall, fits: Fits) -> bool:
        return False

    def remove(self, call: Syscall) -> bool:
        return self._waiting.pop(call.id, None) is not None

    def position(self, call: Syscall) -> int | None:
        return next((n for n, id in enumerate(self._waiting, 1) if id == call.id), None)

    def __len__(self) -> int:
        return len(self._waiting)

"""A runner with room for `limit` calls at once, for modules whose calls are short. Knows no module."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from ..syscall import Syscall


class Handler(Protocol):
    """A module whose calls need no slots of their own."""

    def check(self, call: Syscall) -> None: ...
    async def run(self, call: Syscall) -> Any: ...


class Pool:
    def __init__(self, name: str, handler: Handler, limit: int = 256) -> None:
        self.check = handler.check
        self._name = name
        self._handler = handler
        self._limit = limit
        self._active = 0

    def free(self) -> Iterable[str]:
        return (self._name,) if self._active < self._limit else ()

    def fits(self, call: Syscall, slot: str) -> bool:
        return True

    def take(self, call: Syscall, slot: str) -> None:
        self._active += 1

    def release(self, call: Syscall, slot: str) -> None:
        self._active -= 1

    async def run(self, call: Syscall, slot: str, quantum: int | None) -> Any:
        return await self._handler.run(call)

    def drop(self, call: Syscall) -> None:
        """Short calls have no snapshots."""

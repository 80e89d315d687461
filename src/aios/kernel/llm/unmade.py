"""Stands for a core that could not be made: something to show, and nothing more. Knows no other core."""

from __future__ import annotations

from typing import Any

from aios.abi.errors import ModuleFault

from ..config import CoreSection


class Unmade:
    """In its seat, which is FAILED from the start."""

    resume = "none"

    def __init__(self, section: CoreSection) -> None:
        self.name, self.slots = section.name, section.slots
        self.kind: str = section.kind
        self.context_length: int | None = None
        self.model = section.model or section.name

    async def open(self) -> None:
        raise ModuleFault(f"core '{self.name}' could not be made")

    async def close(self) -> None:
        """There is nothing to close."""

    def check(self, args: Any) -> None:
        """It is never asked."""

    def can_take(self, snapshot: Any, active: int = 0) -> bool:
        return False

    def can_continue(self, args: Any, said: Any) -> bool:
        return False

    async def run(self, request: Any, quantum: int | None) -> Any:
        raise ModuleFault(f"core '{self.name}' could not be made")

    def drop(self, snapshot: Any) -> None:
        """It gave none."""

    def statistics(self) -> dict[str, Any]:
        return {}

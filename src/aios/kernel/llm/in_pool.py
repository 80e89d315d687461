"""The `Contexts` of a core that stands alone: suspended generations stay in its pool. Knows no tier and no disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from numpy.typing import NDArray

from .local.held import Held
from .local.kv import KVPool


class InPool:
    """Nothing is ever moved, so what was begun has its room, and new ones wait for what is free."""

    def room(self, pool: KVPool, *, is_text: bool = False) -> int:
        return pool.room

    def put(self, held: Held) -> None:
        pass

    async def take(self, held: Held, *, is_switch: bool = True) -> str | None:
        return None

    async def make_room(self, pool: KVPool, needed: int) -> None:
        pass

    def freed(self, pool: KVPool) -> None:
        pass

    def drop(self, held: Held) -> None:
        held.forget()

    def part(self, held: Held) -> None:
        held.forget()

    async def load(self, key: str, pool: KVPool, fingerprint: str, vocabulary: str) -> NoReturn:
        raise ValueError("this core keeps nothing from one run to the next")

    async def admit(self, held: Held, arrays: Sequence[NDArray[Any]] | None) -> None:
        held.reopen(arrays)()

    def drop_stored(self, key: str) -> None:
        pass

    def statistics(self, pool: KVPool) -> dict[str, Any]:
        return {}

    def forget_pool(self, pool: KVPool) -> None:
        pass

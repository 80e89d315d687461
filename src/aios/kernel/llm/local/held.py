"""A suspended sequence, as those see it who keep it until it goes on. Knows its engine's pool; no tier or file."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from .kv import KVPool
from .sequence import Sequence
from .snapshot import state_of


@dataclass(slots=True, eq=False)
class Held:
    """What an own core gives as a call's snapshot. `fingerprint` and `vocabulary` are the engine's.

    `num_switches` is how often its call had been interrupted when it ran last. `is_unheard`: nobody was told yet what
    it has said.
    """

    core: str
    form: Literal["logits", "text"]
    pool: KVPool
    sequence: Sequence
    fingerprint: str
    vocabulary: str
    num_switches: int = 0
    is_unheard: bool = False

    @property
    def key(self) -> str:
        return self.sequence.id

    @property
    def needs(self) -> int:
        return self.sequence.bytes_in(self.pool)

    @property
    def size(self) -> int:
        return self.sequence.size_in(self.pool)

    @property
    def state(self) -> bytes:
        return state_of(self.sequence)

    def copying(self) -> Callable[[], list[NDArray[Any]]]:
        return self.sequence.copying()

    def reopen(self, arrays: Many[NDArray[Any]] | None) -> Callable[[], None]:
        return self.sequence.reopen(self.pool, arrays)

    def forget(self) -> None:
        self.sequence.release()

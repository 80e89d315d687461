"""Who leaves first: policies behind one interface, `Evictor` in memory/base.py, by the names of the configuration."""

from __future__ import annotations

from collections.abc import Callable

from ..base import Evictor
from .arc import ARC
from .lru import LRU
from .lru_k import LRUK
from .size_aware import SizeAware
from .two_q import TwoQ

POLICIES: dict[str, Callable[[int], Evictor]] = {
    "lru_k": LRUK,
    "lru": lambda k: LRU(),
    "two_q": lambda k: TwoQ(),
    "arc": lambda k: ARC(),
    "size_aware": lambda k: SizeAware(),
}
"""Each makes an evictor of a block's `k`, which only LRU-K asks for."""

__all__ = ["ARC", "LRU", "LRUK", "POLICIES", "SizeAware", "TwoQ"]

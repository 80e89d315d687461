"""What the access room needs of its neighbours, and what it counts. Knows no key and no rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..process import Process


class Lookup(Protocol):
    """The process table, as rules need it."""

    def get(self, pid: int) -> Process:
        """Live or remembered. Raises NotFound."""


@dataclass(slots=True)
class CheckCount:
    """How often the check said what, since boot."""

    num_allowed: int = 0
    num_denied: int = 0
    num_unauthorized: int = 0

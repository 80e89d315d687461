"""Figures made of runs and of the trace: shares by family, waiting times. Knows no kernel and no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .runner import Run

_WAITING = frozenset({"queued", "blocked", "suspended"})
_OVER = frozenset({"done", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Share:
    """How many of `total` were right."""

    right: int
    total: int

    @property
    def value(self) -> float:
        return self.right / self.total if self.total else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {"right": self.right, "total": self.total, "share": round(self.value, 4)}


def share(runs: Sequence[Run]) -> Share:
    return Share(sum(run.is_right for run in runs), len(runs))


def by_family(runs: Sequence[Run]) -> dict[str, Share]:
    """The share of each family, in the order in which they first come."""
    families = dict.fromkeys(run.task.family for run in runs)
    return {family: share([run for run in runs if run.task.family == family]) for family in families}


class Waits:
    """Listens to a kernel's trace: how long each call of one name waited in all, from queue to last slice."""

    def __init__(self, name: str = "llm_generate") -> None:
        self._name = name
        self._since: dict[str, float] = {}
        self._waited: dict[str, float] = {}
        self.done: list[float] = []

    def __call__(self, row: Any) -> None:
        if row.name != self._name:
            return
        since = self._since.pop(row.call_id, None)
        if since is not None:
            self._waited[row.call_id] = self._waited.get(row.call_id, 0.0) + row.time - since
        if row.state in _WAITING:
            self._since[row.call_id] = row.time
        elif row.state in _OVER:
            self.done.append(self._waited.pop(row.call_id, 0.0))

    @property
    def mean(self) -> float:
        return sum(self.done) / len(self.done) if self.done else 0.0

    def quantile(self, part: float) -> float:
        return quantile(self.done, part)


def quantile(values: Iterable[float], part: float) -> float:
    """The smallest value that at least `part` of them do not exceed; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0

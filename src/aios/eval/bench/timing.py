"""Time of a piece of work, by the wall and of the CPU, in turn with what it is compared with. Knows no model."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Times:
    """Seconds that one thing took, again and again."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def once(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)

    @property
    def wall_s(self) -> float:
        return statistics.median(self.wall)

    @property
    def cpu_s(self) -> float:
        return statistics.median(self.cpu)


def ratio(over: list[float], under: list[float]) -> float:
    """The median of what was measured in turn, pair by pair."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))

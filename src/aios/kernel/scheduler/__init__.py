"""The scheduler: one queue per module, ordered by a policy; free slots pull. Knows no module's inside."""

from .base import Policy
from .fifo import Fifo
from .pool import Pool
from .round_robin import RoundRobin
from .worker import Queue, Runner

POLICIES: dict[str, type[Fifo] | type[RoundRobin]] = {"fifo": Fifo, "rr": RoundRobin}

__all__ = ["POLICIES", "Fifo", "Policy", "Pool", "Queue", "RoundRobin", "Runner"]

"""Round robin over processes, weighted by nice, first in first out inside each.

Processes stand in a ring. A turn is one slice of one call, `quantum` tokens times the process's weight; then the
process goes to the back. So ten parallel calls of one process do not buy ten shares.
Bound: between two turns of a waiting process, each other process has at most one turn for each slot.
"""

from __future__ import annotations

from collections import OrderedDict

from ..syscall import Syscall
from .base import Fits


class RoundRobin:
    def __init__(self, quantum: int = 32) -> None:
        self._quantum = quantum
        self._ring: OrderedDict[int, dict[str, Syscall]] = OrderedDict()
        self._size = 0

    def push(self, call: Syscall) -> None:
        waiting = self._ring.setdefault(call.process.pid, {})
        if call.num_slices:
            # An interrupted call is older than any that has not begun: it keeps its place inside its process.
            rest = dict(waiting)
            waiting.clear()
            waiting.update({id: c for id, c in rest.items() if c.num_slices and c.created <= call.created})
            waiting[call.id] = call
            waiting.update({id: c for id, c in rest.items() if id not in waiting})
        else:
            waiting[call.id] = call
        self._size += 1

    def next(self, fits: Fits) -> Syscall | None:
        for pid, waiting in self._ring.items():
            for call in waiting.values():
                if fits(call):
                    self._take(pid, call)
                    if pid in self._ring:
                        self._ring.move_to_end(pid)
                    return call
        return None

    def _take(self, pid: int, call: Syscall) -> None:
        waiting = self._ring[pid]
        del waiting[call.id]
        self._size -= 1
        if not waiting:
            del self._ring[pid]

    def charge(self, call: Syscall, tokens: int) -> None:
        """A turn is paid for by going to the back of the ring, whatever it used."""

    def quantum(self, call: Syscall) -> int | None:
        return max(1, round(self._quantum * call.process.weight))

    def should_yield(self, call: Syscall, fits: Fits) -> bool:
        mine = call.process.pid
        return any(fits(c) for pid, waiting in self._ring.items() if pid != mine for c in waiting.values())

    def remove(self, call: Syscall) -> bool:
        pid = call.process.pid
        if call.id not in self._ring.get(pid, {}):
            return False
        self._take(pid, call)
        return True

    def position(self, call: Syscall) -> int | None:
        """Turn k of a process comes after k turns of each process before it in the ring, k-1 of each behind it."""
        mine = self._ring.get(call.process.pid)
        if mine is None or call.id not in mine:
            return None
        turn = next(n for n, id in enumerate(mine, 1) if id == call.id)
        ahead, is_before = turn, True
        for pid, waiting in self._ring.items():
            if pid == call.process.pid:
                is_before = False
            else:
                ahead += min(len(waiting), turn if is_before else turn - 1)
        return ahead

    def __len__(self) -> int:
        return self._size

"""Round robin over tasks, weighted by nice, first in first out inside each.

A task is a top-level process and all it spawned. Tasks stand in a ring. A turn is one slice of one call, `quantum`
tokens times the process's weight; then the task goes to the back. So neither ten parallel calls nor ten children buy
ten shares. A turn that took more than its quantum while others waited (a core that cannot be interrupted) is paid for
by sitting out as many turns.
Bound: between two turns of a waiting task that owes none, each other task has at most one turn for each slot.
"""

from __future__ import annotations

from collections import OrderedDict

from ..syscall import Syscall
from .base import Fits

MAX_OWED = 64.0
"""Turns. Nobody is kept out for longer than this for what one long answer took."""


class RoundRobin:
    def __init__(self, quantum: int = 32) -> None:
        self._quantum = quantum
        self._ring: OrderedDict[int, dict[str, Syscall]] = OrderedDict()
        self._size = 0
        self._owed: dict[int, float] = {}

    def push(self, call: Syscall) -> None:
        waiting = self._ring.setdefault(call.process.root.pid, {})
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
        if self._owed:
            return self._next_among_debtors(fits)
        for pid, waiting in self._ring.items():
            for call in waiting.values():
                if fits(call):
                    return self._turn(pid, call)
        return None

    def _next_among_debtors(self, fits: Fits) -> Syscall | None:
        """As `next`, but a task that owes turns is passed over once for each, as long as another one can go."""
        ready = {pid: call for pid in self._ring if (call := self._first(pid, fits)) is not None}
        if not ready:
            return None
        least = min(int(self._owed.get(pid, 0.0)) for pid in ready)
        for pid, call in ready.items():
            self._pay(pid, least)
            if self._owed.get(pid, 0.0) < 1.0:
                return self._turn(pid, call)
            self._pay(pid, 1)
        raise AssertionError("the task that owes least can always go")

    def _first(self, pid: int, fits: Fits) -> Syscall | None:
        return next((call for call in self._ring[pid].values() if fits(call)), None)

    def _pay(self, pid: int, turns: int) -> None:
        if pid in self._owed:
            self._owed[pid] -= turns
            if self._owed[pid] <= 0.0:
                del self._owed[pid]

    def _turn(self, pid: int, call: Syscall) -> Syscall:
        self._take(pid, call)
        if pid in self._ring:
            self._ring.move_to_end(pid)
        return call

    def _take(self, pid: int, call: Syscall) -> None:
        waiting = self._ring[pid]
        del waiting[call.id]
        self._size -= 1
        if not waiting:
            del self._ring[pid]
        if not self._ring:
            self._owed.clear()  # nobody was kept waiting: nobody owes

    def charge(self, call: Syscall, tokens: int) -> None:
        """One turn is paid for by going to the back of the ring; what a slice took beyond it is owed."""
        mine = call.process.root.pid
        beyond = tokens / self._turn_of(call) - 1.0
        if beyond > 0.0 and any(pid != mine for pid in self._ring):
            self._owed[mine] = min(self._owed.get(mine, 0.0) + beyond, MAX_OWED)

    def quantum(self, call: Syscall) -> int | None:
        return self._turn_of(call)

    def _turn_of(self, call: Syscall) -> int:
        return max(1, round(self._quantum * call.process.weight))

    def should_yield(self, call: Syscall, fits: Fits) -> bool:
        mine = call.process.root.pid
        return any(fits(c) for pid, waiting in self._ring.items() if pid != mine for c in waiting.values())

    def remove(self, call: Syscall) -> bool:
        pid = call.process.root.pid
        if call.id not in self._ring.get(pid, {}):
            return False
        self._take(pid, call)
        return True

    def position(self, call: Syscall) -> int | None:
        """Turn k of a task comes after k turns of each task before it in the ring, k-1 of each behind it."""
        root = call.process.root.pid
        mine = self._ring.get(root)
        if mine is None or call.id not in mine:
            return None
        turn = next(n for n, id in enumerate(mine, 1) if id == call.id)
        ahead, is_before = turn, True
        for pid, waiting in self._ring.items():
            if pid == root:
                is_before = False
            else:
                ahead += min(len(waiting), turn if is_before else turn - 1)
        return ahead

    def __len__(self) -> int:
        return self._size

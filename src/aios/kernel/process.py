"""Agent processes: pid, owner, nice, accounting. A process is one run of an agent. Knows nothing of calls' contents."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Literal, NamedTuple

from aios.abi.errors import Conflict, NotFound

if TYPE_CHECKING:
    from .syscall import Syscall


class ProcessState(Enum):
    RUNNING = "running"
    STOPPED = "stopped"
    ENDED = "ended"


PROCESS_TRANSITIONS: dict[ProcessState, frozenset[ProcessState]] = {
    ProcessState.RUNNING: frozenset({ProcessState.STOPPED, ProcessState.ENDED}),
    ProcessState.STOPPED: frozenset({ProcessState.RUNNING, ProcessState.ENDED}),
    ProcessState.ENDED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as a key says: an owner, one of its agents, perhaps one process of it. Admins may see everything."""

    owner: str
    agent: str
    pid: int | None = None
    is_admin: bool = False
    key_id: str = ""


class Place(NamedTuple):
    """An agent, which is an owner's agent: the only entries and files that a call can reach are those of its own."""

    owner: str
    agent: str


@dataclass(slots=True, eq=False)
class Process:
    """One run of an agent. Times are monotonic seconds but `started_wall` and `ended_wall` (since 1970)."""

    pid: int
    agent: str
    owner: str
    parent: int | None = None
    nice: int = 0
    command: str | None = None
    state: ProcessState = ProcessState.RUNNING
    started_wall: float = 0.0
    ended_wall: float | None = None
    exit_code: int | None = None
    root: Process = field(init=False, repr=False)
    """The top of the tree it was spawned in: a root and all below it are one task, and share one turn."""
    num_open: int = 0
    """Open calls of the whole task; kept at its root. Those that only wait are counted apart, in `num_waits`."""
    num_waits: int = 0
    num_live: int = 1
    """Live processes of the whole task; kept at its root."""
    is_implicit: bool = False
    """Made for a key that has no process of its own; lives as long as the key."""
    is_revived: bool = False
    """Known from the journal only; forgotten after the last call that an earlier kernel left open, unless its
    program calls again."""
    is_recorded: bool = False
    """The journal has it, or is about to."""
    window: Literal["error", "drop", "summarise"] | None = None
    """What becomes of messages that do not fit, where a call of its does not say."""
    memory: Literal["off", "auto"] | None = None
    """Whether its exchanges are kept and recalled, where a call of its does not say."""
    num_calls: int = 0
    num_failed: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    """Of those in: computed for an earlier prompt that began alike."""
    tokens_out: int = 0
    cost: float | None = None
    """US dollars, of the calls whose price is known."""
    num_slices: int = 0
    num_switches: int = 0
    wait_s: float = 0.0
    run_s: float = 0.0
    open_calls: dict[str, Syscall] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root = self

    @property
    def weight(self) -> float:
        """Share of the cores: 1 at nice 0, a quarter more for each step below, as Unix schedulers have it."""
        return 1.25**-self.nice

    def move(self, state: ProcessState) -> None:
        if state not in PROCESS_TRANSITIONS[self.state]:
            raise Conflict(f"process {self.pid} is {self.state.value} and cannot become {state.value}")
        self.state = state


class ProcessTable:
    """All live processes, and the last `keep` ended ones."""

    def __init__(self, keep: int = 1000, first_pid: int = 1) -> None:
        self._live: dict[int, Process] = {}
        self._ended: OrderedDict[int, Process] = OrderedDict()
        self._implicit: dict[str, Process] = {}
        self._keep = keep
        self._next = first_pid

    def spawn(
        self,
        agent: str,
        owner: str,
        *,
        wall: float,
        parent: int | None = None,
        nice: int = 0,
        command: str | None = None,
    ) -> Process:
        process = Process(self._next, agent, owner, parent, nice, command, started_wall=wall)
        self._next += 1
        if parent is not None:
            process.root = self.get(parent).root
            process.root.num_live += 1
            process.window = self.get(parent).window
            process.memory = self.get(parent).memory
        self._live[process.pid] = process
        return process

    def implicit(self, principal: Principal, wall: float) -> Process:
        """The process of a key that names none: one for each key, made when first asked for."""
        process = self._implicit.get(principal.key_id)
        if process is None or process.state is ProcessState.ENDED:
            process = self.spawn(principal.agent, principal.owner, wall=wall)
            process.is_implicit = True
            self._implicit[principal.key_id] = process
        return process

    def without_key(self, key_id: str) -> Process | None:
        """The process that was made for a key which nobody can use any more."""
        return self._implicit.pop(key_id, None)

    def revive(self, process: Process) -> Process:
        """Take up `process` of an earlier kernel, unless it is here already."""
        if process.pid not in self._live:
            process.is_revived = True
            self._live[process.pid] = process
            self._next = max(self._next, process.pid + 1)
        return self._live[process.pid]

    def forget(self, process: Process) -> None:
        """Drop a revived process whose program may be gone. It is revived again when it calls."""
        self._live.pop(process.pid, None)

    def find(self, pid: int) -> Process | None:
        """The process, live or remembered."""
        return self._live.get(pid) or self._ended.get(pid)

    def get(self, pid: int) -> Process:
        process = self.find(pid)
        if process is None:
            raise NotFound(f"there is no process {pid}; 'aios ps' lists them", code="no_such_process", param="pid")
        return process

    def live(self, pid: int) -> Process:
        """As `get`, for those who want to change it. Raises Conflict when it has ended."""
        process = self.get(pid)
        if process.state is ProcessState.ENDED:
            code = "" if process.exit_code is None else f" with exit code {process.exit_code}"
            raise Conflict(
                f"process {pid} has ended{code}: there is nothing left to signal or to reorder; 'aios ps' lists those "
                "that run",
                code="process_ended",
                param="pid",
            )
        return process

    def end(self, process: Process, wall: float, code: int | None = None) -> None:
        process.move(ProcessState.ENDED)
        process.ended_wall, process.exit_code = wall, code
        process.root.num_live -= 1
        self._live.pop(process.pid)
        self._ended[process.pid] = process
        while len(self._ended) > self._keep:
            self._ended.popitem(last=False)

    def below(self, process: Process) -> list[Process]:
        """Live processes that `process` spawned, and those that they spawned, parents first."""
        found = {process.pid}
        for each in self._live.values():  # pids only grow, so a parent comes before its children
            if each.parent in found:
                found.add(each.pid)
        return [each for each in self._live.values() if each.pid in found and each is not process]

    def list(self, *, ended: bool = False) -> list[Process]:
        """Live processes by pid; with `ended`, the remembered ended ones before them."""
        return [*(self._ended.values() if ended else ()), *self._live.values()]

    def __len__(self) -> int:
        return len(self._live)

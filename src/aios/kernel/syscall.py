"""A system call under way: its states, the table of moves between them, and its timings. Knows no module and no I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from aios.abi.calls import Args, CallSpec
from aios.abi.errors import AiosError, KernelFault
from aios.abi.messages import Chunk, ContextReport, MemoryReport

from .process import Principal, Process
from .trace import Row, Trace


class State(Enum):
    """Where a call is in its life. `BLOCKED` waits for something other than a slot: a person, a stopped process."""

    NEW = "new"
    QUEUED = "queued"
    BLOCKED = "blocked"
    RUNNING = "running"
    SUSPENDED = "suspended"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    __hash__ = object.__hash__  # Enum's own is a call into Python, and each move looks up two states


TERMINAL = frozenset({State.DONE, State.FAILED, State.CANCELLED})

TRANSITIONS: dict[State, frozenset[State]] = {
    State.NEW: frozenset({State.QUEUED, State.BLOCKED, State.FAILED, State.CANCELLED}),
    State.QUEUED: frozenset({State.RUNNING, State.BLOCKED, State.FAILED, State.CANCELLED}),
    State.BLOCKED: frozenset({State.QUEUED, State.FAILED, State.CANCELLED}),
    State.RUNNING: frozenset({State.DONE, State.SUSPENDED, State.FAILED, State.CANCELLED}),
    State.SUSPENDED: frozenset({State.QUEUED, State.BLOCKED, State.FAILED, State.CANCELLED}),
    State.DONE: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}
"""Which moves are legal. The diagram in ARCHITECTURE.md is drawn from this."""


@dataclass(frozen=True, slots=True)
class Suspended:
    """A module's word that a call's quantum is used up and it is not done. `snapshot` is what resumes it.

    `is_refusal`: the slot could not take the call after all, or broke off in the middle, and something may have changed
    `after` so many seconds. Without a snapshot the call has not begun.
    """

    snapshot: Any
    tokens: int
    after: float = 0.0
    is_refusal: bool = False


class IllegalMove(KernelFault):
    """A move that is not in the table: a bug of the kernel, told with the call's story."""


class Syscall:
    """One call. Only `move()` changes its state; modules may set `snapshot`, `core` and their `tokens_…`.

    Times are the clock's monotonic seconds. `wait_s` counts QUEUED, BLOCKED and SUSPENDED; `run_s` counts RUNNING.
    """

    __slots__ = (
        "args",
        "body",
        "chunks",
        "context",
        "core",
        "cost",
        "created",
        "error",
        "fate",
        "future",
        "id",
        "is_begun",
        "is_detached",
        "is_heard",
        "is_restarting",
        "key",
        "listeners",
        "memory",
        "nice",
        "noted",
        "num_slices",
        "num_switches",
        "num_tries",
        "opened",
        "principal",
        "process",
        "refused_until",
        "result",
        "run_s",
        "session",
        "since",
        "snapshot",
        "spec",
        "state",
        "task",
        "ties",
        "timer",
        "tokens_cached",
        "tokens_charged",
        "tokens_in",
        "tokens_out",
        "wait_s",
        "why",
    )

    def __init__(
        self,
        id: str,
        spec: CallSpec,
        args: Args,
        process: Process,
        now: float,
        key: str | None = None,
        principal: Principal | None = None,
    ) -> None:
        self.id = id
        self.spec = spec
        self.args: Any = args
        self.process = process
        self.principal = principal
        """Who asks; None when an older kernel was asked."""
        self.key = key
        self.body: bytes | None = None
        """What tells this call's body from another one's (calls with a key only)."""
        self.state = State.NEW
        self.created = self.since = now
        self.opened = 0.0
        """When the journal was told of it, in seconds since 1970; 0 when it never is. Repeats show it again."""
        self.wait_s = self.run_s = 0.0
        self.num_slices = self.num_switches = 0
        self.tokens_in = self.tokens_cached = self.tokens_out = self.tokens_charged = 0
        self.cost: float | None = None
        """US dollars, where the price is known."""
        self.core: str | None = None
        self.session: str | None = None
        """What the caller says its calls belong together by: a hint for the choice of a core."""
        self.nice = -20
        """How far behind others the caller puts it, where a server behind a core ranks its calls: low goes first."""
        self.ties: Any = None
        """What ties it to a core that served the like; the llm module's own."""
        self.num_tries = 0
        """Times that a core failed to begin it."""
        self.refused_until: dict[str, float] = {}
        """Cores that would not begin it, and until when they need not be asked again."""
        self.why: str | None = None
        self.noted: str | None = None
        """What the next row of the trace is to say, if it has nothing else to say."""
        self.snapshot: Any = None
        self.context: ContextReport | None = None
        """What was left out of its messages so that they fit."""
        self.memory: MemoryReport | None = None
        """What was recalled for it."""
        self.result: Any = None
        self.error: AiosError | None = None
        self.fate: AiosError | None = None
        """Set before a running call is aborted: what it is to end with."""
        self.future: asyncio.Future[Any] | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: Any = None
        self.chunks: list[Chunk] | None = None
        """The answer so far, kept for a second listener (calls with a key only)."""
        self.listeners: list[Callable[[Chunk], None]] = []
        self.is_begun = False
        """Its side effect has started, and is on record as started (calls with a key only)."""
        self.is_heard = False
        """Somebody has heard a piece of its answer: that can be gone on with, but not begun anew."""
        self.is_restarting = False
        """Its task is being cancelled for it to begin anew."""
        self.is_detached = key is not None
        """A detached call outlives the connection that made it."""

    def emit(self, chunk: Chunk) -> None:
        """Hand a piece of the answer to whoever listens. Called by modules, on the event loop."""
        self.tokens_out += chunk.tokens
        if self.chunks is not None:
            self.chunks.append(chunk)
        for listener in self.listeners:
            self.is_heard = True
            listener(chunk)

    def note(self, why: str) -> None:
        """Have the trace tell how the call went on. Called by modules."""
        self.noted = why

    def unsay(self) -> None:
        """It begins anew: what was said of its answer was said to nobody."""
        self.snapshot = None
        self.tokens_out = self.tokens_charged = 0
        if self.chunks is not None:
            self.chunks.clear()

    def unlisten(self, listener: Callable[[Chunk], None]) -> None:
        """`listener` wants to hear no more."""
        if listener in self.listeners:
            self.listeners.remove(listener)

    def __repr__(self) -> str:
        return f"<{self.spec.name} {self.id} of pid {self.process.pid}: {self.state.value}>"


def move(call: Syscall, state: State, now: float, trace: Trace, why: str | None = None) -> None:
    """The only way a call changes state. Adds one row to the trace; raises IllegalMove off the table."""
    old = call.state
    if why is None:
        why, call.noted = call.noted, None
    if state not in TRANSITIONS[old]:
        story = " → ".join(row.state for row in trace.story(call.id))
        raise IllegalMove(
            f"{call!r} cannot move from {old.value} to {state.value}; its story: {story or 'none'}",
            call_id=call.id,
        )
    span, process = now - call.since, call.process
    if old is State.RUNNING:
        call.run_s += span
        process.run_s += span
        if state is State.SUSPENDED:
            call.num_switches += 1
            process.num_switches += 1
    else:
        call.wait_s += span
        process.wait_s += span
    if state is State.RUNNING:
        call.num_slices += 1
        process.num_slices += 1
    call.state, call.since, call.why = state, now, why
    trace.add(Row(now, call.id, process.pid, call.spec.name, state.value, call.core, why))

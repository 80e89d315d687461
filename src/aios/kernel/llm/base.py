"""What an LLM core is. Knows nothing about queues, policies, processes or the wire agents speak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError
from aios.abi.messages import Chunk, Generation

from ..syscall import Suspended

Emit = Callable[[Chunk], None]


@dataclass(frozen=True, slots=True)
class Request:
    """A generation to begin, or to go on with when `snapshot` is set (the one this core gave before).

    `args.seed` is always set. `emit` may be called on the event loop only; it takes pieces of the answer in order.
    `is_streamed` says that somebody listens to the pieces.
    """

    id: str
    args: LLMGenerate
    emit: Emit
    snapshot: Any = None
    is_streamed: bool = False


class NotBegun(Exception):
    """The core could not begin this request, and said nothing of it yet: another core may, or this one later.

    `error` is what the agent is told when nobody does. `after` is how many seconds this core need not be asked again.
    `is_busy`: the server only has too much to do, so trying again is no waste.
    """

    def __init__(self, error: AiosError, *, after: float, is_busy: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.after = after
        self.is_busy = is_busy


@dataclass(frozen=True, slots=True)
class CoreInfo:
    """What people are told about a core. `why` is what keeps it from being ready."""

    name: str
    kind: str
    model: str
    slots: int
    active: int
    context_length: int | None
    resume: str
    detail: dict[str, Any] = field(default_factory=dict)
    state: str = "ready"
    why: str | None = None


class Core(Protocol):
    """One model instance.

    `resume` says what an interrupt costs here: "kv_exact" goes on with the same bits, "none" cannot be interrupted
    and ignores the quantum. A core never raises for one request's sake into another's.
    """

    name: str
    kind: str
    model: str
    slots: int
    context_length: int | None
    resume: str

    async def open(self) -> None:
        """Load, connect. Constructors do neither."""

    async def close(self) -> None: ...

    def check(self, args: LLMGenerate) -> None:
        """Raise BadRequest for what this core can never do. Cheap: called before queueing."""

    def can_take(self, snapshot: Any, active: int = 0) -> bool:
        """Whether there is room, now, to go on from `snapshot`, or (None) to begin something new.

        `active` is how many calls have a slot here; some of them may not have reached `run` yet.
        """

    async def run(self, request: Request, quantum: int | None) -> Generation | Suspended:
        """Generate up to `quantum` tokens (None: to the end).

        When the task is cancelled the request is aborted and its slot is free before the cancellation leaves `run`.
        Raises BadRequest, ContextLengthExceeded, UpstreamFault, TimedOut or ModuleFault; NotBegun when it is worth
        trying again.
        """

    def drop(self, snapshot: Any) -> None:
        """`snapshot` will not be resumed: free what it holds."""

    def statistics(self) -> dict[str, Any]: ...

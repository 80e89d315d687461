"""What an LLM core is. Knows nothing about queues, policies, processes or the wire agents speak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from msgspec import Struct

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError
from aios.abi.messages import Chunk, Generation, TokenLogprob

from ..syscall import Suspended

Emit = Callable[[Chunk], None]


class Said(Struct, frozen=True):
    """What was told of an answer under way: the text-based state of a generation. Any core that `can_continue` it may
    go on from here, whichever core began.

    `tokens` is how many that were, as well as the core could count. `prompt_ids` and `ids` are the tokens themselves,
    where a server told them. `id`, `created`, `model` and `fingerprint` are what the answer's listener was told that
    it is; `id` is None when no upstream's stream went out as it came.
    """

    text: str
    tokens: int
    logprobs: list[TokenLogprob] | None = None
    prompt_ids: list[int] | None = None
    ids: list[int] | None = None
    id: str | None = None
    created: int | None = None
    model: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A generation to begin, or to go on with when `snapshot` is set (the one this core gave before) or `said` is
    (what was told so far, by whichever core: the rest is to follow on it without a seam).

    `args.seed` is always set. `emit` may be called on the event loop only; it takes pieces of the answer in order.
    `is_streamed` says that somebody listens to the pieces. `nice` is the process's: -20 to 19, low goes first.
    """

    id: str
    args: LLMGenerate
    emit: Emit
    snapshot: Any = None
    is_streamed: bool = False
    said: Said | None = None
    nice: int = 0


class NotBegun(Exception):
    """The core could not begin this request, or broke off in the middle: another core may go on, or this one later.

    `error` is what the agent is told when nobody does. `after` is how many seconds this core need not be asked again.
    `is_busy`: the server only has too much to do, so trying again is no waste. `said` is what was told by then; without
    it nobody has heard anything, and the request can be begun anew.
    """

    def __init__(self, error: AiosError, *, after: float, is_busy: bool, said: Said | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.after = after
        self.is_busy = is_busy
        self.said = said


@dataclass(frozen=True, slots=True)
class CoreInfo:
    """What people are told about a core."""

    name: str
    kind: str
    model: str
    slots: int
    active: int
    context_length: int | None
    resume: str
    detail: dict[str, Any] = field(default_factory=dict)


class Core(Protocol):
    """One model instance.

    `resume` says what an interrupt costs here: "kv_exact" goes on with the same bits, "kv_file" too, from a file that
    its server keeps; "tokens" and "prefill_text" give a `Said` as their snapshot and read it again, which for sampled
    answers is a valid continuation and not the identical one; "none" cannot be interrupted and ignores the quantum.
    A core never raises for one request's sake into another's.
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

    def can_continue(self, args: LLMGenerate, said: Said) -> bool:
        """Whether `run` takes a request with this `said`, from whichever core it comes. Cheap."""

    async def run(self, request: Request, quantum: int | None) -> Generation | Suspended:
        """Generate up to `quantum` tokens (None: to the end).

        When the task is cancelled the request is aborted and its slot is free before the cancellation leaves `run`.
        Raises BadRequest, ContextLengthExceeded, UpstreamFault, TimedOut or ModuleFault; NotBegun when it is worth
        trying again, here or elsewhere.
        """

    def drop(self, snapshot: Any) -> None:
        """`snapshot` will not be resumed: free what it holds."""

    def statistics(self) -> dict[str, Any]: ...

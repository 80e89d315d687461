"""What an LLM core is. Knows nothing about queues, policies, processes or the wire agents speak."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import msgspec
from msgspec import Struct
from numpy.typing import NDArray

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError
from aios.abi.messages import Chunk, Generation, TokenLogprob

from ..syscall import Suspended

if TYPE_CHECKING:
    from .local.held import Held
    from .local.kv import KVPool

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


# Made here, not where it is used: two threads that come upon a type for the first time together crash msgspec.
read_said = msgspec.json.Decoder(Said).decode


@runtime_checkable
class Textual(Protocol):
    """A core's own snapshot which can do without that core."""

    def as_said(self) -> Said | None:
        """What was told so far; None where it is more than text."""


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
    num_switches: int = 0
    """How often its call was interrupted, so that somebody else got the slot."""
    note: Callable[[str], None] = lambda why: None
    """Takes what the trace is to say of how the call went on."""


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


@runtime_checkable
class SwapsOut(Protocol):
    """A core whose suspended generations may be moved out of its memory. It is told where to before it is opened."""

    contexts: Contexts


Tell = Callable[[Literal["ready", "restarting", "failed"], str | None], None]
"""A core's own word on how it is from now on, and why. Called on the event loop."""


def nobody(state: str, why: str | None) -> None:
    """The `Tell` of a core that stands alone."""


@runtime_checkable
class TellsState(Protocol):
    """A core that may break while it is open. It is given whom to tell before it is opened.

    "restarting": it takes nothing until it says "ready" again. "failed": it never will, and whoever hears that closes
    it. What ran inside has ended by then, or ends at once by itself.
    """

    tell: Tell


class Stored(Protocol):
    """A call's snapshot that an earlier run of the kernel has left. `core` is the core that it is of, "" if none."""

    @property
    def key(self) -> str: ...

    @property
    def core(self) -> str: ...


class Thawed(Protocol):
    """What is left of one: `arrays` is None when it is to be computed again, and `why` says why."""

    @property
    def state(self) -> bytes: ...

    @property
    def arrays(self) -> Sequence[NDArray[Any]] | None: ...

    @property
    def why(self) -> str | None: ...


class Contexts(Protocol):
    """Where an own core's suspended generations are while they do not run. Used on the event loop.

    One that was `put` has its room in the pool until others need it; after `take` it has it again.
    """

    def room(self, pool: KVPool, *, is_text: bool = False) -> int:
        """Bytes of `pool` that new generations may reserve, those included that suspended ones would make free."""

    def put(self, held: Held) -> None: ...

    async def take(self, held: Held, *, is_switch: bool = True) -> str | None:
        """It goes on. Says what was lost on the way, if anything was."""

    async def make_room(self, pool: KVPool, needed: int) -> None:
        """Make `needed` bytes of `pool` free, as far as suspended generations can be moved out of it."""

    def freed(self, pool: KVPool) -> None:
        """A generation that ran in `pool` is over."""

    def drop(self, held: Held) -> None:
        """It will not go on: free what it holds."""

    def part(self, held: Held) -> None:
        """It was broken off while it ran, and will not go on in this run of the kernel."""

    async def load(self, key: str, pool: KVPool, fingerprint: str, vocabulary: str) -> Thawed:
        """What an earlier run of the kernel left of call `key`. Raises ValueError when that is of no use."""

    async def admit(self, held: Held, arrays: Sequence[NDArray[Any]] | None) -> str | None:
        """Give `held`, which was made of what `load` gave, its room in its pool; as `take`."""

    def drop_stored(self, key: str) -> None:
        """What an earlier run left of call `key` is not needed."""

    def statistics(self, pool: KVPool) -> dict[str, Any]: ...

    def forget_pool(self, pool: KVPool) -> None:
        """`pool` is closed."""


@dataclass(frozen=True, slots=True)
class CoreInfo:
    """What people are told about a core. `state` is of its life (`roster.py`), `why` what brought it there. `active`
    calls have a slot; `left` have begun and are not over, interrupted ones included."""

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
    left: int = 0


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

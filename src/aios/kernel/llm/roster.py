"""The cores of a kernel and the state each is in, as a table of moves. Knows no call, no queue and no core's inside."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from aios.abi.calls import nearest
from aios.abi.errors import KernelFault, NotFound

from .base import Core


class CoreState(Enum):
    """Where a core is in its life. A `DRAINING` one ends what it began and is given nothing new; what a `RESTARTING`
    one began waits until it is back."""

    OPENING = "opening"
    READY = "ready"
    RESTARTING = "restarting"
    DRAINING = "draining"
    FAILED = "failed"
    CLOSED = "closed"

    __hash__ = object.__hash__


CORE_TRANSITIONS: dict[CoreState, frozenset[CoreState]] = {
    CoreState.OPENING: frozenset({CoreState.READY, CoreState.RESTARTING, CoreState.FAILED, CoreState.CLOSED}),
    CoreState.READY: frozenset({CoreState.DRAINING, CoreState.RESTARTING, CoreState.FAILED}),
    CoreState.RESTARTING: frozenset({CoreState.READY, CoreState.DRAINING, CoreState.FAILED}),
    CoreState.DRAINING: frozenset({CoreState.READY, CoreState.RESTARTING, CoreState.FAILED, CoreState.CLOSED}),
    CoreState.FAILED: frozenset({CoreState.CLOSED}),
    CoreState.CLOSED: frozenset(),
}
"""Which moves are legal. The diagram in ARCHITECTURE.md is drawn from this."""

HEARD: dict[CoreState, frozenset[CoreState]] = {
    CoreState.OPENING: frozenset(),
    CoreState.READY: frozenset({CoreState.RESTARTING, CoreState.FAILED}),
    CoreState.RESTARTING: frozenset({CoreState.READY, CoreState.FAILED}),
    CoreState.DRAINING: frozenset({CoreState.FAILED}),
    CoreState.FAILED: frozenset(),
    CoreState.CLOSED: frozenset(),
}
"""Which of a core's own words move it at once. The last of the others waits on its seat until it is to serve."""

AT_WORK = frozenset({CoreState.READY, CoreState.DRAINING})
"""States in which a core goes on with what it began."""
OPEN = AT_WORK | {CoreState.RESTARTING}
"""States in which a core is open, and has what it began."""


RATE_SECONDS = 10


class Rate:
    """Tokens a second, over about the last RATE_SECONDS whole seconds."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque(maxlen=RATE_SECONDS + 1)

    def add(self, tokens: int, now: float) -> None:
        second = int(now)
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1] = (second, self._seconds[-1][1] + tokens)
        else:
            self._seconds.append((second, tokens))

    def at(self, now: float) -> float:
        recent = [(second, tokens) for second, tokens in self._seconds if second > now - RATE_SECONDS]
        span = now - recent[0][0] if recent else 1.0
        return sum(tokens for _, tokens in recent) / max(1.0, span)


@dataclass(slots=True, eq=False)
class Seat:
    """A core's place in the kernel. `active` counts the calls that have a slot; only the manager changes it.

    `section` is what it was made of; None for one that was given ready made. `is_leaving`: it drains to be removed,
    `is_closing`: its core is told to close. `word` is what the core itself said last of how it is, and why.
    `is_down`: the last call it was given came back because of a fault, and none has ended well since.
    """

    core: Core
    section: Any = None
    state: CoreState = CoreState.OPENING
    why: str | None = None
    active: int = 0
    is_leaving: bool = False
    is_closing: bool = False
    word: tuple[CoreState, str | None] = (CoreState.READY, None)
    is_down: bool = False
    num_calls: int = 0
    num_refusals: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    spent: float | None = None
    """US dollars, where prices are known."""
    _rate: Rate = field(default_factory=Rate)

    @property
    def name(self) -> str:
        return self.core.name

    @property
    def has_room(self) -> bool:
        return self.active < self.core.slots

    def spoke(self, tokens: int, now: float) -> None:
        """A slice of a call brought so many tokens."""
        self.tokens_out += tokens
        self._rate.add(tokens, now)

    def ended(self, tokens_in: int, tokens_out: int, now: float, cost: float | None) -> None:
        """A call ended well; its last slice brought `tokens_out`, and it cost so many US dollars, if known."""
        if cost is not None:
            self.spent = (self.spent or 0.0) + cost
        self.num_calls += 1
        self.tokens_in += tokens_in
        self.spoke(tokens_out, now)

    def statistics(self, now: float) -> dict[str, int | float]:
        """What every core tells: calls that ended well, times it would not begin one, tokens, tokens a second, cost."""
        spent = {} if self.spent is None else {"spent_dollars": self.spent}
        return {
            **spent,
            "calls": self.num_calls,
            "refusals": self.num_refusals,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "tokens_per_second": round(self._rate.at(now), 1),
        }


OnMove = Callable[[Seat], None]


class Roster:
    """The seats by name, in the order in which they came. `on_move` hears of every change, after it."""

    def __init__(self) -> None:
        self._seats: dict[str, Seat] = {}
        self._listeners: list[OnMove] = []

    def add(self, core: Core, section: Any = None, why: str | None = None) -> Seat:
        """A seat for `core`, OPENING. The name must be free."""
        if core.name in self._seats:
            raise KernelFault(f"there is a core '{core.name}' already")
        seat = self._seats[core.name] = Seat(core, section, why=why)
        self._tell(seat)
        return seat

    def move(self, seat: Seat, state: CoreState, why: str | None = None) -> None:
        """The only way a core changes state; raises KernelFault off the table. A CLOSED one has left the roster."""
        if state not in CORE_TRANSITIONS[seat.state]:
            raise KernelFault(f"core '{seat.name}' cannot move from {seat.state.value} to {state.value}")
        seat.state, seat.why = state, why
        if state is CoreState.CLOSED:
            del self._seats[seat.name]
        self._tell(seat)

    def listen(self, listener: OnMove) -> None:
        self._listeners.append(listener)

    def _tell(self, seat: Seat) -> None:
        for listener in self._listeners:
            listener(seat)

    def get(self, name: str | None) -> Seat | None:
        return None if name is None else self._seats.get(name)

    def find(self, name: str) -> Seat:
        """The seat called `name`. Raises NotFound that names the nearest."""
        seat = self._seats.get(name)
        if seat is None:
            hint = nearest(name[:100], self._seats) or "; 'aios cores' lists them"
            raise NotFound(f"there is no core '{name[:100]}'{hint}", code="no_such_core", param="name")
        return seat

    def __iter__(self) -> Iterator[Seat]:
        return iter(self._seats.values())

    def __len__(self) -> int:
        return len(self._seats)

    def names(self) -> list[str]:
        return list(self._seats)

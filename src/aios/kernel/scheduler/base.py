"""What a scheduling policy is. Plain synchronous decisions: no clock, no I/O, no module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from ..syscall import Syscall

Slot = TypeVar("Slot")
"""A place that runs calls, as its runner knows it: a core's seat, or the name of a module's only pool."""

Fits = Callable[[Syscall], bool]
"""Whether the slot that asks can take this call now."""


class Policy(Protocol):
    """An order of waiting calls.

    A call is in the policy from `push` until `next` or `remove` takes it out; pushing it twice is the caller's bug.
    Every call that stays fitting is returned after a bounded number of `next`s (each policy states its bound).
    """

    def push(self, call: Syscall) -> None: ...

    def next(self, fits: Fits) -> Syscall | None:
        """Take out the first call in this policy's order that fits; None when none does."""

    def charge(self, call: Syscall, tokens: int) -> None:
        """`call` used `tokens` of a core. Called once a slice, before `should_yield`."""

    def quantum(self, call: Syscall) -> int | None:
        """Tokens until `call` must be asked again; None lets it run to its end."""

    def should_yield(self, call: Syscall, fits: Fits) -> bool:
        """Whether the running `call` must make room for one that waits and fits. False when nobody waits."""

    def remove(self, call: Syscall) -> bool:
        """Take `call` out if it waits. Returns whether it did."""

    def position(self, call: Syscall) -> int | None:
        """How many calls this policy would run before `call`, plus one; None when it does not wait here."""

    def __len__(self) -> int: ...

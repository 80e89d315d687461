"""What the journal says of a call, and what is on its way to be written. Knows no table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from aios.abi.calls import CALLS, Args, CallSpec
from aios.abi.errors import AiosError, BadRequest

from ..syscall import State, Syscall

Then = Callable[[AiosError | None], None]
KeyPlace = tuple[str, str, str]
"""Owner, agent and key: where a call with a key is found again."""
Answer = tuple[str, bytes | None, bytes | None]
"""State, result as JSON, error as JSON."""

OPEN, BEGIN, END = "open", "begin", "end"
"""Kinds of events, as the log has them."""

_canonical = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class Recorded:
    """A call with a key, as the journal knows it. `state` is None while it is open; then `result` or `error` is set.
    `opened` is seconds since 1970."""

    call_id: str
    name: str
    body_hash: bytes
    state: State | None = None
    result: Any = None
    error: AiosError | None = None
    opened: float = 0.0


@dataclass(frozen=True, slots=True)
class OpenRecord:
    """A call that was acknowledged and has no end. `opened` is seconds since 1970.

    Calls without a key have no `args`. `is_begun` says that a side effect was under way. `args` holds the seed that
    the kernel drew. `args` is None too when this kernel cannot read them any more.
    """

    call_id: str
    name: str
    pid: int
    opened: float
    is_begun: bool
    owner: str = ""
    agent: str = ""
    nice: int = 0
    key: str | None = None
    body_hash: bytes = b""
    args: Args | None = None

    @property
    def spec(self) -> CallSpec | None:
        return CALLS.get(self.name)


def body_hash(call: Syscall) -> bytes:
    """What tells two bodies under one key apart: the call's name and its arguments as they came."""
    try:
        return hashlib.sha256(call.spec.name.encode() + _canonical(call.args)).digest()
    except UnicodeEncodeError as error:
        raise BadRequest(f"the arguments hold text that is not valid Unicode: {error}", code="bad_arguments") from None


def place_of(call: Syscall) -> KeyPlace | None:
    return (call.process.owner, call.process.agent, call.key) if call.key is not None else None


class Node(NamedTuple):
    """A piece of arguments that is stored once."""

    hash: bytes
    parent: bytes | None
    body: bytes


class Keyed(NamedTuple):
    """What is written of a call with a key. An end without `answer` is not kept."""

    place: KeyPlace
    opening: tuple[Any, ...] = ()
    nodes: tuple[Node, ...] = ()
    answer: Answer | None = None


class Event(NamedTuple):
    """`is_spared`: it is written on a full disk too."""

    kind: str
    row: tuple[Any, ...]
    """Of an opening: (id, name, pid, opened, is_begun). Of all others: (id,)."""
    then: Then | None
    keyed: Keyed | None = None
    is_spared: bool = False


class Group:
    """The events of one commit. `is_last_try`: they were refused once, as the disk was full."""

    def __init__(self, events: list[Event] | None = None, *, is_last_try: bool = False) -> None:
        self.events: list[Event] = events or []
        self.is_last_try = is_last_try
        self.wall = 0.0
        """When it was written, in seconds since 1970."""
        self.touched: list[bytes] = []
        self.seq = 0

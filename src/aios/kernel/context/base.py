"""What a snapshot is, and what the context manager needs of those it works with. Knows no core, model, file or thread.

A stopped generation has two forms. Logits-based: its keys and values with all that was decided, which goes on with the
next token. Text-based: what was asked and said, which goes on once that is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Array = NDArray[Any]
Buffer = bytes | memoryview
Form = Literal["logits", "text"]


class SnapshotError(ValueError):
    """Bytes that are no snapshot, or a damaged one. `rest` is the text-based form, where that much is sound."""

    def __init__(self, message: str, rest: Snapshot | None = None) -> None:
        super().__init__(message)
        self.rest = rest


class About(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose snapshot it is. `fingerprint` names the engine that made it, `vocabulary` what its tokens mean."""

    key: str
    core: str
    fingerprint: str
    vocabulary: str


class Snapshot(Protocol):
    """A generation as it was stopped, on its own: it stays as it is, whatever becomes of its core.

    `state` is the core's own word for all that was asked, said and decided. The same parts come back from `read`.
    """

    @property
    def form(self) -> Form: ...

    @property
    def about(self) -> About: ...

    @property
    def state(self) -> bytes: ...

    @property
    def arrays(self) -> Sequence[Array] | None:
        """Keys and values, which only an engine of the same fingerprint may go on with; None in the text-based form."""

    @property
    def nbytes(self) -> int:
        """About as much as `parts` holds."""

    def parts(self) -> list[Buffer]:
        """As bytes, one part after the other. Takes a while for large ones: not for the event loop."""

    def as_text(self) -> Snapshot:
        """The text-based form of the same; of one that is, itself."""


class Pool(Protocol):
    """Where a core's engine keeps keys and values. `room` is bytes that nobody has reserved."""

    @property
    def room(self) -> int: ...


class Held(Protocol):
    """A stopped generation in its core's hands. `key` is its call's id. Used on the event loop only.

    `form` is how its core wants it kept when its keys and values must leave the pool.
    """

    @property
    def key(self) -> str: ...

    @property
    def core(self) -> str: ...

    @property
    def form(self) -> Form: ...

    @property
    def pool(self) -> Pool: ...

    @property
    def needs(self) -> int:
        """Bytes that it reserves in its pool while it is there."""

    @property
    def size(self) -> int:
        """Bytes of keys and values that would leave the pool with it."""

    def copying(self) -> Callable[[], list[Array]]:
        """What gives copies of its keys and values. Any thread may call it, while it runs too: for nothing, then."""

    def reopen(self, arrays: Sequence[Array] | None) -> Callable[[], None]:
        """Have room in the pool again, for what `copying` gave; without it, all is computed anew. What this returns
        puts `arrays` there, in any thread. MemoryError if the pool is full, ValueError when `arrays` do not fit."""

    def forget(self) -> None:
        """Give its room back and keep nothing of what was there."""

    @property
    def state(self) -> bytes:
        """What `Snapshot.state` is to be, and its engine's words for `About`."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def vocabulary(self) -> str: ...


@dataclass(frozen=True, slots=True)
class File:
    """A snapshot on disk: its name there, and the bytes that it takes."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A generation of an earlier run of the kernel, by its call's id, and the core that it belongs to; "" for one that
    any core of its model may go on with."""

    key: str
    core: str


@dataclass(frozen=True, slots=True)
class Thawed:
    """What is left of a stored generation: `arrays` is None when it must be computed anew, and `why` says why."""

    state: bytes
    arrays: Sequence[Array] | None
    why: str | None = None


@runtime_checkable
class SwapFault(Protocol):
    """The OSError of a `Swap`. `rest` is what could be read of a damaged file; `cause` is what the operating system
    said, None when the budget has no room."""

    rest: Buffer
    cause: OSError | None


class Swap(Protocol):
    """Bytes by key on disk, within a budget. Methods block, and may be called by any thread.

    A key is letters, digits and `._@-`. What was put is there, whole, or `get` raises. People are told of `folder`.
    """

    @property
    def folder(self) -> Path: ...

    def open(self, is_own: Callable[[str], bool]) -> Sequence[str]:
        """Look what is there; returns the names of files with a key that is not `is_own`, or with none. OSError when
        it cannot be used."""

    def put(self, key: str, parts: Iterable[Buffer]) -> int:
        """Keep `parts` under `key`; returns how many bytes that takes. OSError when it cannot be, a SwapFault: all is
        as before then."""

    def get(self, key: str) -> memoryview:
        """What was put. KeyError; OSError when it cannot be read whole, a SwapFault."""

    def drop(self, key: str) -> None:
        """Forget `key`, which need not be there."""

    def sizes(self) -> dict[str, int]:
        """Bytes by key."""

    @property
    def budget(self) -> int: ...


DTYPES = tuple(np.dtype(name) for name in ("<f4", "<f2", "<u2"))
"""Kinds of numbers that keys and values are kept in; half-precision ones without a type of NumPy's own as u2."""

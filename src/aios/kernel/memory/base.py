"""What memory needs of others, and bounds of an entry. Knows no table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import apsw

from ..database import Fault

Held = tuple[int | None, bytes, bytes | None]
"""Where a content is in the swap: what its row has to hold of it. The second is its end, as it is."""


class Evictor(Protocol):
    """Says which entry leaves first. Knows no clock: `now` is seconds that only grow. Every key that was touched and
    has not left since is among those that may leave; `len` counts them."""

    @property
    def size(self) -> int:
        """Bytes of memory that it takes for what it knows, Python's own included; keys of entries that are there are
        their owner's."""
        ...

    def __len__(self) -> int: ...

    def touched(self, key: int, size: int, now: float) -> None:
        """An entry of `size` bytes came in, or was used."""
        ...

    def victim(self, now: float) -> int:
        """The entry to leave, which is gone then; the policy may remember that it was there. Raises LookupError when
        there is none."""
        ...

    def removed(self, key: int) -> None:
        """The entry was forgotten by its owner, and so it is here, wherever it was."""
        ...


class Swap(Protocol):
    """Keeps contents on disk, those that begin alike once. `scope` is whose they are; scopes share nothing. Every
    method is part of a job on the store, so that a content and its entry are committed together."""

    def put(self, connection: apsw.Connection, scope: int, content: bytes) -> tuple[Held, int]:
        """Keep `content`: where it is, and the bytes that this took."""
        ...

    def get(self, connection: apsw.Connection, scope: int, held: Held) -> bytes:
        """Raises ModuleFault when it is not as it was put."""
        ...

    def keep(self, connection: apsw.Connection, tip: int | None) -> None:
        """One more row holds the content of that tip."""
        ...

    def drop(self, connection: apsw.Connection, tip: int | None) -> int:
        """One row fewer holds it; the bytes that this frees."""
        ...

    def check(self, connection: apsw.Connection, named: str) -> Iterator[Fault]:
        """`named` is a query for the tips that rows hold, each as often as it is."""
        ...

    def repair(self, connection: apsw.Connection, named: str) -> None:
        """Make its own counts right again. Rows whose content cannot be read are gone before."""
        ...


MAX_CONTENT = 1 << 20
"""Bytes of an entry's content."""
MAX_METADATA = 64 << 10
"""Bytes of JSON in an entry's metadata."""

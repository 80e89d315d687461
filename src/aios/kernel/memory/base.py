"""What memory needs of others, the terms of a search, and how entries are ranked by them. Knows no table."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
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


MAX_METADATA = 64 << 10
"""Bytes of JSON in an entry's metadata."""
MAX_TERMS = 64
"""Words of a query that are looked for; the rest of a longer one is ignored."""

_WORD = re.compile(r"\w+")


def terms_of(query: str) -> list[str]:
    """The words of `query`, each once. Everything else in it (operators, quotes, stars) separates words, no more."""
    return list(dict.fromkeys(_WORD.findall(query.casefold())))[:MAX_TERMS]


def bm25(num_entries: int, tallies: Sequence[Sequence[int]]) -> list[float]:
    """Okapi BM25 of entries that hold a term, among `num_entries` of one agent.

    A tally is an entry's number of words and its count of each term. The rarity of a term is that among this agent's
    entries: the engine's own measure counts everybody's, and so would tell one agent what others write about.
    """
    if not tallies:
        return []
    mean = sum(size for size, *_ in tallies) / len(tallies) or 1.0
    holders = [sum(count > 0 for count in column) for column in zip(*(counts for _, *counts in tallies), strict=True)]
    rarity = [math.log(1 + (num_entries - n + 0.5) / (n + 0.5)) for n in holders]
    return [
        sum(
            weight * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * size / mean))
            for weight, count in zip(rarity, counts, strict=True)
        )
        for size, *counts in tallies
    ]

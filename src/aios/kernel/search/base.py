"""The words of searching: what makes vectors, where a room keeps its texts, what is asked for, what is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import apsw
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Mode = Literal["hybrid", "keyword", "vector"]


class Embedder(Protocol):
    """Makes vectors of texts. `name` says which model does; with another name or `dimension` all texts are embedded
    anew. `dimension` is None until it is known. Two texts whose cosine is at most `floor` have nothing in common.
    `max_chars` of a text are read, the rest is cut off before; `batch` texts are embedded at once."""

    @property
    def name(self) -> str: ...

    @property
    def dimension(self) -> int | None: ...

    @property
    def floor(self) -> float: ...

    @property
    def max_chars(self) -> int: ...

    @property
    def batch(self) -> int: ...

    async def embed(self, texts: Sequence[str], *, is_urgent: bool = False) -> Sequence[NDArray[Any]]:
        """A vector of each text; at once, if somebody waits for it. Raises BadRequest for a text that it can never
        embed, ContextLengthExceeded for one that is too long, and any other AiosError for what may go by. Cancelling it
        stops the work."""


class Where(NamedTuple):
    """A condition on rows of a room's table, which is called `t` there, as SQL, and its bindings."""

    sql: str
    bindings: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Source:
    """A room's table, whose key is the integer `row`: later ones have higher rows, mostly. `texts` reads those of some
    rows, a few hundred at most, without those that are not there (any more).

    The others are SQL on a row of it: its column with the number of its scope, seconds since 1970 when it was made, and
    how important it is, from 0 to 1 or NULL."""

    table: str
    texts: Callable[[apsw.Connection, Sequence[int]], Mapping[int, str]]
    scope: str
    created: str = "0"
    importance: str = "NULL"


@dataclass(frozen=True)
class Meaning:
    """A query's vector, of length 1, and the number of the model that made it."""

    vector: F32
    model: int
    floor: float


@dataclass(frozen=True)
class Asked:
    """A search among rows that fulfil `where`. `recency` and `importance` are weights beside relevance, whose is 1.

    `mode` is what can be done: without a vector it is "keyword", and `why` says why there is none."""

    text: str
    k: int
    where: Where | None = None
    mode: Mode = "hybrid"
    recency: float = 0.0
    importance: float = 0.0
    meaning: Meaning | None = None
    why: str | None = None


class Hit(NamedTuple):
    """`score` compares hits of one search only."""

    row: int
    score: float

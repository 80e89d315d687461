"""Asks the embedder for vectors and knows which model makes them. Texts and queries go the same way. Knows no table.

What comes back is not trusted: a vector of another dimension, with numbers that are none, or that points nowhere, is
refused, and its text is found by its words only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from aios.abi.errors import BadRequest, ContextLengthExceeded, TimedOut, UpstreamFault

from ..clock import Clock
from ..database import Database
from .base import Embedder, Meaning
from .models import Model, model_of, newest_model
from .vectors import direction, fault_of, is_nowhere, packed

log = logging.getLogger("aios.search")
T = TypeVar("T")

QUERY_SECONDS = 2.0
"""So long a search waits for its query's vector."""
SHORTEST = 16
"""Characters that remain of a text at the least, when it is cut because it is too long."""


class Maker:
    """`open` it first. `model` is None until its dimension is known."""

    def __init__(self, database: Database, clock: Clock, embedder: Embedder) -> None:
        self.model: Model | None = None
        self.embedder = embedder
        self.num_made = self.num_refused = 0
        self._database = database
        self._clock = clock
        self._is_confirmed = False
        """Whether a vector of `model` was seen since the kernel started: what is behind a name may change meanwhile."""
        self._last_refusal = ""

    def open(self) -> None:
        """Look which model it was. Nothing is written: the disk may be full, and a home must open all the same."""
        name, dimension = self.embedder.name, self.embedder.dimension
        known = self._database.read(lambda c: newest_model(c, name))
        if known is not None and dimension in (None, known.dimension):
            self.model, self._is_confirmed = known, dimension is not None

    async def learn(self) -> Model:
        """The model, after asking for a vector if this run has seen none. Raises AiosError."""
        if not self._is_confirmed and self.embedder.dimension is not None:
            await self._is_of(self.embedder.dimension)
        elif not self._is_confirmed:
            await self._confirm(await self._asked(["What is the dimension of this?"]))
        if self.model is None:
            raise UpstreamFault(f"model '{self.embedder.name}' made no vector: {self._last_refusal}", code="no_vectors")
        return self.model

    async def vectors(self, texts: Sequence[str]) -> list[bytes | None]:
        """Packed, for each of `texts`; None where there is none and never will be. Raises AiosError for what may go
        by."""
        found = await self._asked(texts)
        await self._confirm(found)
        return [self._packed(vector) for vector in found]

    async def meaning(self, query: str) -> Meaning | None:
        """None for one that means nothing, and while no vectors of texts can be there. Raises AiosError when there is
        none of this query, or not soon."""
        if self.model is None:
            return None
        cut = query[: self.embedder.max_chars]
        (vector,) = found = await self._in_time(self._asked([cut], is_urgent=True))
        if vector is None:
            raise UpstreamFault(f"the query got no vector: {self._last_refusal}", code="no_vector")
        await self._confirm(found)
        if (why := fault_of(vector, self.model.dimension)) is not None:
            raise UpstreamFault(f"the query's vector is of no use: {why}", code="bad_vector")
        if is_nowhere(vector):
            return None
        return Meaning(direction(vector), self.model.number, self.embedder.floor)

    async def _asked(self, texts: Sequence[str], *, is_urgent: bool = False) -> list[NDArray[Any] | None]:
        """As the embedder makes them. Texts that it refuses together are given one by one, too long ones cut."""
        try:
            found = [np.asarray(vector) for vector in await self.embedder.embed(texts, is_urgent=is_urgent)]
        except BadRequest as error:
            half = len(texts) // 2
            if half:
                return await self._asked(texts[:half]) + await self._asked(texts[half:])
            if isinstance(error, ContextLengthExceeded) and len(texts[0]) >= 2 * SHORTEST:
                return await self._asked([texts[0][: len(texts[0]) // 2]], is_urgent=is_urgent)
            self._refuse(error.message)
            return [None]
        if len(found) != len(texts):
            raise UpstreamFault(
                f"model '{self.embedder.name}' made {len(found)} vectors of {len(texts)} texts", code="upstream_garbage"
            )
        return list(found)

    async def _confirm(self, vectors: Sequence[NDArray[Any] | None]) -> None:
        """With the first sound vector it is known which model this is."""
        if self._is_confirmed:
            return
        sound = (vector for vector in vectors if vector is not None and fault_of(vector, None) is None)
        if (first := next(sound, None)) is not None:
            await self._is_of(len(first))

    async def _is_of(self, dimension: int) -> None:
        name = self.embedder.name
        self.model = await self._database.run(lambda c: model_of(c, name, dimension))
        self._is_confirmed = True

    def _packed(self, vector: NDArray[Any] | None) -> bytes | None:
        if vector is None:
            return None
        why = fault_of(vector, self.model.dimension if self.model else None)
        if why is None and is_nowhere(vector):
            why = "all its numbers are 0, and so it points nowhere"
        if why is not None:
            self._refuse(f"its vector is of no use: {why}")
            return None
        self.num_made += 1
        return packed(vector)

    def _refuse(self, why: str) -> None:
        self.num_refused += 1
        if why != self._last_refusal:
            log.warning("a text is found by its words only, '%s' gives it no vector: %s", self.embedder.name, why)
        self._last_refusal = why

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        is_late = False

        def give_up() -> None:
            nonlocal is_late
            is_late = True
            task.cancel()

        timer = self._clock.call_later(QUERY_SECONDS, give_up)
        try:
            return await task
        except asyncio.CancelledError:
            if not is_late:
                raise
            why = f"model '{self.embedder.name}' made no vector of the query within {QUERY_SECONDS:g} s"
            raise TimedOut(why, code="no_vector") from None
        finally:
            timer.cancel()

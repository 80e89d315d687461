"""What cores that are somebody's servers have in common: whose they are, who is let in, what an answer becomes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from aios.abi.errors import AiosError

from ...config import CoreSection
from .connection import Response
from .faults import error_of
from .upstream import KeyHeaders, Upstream

T = TypeVar("T", covariant=True)


class Reader(Protocol[T]):
    """Of one answer. It has heard a stream to its end, or gets it in one piece."""

    def finish(self) -> T: ...

    def whole(self, data: bytes) -> T: ...


class RemoteCore:
    """Its server is asked through `_upstream`."""

    kind: str
    resume = "none"

    def __init__(
        self,
        section: CoreSection,
        headers_of: KeyHeaders,
        *,
        now: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.name = section.name
        self.model = section.model or section.name
        self.slots = section.slots
        self.context_length = section.context_length
        self._section = section
        self._upstream = Upstream(section, headers_of, now=now, rng=rng)

    def can_take(self, snapshot: Any, active: int = 0) -> bool:
        return active < self._upstream.pace.room

    def drop(self, snapshot: Any) -> None:
        """What was said is no burden."""

    def statistics(self) -> dict[str, Any]:
        return self._upstream.statistics()

    def _read(self, response: Response, reader: Reader[T]) -> T:
        """What came back, put together. Raises what a refusal, a cut stream or garbage means for the agent."""
        if response.status != 200:
            raise self._refusal(response)
        return reader.finish() if response.is_streamed else reader.whole(response.body)

    def _refusal(self, response: Response) -> AiosError:
        return error_of(self.name, self._upstream.key_source, response.status, response.body, response.headers)

    def _model_for(self, asked: str | None) -> str:
        """What the server is to call the model that was asked for."""
        return self._section.model or (asked if asked != self.name else None) or self.model

"""The runtime memory of processes that ask for one: recalls before a generation, keeps what was said after it.

Knows calls by their arguments and results; what is told and kept is decided in `recall.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from aios.abi.calls import Entries, LLMGenerate, MemSearch, MemWrite
from aios.abi.errors import AiosError, Cancelled, Stopping
from aios.abi.messages import Generation, MemoryReport, Message

from ..process import Place
from ..syscall import State, Syscall
from .recall import CANDIDATES, chosen, exchange, question, with_recalled

log = logging.getLogger("aios.memory")

RECENCY = 0.1
"""How much newness counts beside relevance: of two that fit alike, the newer."""
Search = Callable[[Syscall, MemSearch], Awaitable[Entries]]
"""Makes a search that a call needs first, in its process and with its rights."""


class Keeps(Protocol):
    """What runtime memory needs of the memory."""

    def keep(
        self, place: Place, entries: Sequence[MemWrite], once: str | None, then: Callable[[AiosError | None], None]
    ) -> None:
        """Write all or none of `entries`, under `once` not twice, and say how that went."""


class RuntimeMemory:
    """A step before a generation is queued (`wants`, `prepare`), and one after it (`ended`)."""

    why = "memory is asked what it holds"

    def __init__(self, search: Search, keeps: Keeps, *, tokens: int) -> None:
        self._search = search
        self._keeps = keeps
        self._tokens = tokens
        self._asked: dict[str, Sequence[Message]] = {}
        """What the agent said itself, by call, without what was recalled."""
        self._counts = {"recalls": 0, "recalled": 0, "failed": 0, "kept": 0, "lost": 0}

    def wants(self, call: Syscall) -> bool:
        return isinstance(call.args, LLMGenerate) and call.args.memory == "auto"

    async def prepare(self, call: Syscall) -> None:
        """Tell the model what fits the question, and note in `call.memory` what that was. A memory that cannot be
        asked keeps nobody from an answer: it is noted."""
        args: LLMGenerate = call.args
        self._asked[call.id] = args.messages
        call.memory = MemoryReport()
        query = question(args.messages)
        if not query or not self._tokens:
            return
        asked = MemSearch(query=query, k=CANDIDATES, until=call.opened or None, recency=RECENCY)
        self._counts["recalls"] += 1
        try:
            found = (await self._search(call, asked)).entries
        except (Cancelled, Stopping):
            raise
        except AiosError as error:
            log.warning("the memory of agent '%s' was not asked: %s", call.process.agent, error.message)
            self._counts["failed"] += 1
            call.memory = MemoryReport(is_failed=True)
            return
        told, tokens = chosen(found, args.messages, self._tokens)
        call.args = msgspec.structs.replace(args, messages=with_recalled(args.messages, told))
        call.memory = MemoryReport([entry.id for entry in told], tokens)
        self._counts["recalled"] += len(told)

    def ended(self, call: Syscall, then: Callable[[], None]) -> None:
        """Keep what was said, if there was an answer, and then call `then`, once in any case: an answer that was given
        is remembered."""
        asked = self._asked.pop(call.id, None)
        answered = call.state is State.DONE and isinstance(call.result, Generation)
        entries = exchange(asked, call.result.message) if asked is not None and answered else []
        if not entries:
            return then()
        place = Place(call.process.owner, call.process.agent)

        def kept(error: AiosError | None) -> None:
            self._counts["kept" if error is None else "lost"] += len(entries)
            if error is not None:
                log.warning("agent '%s' will not remember an exchange: %s", place.agent, error.message)
            then()

        self._keeps.keep(place, entries, call.id if call.key is not None else None, kept)

    def statistics(self) -> dict[str, int]:
        return dict(self._counts)

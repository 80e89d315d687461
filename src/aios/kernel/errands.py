"""Calls that the kernel makes itself: those that a call needs first, and vectors for searches. Knows no queue."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from aios.abi.calls import Args, Entries, LLMEmbed, LLMGenerate, MemSearch
from aios.abi.errors import NotFound
from aios.abi.messages import Embeddings, Generation

from .clock import Clock
from .config import Config, model_of
from .process import Principal, Process, ProcessTable
from .search import Asking
from .spaces import NOBODY
from .syscall import Syscall

BACKGROUND_NICE = 10
"""Of the kernel's own work that nobody waits for."""


class Models(Protocol):
    def knows(self, model: str) -> bool: ...
    def shortest_context(self, model: str) -> int | None: ...


class Calls(Protocol):
    """The kernel's door, from inside: no key is checked."""

    @property
    def llm(self) -> Models:
        """There once cores are; nothing is asked before."""

    @property
    def processes(self) -> ProcessTable: ...

    @property
    def clock(self) -> Clock: ...

    def begin(self, name: str, args: Args, process: Process, principal: Principal) -> Syscall:
        """Acknowledge and queue a call. A refusal raises at once."""

    async def wait(self, call: Syscall) -> Any: ...


class Errands:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    # ── what a call needs first ──

    async def ask(self, call: Syscall, args: LLMGenerate) -> Generation:
        """A generation that `call` needs first."""
        args = msgspec.structs.replace(args, window=args.window or "error", memory="off")
        result: Generation = await self._first(call, "llm_generate", args)
        return result

    async def search(self, call: Syscall, args: MemSearch) -> Entries:
        """A search of memory that `call` needs first."""
        result: Entries = await self._first(call, "mem_search", args)
        return result

    async def _first(self, call: Syscall, name: str, args: Args) -> Any:
        """In the process of `call`, and on its account."""
        process = call.process
        principal = call.principal or Principal(process.owner, process.agent, process.pid)
        return await self._calls.wait(self._calls.begin(name, args, process, principal))

    # ── vectors ──

    def embedder(self, config: Config) -> Asking | None:
        """What [search] embed_with names."""
        model = config.search.embed_with
        if model is None:
            return None
        name = next((f"{model} ({model_of(core)})" for core in config.core if core.name == model), model)
        return Asking(model, name, self._embed, lambda: self._calls.llm.shortest_context(model))

    async def _embed(self, args: LLMEmbed, is_urgent: bool) -> Embeddings:
        """Vectors on the kernel's own account. What nobody waits for gives way to everybody."""
        if not self._calls.llm.knows(str(args.model)):  # another model's vectors would be no use
            raise NotFound(f"[search] embed_with names '{args.model}', and there is no such model now", code="no_core")
        agent = "search" if is_urgent else "index"
        owner = Principal(NOBODY, agent, key_id=f"kernel/{agent}")
        process = self._calls.processes.implicit(owner, self._calls.clock.wall())
        process.nice = 0 if is_urgent else BACKGROUND_NICE
        result: Embeddings = await self._calls.wait(self._calls.begin("llm_embed", args, process, owner))
        return result

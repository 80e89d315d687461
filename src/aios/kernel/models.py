"""The models of one kernel: its cores, what their answers cost, where their stopped generations are, and which calls
ask for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aios.abi.errors import AiosError

from .clock import Clock
from .config import Config, CoreSection
from .context import ContextManager
from .llm import Core, LLMManager, Plug, Prices, Roster, Router, Seat, SwapsOut
from .llm.cores import make_core
from .llm.departing import Calls
from .open_calls import OpenCalls
from .scheduler import Queue
from .storage import Swap
from .syscall import Syscall
from .trace import Row, Trace


class Generations:
    """The calls that ask for a core, as those see them who plug cores in and out."""

    def __init__(
        self, calls: OpenCalls, queues: Mapping[str, Queue[Any]], abort: Callable[[Syscall, AiosError], None]
    ) -> None:
        self._calls = calls
        self._queues = queues
        self.abort = abort

    def open(self) -> list[Syscall]:
        return [call for call in self._calls if call.spec.module == "llm"]

    def restart(self, call: Syscall) -> None:
        self._queues["llm"].restart(call)

    def pump(self) -> None:
        self._queues["llm"].pump()


class Models:
    """`open` comes first, and `close` last."""

    def __init__(self, config: Config, home: Path, clock: Clock, trace: Trace, calls: Calls) -> None:
        self._config = config
        self._home = home
        self._clock = clock
        self._trace = trace
        settings, routes = config.context, config.router
        swap = Swap(home / "swap" / "context", settings.disk_bytes)
        self.contexts = ContextManager(swap, ram_bytes=settings.ram_bytes, now=clock.now)
        self.prices = Prices(config.price)
        roster = Roster()
        roster.listen(self._moved)
        router = Router(roster, routes.default, models=config.model, aliases=routes.aliases)
        self.llm = LLMManager(roster, router, clock.now, self.prices)
        self.cores = Plug(self.llm, self._make, calls)

    async def open(self, given: Mapping[str, Core] | None) -> None:
        """`given` replaces the cores of the configuration. One that cannot be opened is shown as failed, with the
        reason, and spares the others."""
        self.contexts.open()
        for each in self._config.core if given is None else map(self._prepared, given.values()):
            await self.cores.boot(each)

    async def close(self) -> None:
        try:
            await self.cores.close()
        finally:
            await self.contexts.close()

    def _make(self, section: CoreSection) -> Core:
        self.prices.know(section)
        return self._prepared(make_core(section, self._home))

    def _prepared(self, core: Core) -> Core:
        if isinstance(core, SwapsOut):
            core.contexts = self.contexts
        return core

    def _moved(self, seat: Seat) -> None:
        self._trace.add(Row(self._clock.now(), "", 0, "core", seat.state.value, seat.name, seat.why))

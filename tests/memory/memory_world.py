"""A memory room on a store of its own, called by agents named at will."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aios.abi.calls import CALLS, Args, BlockStat, Entries, Entry, MemList, MemRead, MemSearch, MemStat, MemWrite
from aios.kernel.config import MemorySection
from aios.kernel.database import Database
from aios.kernel.memory import MemoryManager
from aios.kernel.process import Principal, Process
from aios.kernel.search import Search
from aios.kernel.spaces import Spaces
from aios.kernel.storage import Segments
from aios.kernel.syscall import Syscall
from aios.testing import MockClock, until

NAMES = {spec.args: spec.name for spec in CALLS.values()}


class World:
    """`settings` may be set before a `restart`. `block` of `call` fills in the arguments' own."""

    def __init__(self, home: Path, settings: MemorySection | None = None, shared: tuple[str, ...] = ()) -> None:
        self.home = home
        self.clock = MockClock()
        self.num_calls = 0
        self.settings = settings or MemorySection()
        self.spaces = Spaces(shared)
        self.open()

    def open(self) -> None:
        self.database = Database.open(self.home / "aios.db")
        self.searching = Search(self.database, self.clock)
        swap, settings = Segments(), self.settings
        self.memory = MemoryManager(self.database, self.clock, swap, self.searching, self.spaces, settings)
        self.searching.take_up()

    def close(self) -> None:
        self.memory.check_integrity()
        self.memory.close()
        self.database.close()

    def restart(self) -> None:
        self.close()
        self.open()

    async def call(
        self,
        args: Args,
        agent: str = "a",
        owner: str = "o",
        *,
        key: str | None = None,
        id: str = "",
        is_admin: bool = False,
    ) -> Any:
        self.num_calls += 1
        process, principal = Process(1, agent, owner), Principal(owner, agent, is_admin=is_admin)
        id = id or f"call_{self.num_calls}"
        call = Syscall(id, CALLS[NAMES[type(args)]], args, process, 0.0, key, principal)
        self.memory.check(call)
        return await self.memory.run(call)

    async def write(self, content: str, agent: str = "a", **more: Any) -> str:
        return str((await self.call(MemWrite(content=content, **more), agent)).id)

    async def read(self, id: str, agent: str = "a", block: str | None = None) -> Entry:
        found: Entry = await self.call(MemRead(id=id, block=block), agent)
        return found

    async def search(self, query: str, k: int = 5, agent: str = "a", **more: Any) -> list[Entry]:
        return list((await self.call(MemSearch(query=query, k=k, **more), agent)).entries)

    async def list(self, agent: str = "a", **more: Any) -> Entries:
        found: Entries = await self.call(MemList(**more), agent)
        return found

    async def stat(self, agent: str = "a", block: str | None = None) -> BlockStat:
        found: BlockStat = await self.call(MemStat(block=block), agent)
        return found

    async def lines(self, agent: str = "a") -> tuple[list[str], bool]:
        return await self.memory.over_lines("o", agent, lambda lines, is_all: (list(lines), is_all))

    async def settle(self) -> None:
        """Until memory is down at its low marks."""
        await until(lambda: not self.memory._residents.must_shrink)
        self.memory.check_integrity()

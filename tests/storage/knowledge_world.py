"""A storage room whose files are read and found by what they say, with a folder that may be mounted."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from pathlib import Path
from typing import Any

from mount_world import MountWorld

from aios.abi.calls import Passage, Passages, StoRetrieve, StoWrite, Where
from aios.kernel.config import MountSection, StorageSection
from aios.kernel.database import Database
from aios.kernel.process import Place
from aios.kernel.search import Search
from aios.kernel.spaces import Spaces
from aios.kernel.storage import StorageManager
from aios.kernel.storage.knowledge import Knowledge


class KnowledgeWorld(MountWorld):
    """`rights` are what agents may do in shared mounts: (agent, call, mount)."""

    def __init__(self, place: Path) -> None:
        self.rights: set[tuple[str, str, str]] = set()
        self.asking: list[asyncio.Future[object]] = []
        super().__init__(place)

    def open(self, *, durable: bool = False, **settings: Any) -> None:
        self.database = Database.open(self.home / "aios.db", durable=durable)
        self.search = Search(self.database, self.clock)
        self.storage = StorageManager(
            self.database, self.home, self.clock, Spaces(), StorageSection(**settings), self.search, self._may
        )
        self.storage.open()
        self.search.take_up()

    def _may(self, agent: Place, call: str, mount: str) -> bool:
        return (agent.agent, call, mount) in self.rights

    @property
    def knowledge(self) -> Knowledge:
        return self.storage.knowledge

    async def end(self) -> None:
        await asyncio.gather(*self.asking)
        self.asking.clear()
        await self.knowledge.close()
        await self.search.close()
        await super().end()
        self.check()

    async def again(self, *sections: MountSection, **settings: Any) -> None:
        await super().again(*sections, **settings)
        await self.storage.keep_house()  # behind what is done at the start

    def check(self) -> None:
        assert self.search.check_integrity() == []
        self.database.check_integrity()

    async def put_bytes(self, path: str, data: bytes, agent: str = "a") -> None:
        """Write a file of any bytes."""
        await self.call(StoWrite(path=path, content=b64encode(data).decode(), encoding="base64"), agent)

    async def ask(self, query: str, agent: str = "a", k: int = 100, mode: Any = "keyword", **where: Any) -> Passages:
        args = StoRetrieve(query=query, k=k, mode=mode, where=Where(**where) if where else None)
        passages: Passages = await self.call(args, agent)
        return passages

    async def found(self, query: str, agent: str = "a", **more: Any) -> list[tuple[str, int]]:
        """Paths and versions, the best first."""
        return [(each.path, each.version) for each in (await self.ask(query, agent, **more)).passages]

    async def paths(self, query: str, agent: str = "a", **more: Any) -> list[str]:
        return sorted({path for path, _ in await self.found(query, agent, **more)})

    async def only(self, query: str, **more: Any) -> Passage:
        (passage,) = (await self.ask(query, **more)).passages
        return passage

    async def skipped(self, query: str = "x", **more: Any) -> dict[str, str]:
        return (await self.ask(query, **more)).skipped

    async def read(self) -> None:  # type: ignore[override]
        """Until what is read in the background is read."""
        while tasks := [each._task for each in self.knowledge._readers.values() if each._task is not None]:
            await asyncio.wait(tasks)
            await asyncio.sleep(0)

    @property
    def num_read(self) -> int:
        """Files whose newest version was read."""
        return self.count("readings JOIN files ON files.id = file", "readings.version = files.version AND state = 1")

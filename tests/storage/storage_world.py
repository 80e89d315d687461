"""A storage room on a home of its own, and contents for it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from aios.abi.calls import CALLS, Args, StoClear, StoList, StoRead, StoWrite
from aios.kernel.config import StorageSection
from aios.kernel.database import Database, Fault, kept, rows, value
from aios.kernel.process import Process
from aios.kernel.storage import StorageManager, check, mend
from aios.kernel.storage.chunker import Sizes
from aios.kernel.syscall import Syscall
from aios.testing import MockClock

NAMES = {spec.args: spec for spec in CALLS.values()}
IN_FILES = ((0, Sizes(70 << 10, 72 << 10, 100 << 10)),)
"""Sizes of chunks that are all files."""
LARGE = random.Random(0).randbytes(100_000).hex()


class World:
    """A storage room on a home of its own, called by agents named at will."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.clock = MockClock()
        self.num_calls = 0
        self.open()

    def open(self, *, durable: bool = False, **settings: Any) -> None:
        self.database = Database.open(self.home / "aios.db", durable=durable)
        self.storage = StorageManager(self.database, self.home, self.clock, settings=StorageSection(**settings))
        self.storage.open()
        self.store = self.storage._store

    def close(self) -> None:
        self.storage.close()
        self.database.close()

    def restart(self, *, durable: bool = False, **settings: Any) -> None:
        self.close()
        self.open(durable=durable, **settings)

    async def call(
        self, args: Args, agent: str = "a", owner: str = "o", *, key: str | None = None, id: str = ""
    ) -> Any:
        self.num_calls += 1
        process = Process(1, agent, owner)
        call = Syscall(id or f"call_{self.num_calls}", NAMES[type(args)], args, process, 0.0, key)
        self.storage.check(call)
        return await self.storage.run(call)

    async def write(self, path: str, content: str, agent: str = "a", **more: Any) -> int:
        return int((await self.call(StoWrite(path=path, content=content, **more), agent)).version)

    async def read(self, path: str, version: int | None = None, agent: str = "a") -> str:
        return str((await self.call(StoRead(path=path, version=version), agent)).content)

    async def names(self, path: str = "", agent: str = "a", **more: Any) -> list[str]:
        return [entry.path for entry in (await self.call(StoList(path=path, **more), agent)).entries]

    async def clear(self, path: str, agent: str = "a", **more: Any) -> int:
        return int((await self.call(StoClear(path=path, **more), agent)).count)

    def count(self, table: str, where: str = "TRUE") -> int:
        return int(self.database.read(lambda c: value(c, f"SELECT count(*) FROM {table} WHERE {where}")))

    def kept(self, agent: str = "a") -> tuple[int, int]:
        return tuple(self.database.read(lambda c: kept(c, "storage", "o", agent)))  # type: ignore[return-value]

    def faults(self) -> list[Fault]:
        """What 'aios fs check' finds in these tables."""
        return self.database.read(lambda c: list(check.check(c, self.store.blobs, is_served=False)))

    def repair(self) -> None:
        self.database.run_now(lambda c: mend.repair(c, self.store.blobs))
        self.database.read(lambda c: mend.remove_nobodys(c, self.store.blobs))

    def damage(self, sql: str, *bindings: Any) -> None:
        self.database.run_now(lambda c: rows(c, sql, bindings))

    def blobs(self) -> list[Path]:
        """The files of large chunks."""
        return [path for path in (self.home / "blobs").rglob("*") if path.is_file()]

    async def texts(self, owner: str = "o", agent: str = "a") -> tuple[dict[str, str], bool]:
        return await self.storage.over_texts(owner, agent, lambda texts, is_all: (dict(texts), is_all))

"""A storage room with a mounted folder, and others who change what is in it."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

from storage_world import World

from aios.abi.calls import MountInfo, StoHistory, StoMount, StoUnmount
from aios.kernel.config import MountSection
from aios.kernel.spaces import Scope
from aios.kernel.storage.blobs import Blobs
from aios.kernel.storage.check import check
from aios.kernel.storage.mounts.mount import Mount
from aios.testing import until

SHARED = ("", "")


class MountWorld(World):
    """The folder `top`, mounted for everybody as "docs". Nothing is heard of changes but by `changed`."""

    def __init__(self, place: Path, *, watch: bool = False) -> None:
        self.top = place / "top"
        self.top.mkdir()
        self.is_watched = watch
        (place / "home").mkdir()
        super().__init__(place / "home")

    async def begin(self, *sections: MountSection) -> None:
        await self.storage.mounts.open(sections)
        await self.quiet()

    async def begun(self, **settings: Any) -> MountWorld:
        await self.begin()
        await self.mount(**settings)
        return self

    async def mount(self, name: str = "docs", folder: Path | None = None, **more: Any) -> MountInfo:
        info: MountInfo = await self.call(StoMount(name=name, folder=str(folder or self.top), **more))
        await self.quiet()
        return info

    async def unmount(self, name: str = "docs", agent: str | None = None) -> None:
        await self.call(StoUnmount(name=name, agent=agent))

    async def end(self) -> None:
        await self.storage.mounts.close()

    async def again(self, *sections: MountSection, **settings: Any) -> None:
        """The kernel stops, and starts again."""
        await self.end()
        self.restart(**settings)
        await self.begin(*sections)

    def check_integrity(self) -> None:
        """As 'aios fs check' does."""
        self.database.check_integrity()
        blobs = Blobs(self.home / "blobs", durable=False)
        assert self.database.read(lambda c: list(check(c, blobs, is_served=False))) == []

    def mounted(self, name: str = "docs", whose: tuple[str, str] = SHARED) -> Mount:
        return self.storage.mounts.find(Scope(*whose, name))

    async def quiet(self) -> None:
        """Until all mounts have noted what they heard of."""
        for mount in list(self.storage.mounts._mounts.values()):
            while not mount.follower.is_idle:
                self.clock.advance(0.25)
                await asyncio.sleep(0)
                if (task := mount.follower._task) is not None:
                    await asyncio.wait((task,))
                    await asyncio.sleep(0)

    async def changed(self, *paths: str) -> None:
        """The system says so."""
        for path in paths:
            self.mounted().follower.hear(path)
        await self.quiet()

    async def heard(self, path: str) -> None:
        """Until the system has told of `path` by itself, and all is noted."""
        await until(lambda: path in self.mounted().follower._heard)
        await self.quiet()

    async def history(self, path: str) -> list[tuple[int, str | None]]:
        """Versions and their authors, the oldest first."""
        history = await self.call(StoHistory(path=path))
        return [(r.version, r.author) for r in reversed(history.revisions)]

    def text(self, path: str) -> str:
        return (self.top / path).read_text()

    def put(self, path: str, text: str) -> None:
        """Somebody outside writes a file, as programs do."""
        (self.top / path).parent.mkdir(parents=True, exist_ok=True)
        (self.top / path).write_text(text)

    def all_files(self) -> dict[str, str]:
        """What is in the folder."""
        return {
            str(Path(folder, name).relative_to(self.top)): Path(folder, name).read_text()
            for folder, _, names in os.walk(self.top)
            for name in names
        }


def large(seed: int, size: int = 300_000) -> str:
    return random.Random(seed).randbytes(size // 2).hex()

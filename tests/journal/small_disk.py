"""A disk of so many bytes, as SQLite and the reserve see it: a VFS that refuses to grow files beyond it."""

from __future__ import annotations

from itertools import count
from typing import Any

import apsw
import pytest

from aios.kernel.database import Database
from aios.kernel.database.reserve import NEEDED, SIZE, Reserve

_names = count(1)


class SmallDisk(apsw.VFS):
    """`free` may be set: somebody else fills the disk, or makes room on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
        self.name = f"small{next(_names)}"
        super().__init__(self.name, "")
        self.free = free
        self.has_reserve = False
        monkeypatch.setattr(Reserve, "take", self._take)
        monkeypatch.setattr(Reserve, "release", self._release)
        monkeypatch.setattr(Reserve, "is_held", property(lambda _: self.has_reserve, lambda _, __: None), raising=False)
        really_open = Database.open
        monkeypatch.setattr(Database, "open", lambda path, **more: really_open(path, vfs=self.name, **more))

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _File(self, name, flags)

    def grow(self, num_bytes: int) -> None:
        if num_bytes > self.free:
            raise apsw.FullError("database or disk is full")
        self.free -= num_bytes

    def _take(self) -> bool:
        if not self.has_reserve and self.free >= NEEDED:
            self.free -= SIZE
            self.has_reserve = True
        return self.has_reserve

    def _release(self) -> None:
        self.free += SIZE * self.has_reserve
        self.has_reserve = False


class _File(apsw.VFSFile):
    def __init__(self, disk: SmallDisk, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.grow(max(0, offset + len(data) - self.xFileSize()))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:
        self._disk.free += max(0, self.xFileSize() - size)
        super().xTruncate(size)

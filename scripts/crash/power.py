"""A machine whose power fails: what was not synced is lost, kept or torn, write by write, at random.

SQLite's files by a VFS, all others below the home by shims around `os`. For a process of one's own, which ends with it.
Names of new files are lost like their contents, until their folder was synced.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from . import renames

SECTOR = 512
"""Bytes that are written whole or not at all."""


class Power:
    """What is below `home`. `fail` ends the process."""

    def __init__(self, home: Path) -> None:
        self._home = os.path.realpath(home)
        self._lock = threading.RLock()
        self._undo: dict[str, list[tuple[int, bytes, int, bytes]]] = {}
        """By file, what was not synced: where, what was there, how long the file was, what was written."""
        self._names: set[str] = set()
        """Files whose names are in no synced folder."""

    def install(self) -> None:
        self._vfs = _Vfs(self)  # while it is referred to, SQLite has it
        for name, shim in (
            ("open", self._open),
            ("write", self._write),
            ("writev", self._write),
            ("fsync", self._fsync),
        ):
            setattr(os, name, _bound(shim, getattr(os, name)))
        os.rename = self._bound_rename(os.rename)
        renames.on_rename(self._rename)

    def fail(self, seed: str) -> None:
        draw = random.Random(seed)
        self._lock.acquire()  # for good: nobody writes any more
        for path, writes in sorted(self._undo.items()):
            _lose(path, writes, draw)
        for path in sorted(self._names):
            if draw.random() < 0.5:
                os.unlink(path)
        os._exit(0)

    def writing(self, path: str, at: int, data: bytes) -> None:
        """Before a write; the lock is held until it is done."""
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            file.seek(at)
            self._undo.setdefault(path, []).append((at, file.read(len(data)), size, data))

    def truncating(self, path: str, size: int) -> None:
        was = os.path.getsize(path)
        with open(path, "rb") as file:
            file.seek(size)
            self._undo.setdefault(path, []).append((size, file.read(), was, b""))

    def synced(self, path: str) -> None:
        self._undo.pop(path, None)
        self._names = {name for name in self._names if os.path.dirname(name) != path}

    # ── os ──

    def _open(self, really: Callable[..., int], path: Any, flags: int, *args: Any, **more: Any) -> int:
        with self._lock:
            name = os.path.abspath(os.fsdecode(os.fspath(path))) if more.get("dir_fd") is None else ""
            is_new = bool(flags & os.O_CREAT) and name.startswith(f"{self._home}/") and not os.path.exists(name)
            descriptor = really(path, flags, *args, **more)
            if is_new:
                self._names.add(name)
            return descriptor

    def _write(self, really: Callable[..., int], descriptor: int, data: Any) -> int:
        path = self._path(descriptor)
        if path is None:
            return really(descriptor, data)
        with self._lock:
            at = os.lseek(descriptor, 0, os.SEEK_CUR)
            self.writing(path, at, b"".join(data) if isinstance(data, list) else bytes(data))
            return really(descriptor, data)

    def _fsync(self, really: Callable[..., None], descriptor: int) -> None:
        really(descriptor)
        if (path := self._path(descriptor)) is not None:
            with self._lock:
                self.synced(path)

    def _rename(self, folder: int, name: bytes, to_folder: int, new: bytes, flags: int) -> int:
        """What was not synced of a file goes with it, by whatever name."""
        self.renaming(self._in(folder, name), self._in(to_folder, new))
        return 0

    def _bound_rename(self, really: Callable[..., None]) -> Callable[..., None]:
        def rename(name: Any, new: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
            self.renaming(self._in(src_dir_fd, name), self._in(dst_dir_fd, new))
            really(name, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

        return rename

    def renaming(self, path: str, new: str) -> None:
        """Of a file, before it is done; one that fails changes nothing that is not synced in these runs."""
        with self._lock:
            mine, others = self._undo.pop(path, None), self._undo.pop(new, None)
            if mine is not None:
                self._undo[new] = mine
            if others is not None and os.path.exists(path):
                self._undo[path] = others  # which it is if the two are exchanged, and else gone

    def _in(self, folder: int | None, name: Any) -> str:
        above = os.getcwd() if folder is None else os.readlink(f"/proc/self/fd/{folder}")
        return os.path.join(above, os.fsdecode(os.fspath(name)))

    def _path(self, descriptor: int) -> str | None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        return path if f"{path}/".startswith(f"{self._home}/") else None

    @property
    def lock(self) -> threading.RLock:
        return self._lock


def _bound(shim: Callable[..., Any], really: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **more: shim(really, *args, **more)


def _lose(path: str, writes: list[tuple[int, bytes, int, bytes]], draw: random.Random) -> None:
    """Take all of `writes` back, and then do some of them, or parts, again: in their order, but with gaps."""
    if not os.path.exists(path):
        return
    with open(path, "r+b") as file:
        for at, before, size, _ in reversed(writes):
            file.seek(at)
            file.write(before)
            file.truncate(size)
        for at, before, _, data in writes:
            if draw.random() < 0.5:
                continue
            if data:
                torn = draw.random() < 0.2
                file.seek(at)
                file.write(data[: draw.randrange(0, len(data) + 1, SECTOR)] if torn else data)
            elif before:
                file.truncate(at)


class _Vfs(apsw.VFS):
    def __init__(self, power: Power) -> None:
        self._below = apsw.vfs_names()[0]
        super().__init__("powered", self._below, makedefault=True)
        self._power = power

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _File(self._power, self._below, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, power: Power, below: str, name: Any, flags: list[int]) -> None:
        super().__init__(below, name, flags)
        self._power = power
        self._path = os.path.realpath(name.filename() if isinstance(name, apsw.URIFilename) else str(name))
        self._is_new_log = bool(flags[0] & apsw.SQLITE_OPEN_WAL)

    def xWrite(self, data: bytes, offset: int) -> None:
        with self._power.lock:
            self._power.writing(self._path, offset, bytes(data))
            super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:
        with self._power.lock:
            self._power.truncating(self._path, size)
            super().xTruncate(size)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        with self._power.lock:
            self._power.synced(self._path)
            if self._is_new_log:  # with its first sync, SQLite syncs the folder that it is in
                self._power.synced(os.path.dirname(self._path))
                self._is_new_log = False

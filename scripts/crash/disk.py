"""A disk whose n-th write, sync, rename or the like fails: SQLite's by a VFS, all others by shims around `os`.

For a process of one's own: nothing of it is taken back. Reads never fail. A write that fails is half done.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import apsw
import msgspec

from . import renames

FULL, BROKEN = errno.ENOSPC, errno.EIO
KINDS = (
    "db.write", "db.sync", "db.truncate",
    "file.open", "file.write", "file.fsync", "file.rename", "file.truncate", "file.mkdir", "file.unlink",
)  # fmt: skip
Manner = Literal["once", "every", "all"]
_NEEDS_ROOM = ("db.write", "file.open", "file.write", "file.truncate", "file.mkdir")
_BY_FD = {
    "write": "write", "writev": "write", "pwrite": "write", "fsync": "fsync", "fdatasync": "fsync",
    "ftruncate": "truncate", "posix_fallocate": "truncate",
}  # fmt: skip
_BY_PATH = {
    "open": "open", "rename": "rename", "replace": "rename", "link": "rename", "truncate": "truncate",
    "mkdir": "mkdir", "unlink": "unlink", "rmdir": "unlink",
}  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Plan(msgspec.Struct, frozen=True):
    """The `number`-th (from 1; 0: none) operation of the kind `what` fails with `error`. `then`: only that; or every
    `number`-th one; or from then on all that writes, on a full disk all that needs room. `armed`: before the boot."""

    what: str
    number: int
    error: int = FULL
    then: Manner = "once"
    armed: bool = False


class Disk:
    """What is below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._root = os.path.realpath(folder) + "/"
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._plan = Plan("", 0)
        self._is_armed = self._has_failed = False
        self._where: list[str] = []

    def install(self, plan: Plan) -> None:
        self._plan, self._is_armed = plan, plan.armed
        self._vfs = _Vfs(self)  # while it is referred to, SQLite has it
        apsw.Connection = _Connection
        for name, kind in _BY_FD.items():
            self._wrap(name, f"file.{kind}", lambda fd, *_, **__: self._is_ours(fd))
        for name, kind in _BY_PATH.items():
            self._wrap(name, f"file.{kind}", self._opens if name == "open" else self._concerns)
        renames.on_rename(self._fail_rename)

    def arm(self) -> None:
        with self._lock:
            self._counts.clear()
            self._is_armed = True

    def disarm(self) -> dict[str, Any]:
        """Whether the disk failed, where, and how many operations of each kind there were."""
        with self._lock:
            self._is_armed = False
            return {"failed": self._has_failed, "where": self._where[:3], "counts": dict(self._counts)}

    def fault(self, what: str, where: str) -> int | None:
        """The error that an operation has to fail with."""
        with self._lock:
            if not self._is_armed:
                return None
            self._counts[what] += 1
            plan = self._plan
            is_turn = what == plan.what and self._is_turn(self._counts[what])
            is_late = self._has_failed and plan.then == "all" and (plan.error != FULL or what in _NEEDS_ROOM)
            if not (is_turn or is_late):
                return None
            self._has_failed = True
            self._where.append(f"{what} {where}")
            return plan.error

    def _is_turn(self, count: int) -> bool:
        number = self._plan.number
        return count == number or (self._plan.then == "every" and number > 0 and count % number == 0)

    # ── os ──

    def _wrap(self, name: str, what: str, is_ours: Callable[..., bool]) -> None:
        really: Callable[..., Any] = getattr(os, name)

        def shim(*args: Any, **more: Any) -> Any:
            if not is_ours(*args, **more):
                return really(*args, **more)
            if (error := self.fault(what, self._shown(args[0]))) is None:
                return really(*args, **more)
            if what == "file.write":
                data = b"".join(args[1]) if name == "writev" else bytes(args[1])
                half = data[: len(data) // 2]
                really(args[0], [half] if name == "writev" else half, *args[2:])
            raise OSError(error, os.strerror(error), None if isinstance(args[0], int) else args[0])

        setattr(os, name, shim)

    def _fail_rename(self, folder: int, *_: Any) -> int:
        """The error of one that is no function of `os`."""
        return (self.fault("file.rename", self._path(folder)) or 0) if self._is_ours(folder) else 0

    def _opens(self, path: Any, flags: int, *args: Any, **more: Any) -> bool:
        return bool(flags & _WRITES) and self._concerns(path, **more)

    def _concerns(self, path: Any, *_: Any, **more: Any) -> bool:
        if isinstance(path, int):
            return self._is_ours(path)
        name, folder = os.fsdecode(os.fspath(path)), more.get("dir_fd", more.get("src_dir_fd"))
        if folder is not None and not name.startswith("/"):
            return self._is_ours(folder)
        return f"{os.path.realpath(os.path.dirname(os.path.abspath(name)))}/".startswith(self._root)

    def _is_ours(self, fd: int) -> bool:
        return f"{self._path(fd)}/".startswith(self._root)

    def _path(self, fd: int) -> str:
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            return ""

    def _shown(self, path: Any) -> str:
        return self._path(path) if isinstance(path, int) else os.fsdecode(os.fspath(path))


class _Vfs(apsw.VFS):
    """SQLite's files, from now on."""

    def __init__(self, disk: Disk) -> None:
        self._below = apsw.vfs_names()[0]
        super().__init__("failing", self._below, makedefault=True)
        self._disk = disk

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _File(self._disk, self._below, name, flags)


class _Connection(apsw.Connection):
    """SQLite says nothing of a log that it could not fold when it closes, since nothing is lost by that. A VFS in
    Python makes it an exception."""

    def close(self, force: bool = False) -> None:
        with contextlib.suppress(apsw.Error):
            super().close(force)


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, below: str, name: Any, flags: list[int]) -> None:
        super().__init__(below, name, flags)
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)

    def xWrite(self, data: bytes, offset: int) -> None:
        if (error := self._disk.fault("db.write", self._name)) is not None:
            super().xWrite(data[: len(data) // 2], offset)
            raise _error(error, apsw.SQLITE_IOERR_WRITE)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        if (error := self._disk.fault("db.sync", self._name)) is not None:
            raise _error(error, apsw.SQLITE_IOERR_FSYNC)
        super().xSync(flags)

    def xTruncate(self, size: int) -> None:
        if (error := self._disk.fault("db.truncate", self._name)) is not None:
            raise _error(error, apsw.SQLITE_IOERR_TRUNCATE)
        super().xTruncate(size)


def _error(error: int, code: int) -> apsw.Error:
    if error == FULL and code != apsw.SQLITE_IOERR_FSYNC:
        return apsw.FullError("database or disk is full")
    failed = apsw.IOError("disk I/O error")
    failed.result, failed.extendedresult = apsw.SQLITE_IOERR, code
    return failed

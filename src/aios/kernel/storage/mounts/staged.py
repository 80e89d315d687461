"""A content on its way into a mounted folder: written beside its place, then renamed into it. Knows no version."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat as st
from collections.abc import Callable
from contextlib import AbstractContextManager
from threading import Lock
from typing import NamedTuple

from aios.abi.errors import Conflict, NotFound

from .exchange import exchange, rename_new
from .faults import Changed, is_folder, told
from .naming import find_name, readable

_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
MAX_INTEGER = 2**63 - 1
"""What the store can hold; some file systems number files with 64 bits."""


class Signature(NamedTuple):
    """What a file looks like without being read. Another file, or another content, has another."""

    size: int
    modified: int
    """Nanoseconds since 1970, as `changed`, which no program can set."""
    changed: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> Signature:
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & MAX_INTEGER)


class Staged:
    """Ends with `commit` or `discard`. Methods block."""

    def __init__(
        self, path: str, folder: int, above: Callable[[], AbstractContextManager[tuple[int, str]]], *, durable: bool
    ) -> None:
        """Takes over the descriptor `folder`, where the file is to be; `above` finds that again, and the name in it."""
        self._path = path
        self._folder = folder
        self._above = above
        self._durable = durable
        self._lock = Lock()
        """A write that hangs, and whoever gives it up, are two threads."""
        self._part = f".aios-{secrets.token_hex(8)}.part"
        try:
            with told(path):
                self._file: int | None = os.open(self._part, _MAKE, 0o666, dir_fd=folder)
        except BaseException:
            os.close(folder)
            raise

    def write(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        with self._lock, told(self._path):
            assert self._file is not None
            while left:
                left = left[os.write(self._file, left) :]

    def inode(self) -> int:
        """Of the file, which it keeps when it is renamed."""
        assert self._file is not None
        return Signature.of(os.fstat(self._file)).inode

    def commit(self, expected: Signature | None) -> Signature:
        """Put it into its place, if what is there looks as `expected` (None: if nothing is there); what it looks like
        now. Raises Changed otherwise, and then may be said again with what was seen by a second look."""
        try:
            with self._lock, self._above() as (folder, name):
                if _inode(folder) != _inode(self._folder):  # the folder was moved, and another is in its place
                    raise Changed
                return self._rename(find_name(folder, name), name, expected)
        except NotFound:  # the folder above is gone
            raise Changed from None

    def _rename(self, there: str | None, name: str, expected: Signature | None) -> Signature:
        assert self._file is not None
        self._check(there, expected)
        if self._durable:
            os.fsync(self._file)
        if there is None or expected is None:
            try:
                rename_new(self._part, name, self._folder, self._folder)
            except FileExistsError:
                raise Changed from None
            self._part = ""
        else:
            self._replace(there, expected)
        if self._durable:
            with readable(self._folder) as folder:
                os.fsync(folder)
        signature = Signature.of(os.fstat(self._file))
        self._close()
        return signature

    def _replace(self, there: str, expected: Signature) -> None:
        """What is replaced gets our name, so that it can be looked at once more before it goes."""
        if not exchange(self._part, there, self._folder):
            os.rename(self._part, there, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            self._part = ""
            return
        found = Signature.of(os.stat(self._part, dir_fd=self._folder, follow_symlinks=False))
        if found._replace(changed=0) != expected._replace(changed=0):  # another name is a change too
            exchange(self._part, there, self._folder)
            raise Changed

    def _check(self, there: str | None, expected: Signature | None) -> None:
        """Whether what is to be replaced is what the caller knows of. Its mode stays."""
        assert self._file is not None
        if there is None:
            if expected is not None:
                raise Changed
            return
        found = os.stat(there, dir_fd=self._folder, follow_symlinks=False)
        if is_folder(self._path, found):
            raise Conflict(f"'{self._path}' is a folder; a file needs another name", code="path_exists", param="path")
        if Signature.of(found) != expected:
            raise Changed
        os.fchmod(self._file, st.S_IMODE(found.st_mode) & 0o777)
        mine = os.fstat(self._file)
        if (mine.st_uid, mine.st_gid) != (found.st_uid, found.st_gid):
            with contextlib.suppress(PermissionError):  # only root may give a file away
                os.fchown(self._file, found.st_uid, found.st_gid)

    def discard(self) -> None:
        """Leave nothing behind. May be said twice, and after `commit`."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._file is None:
            return
        os.close(self._file)
        self._file = None
        with contextlib.suppress(OSError):
            if self._part:
                os.unlink(self._part, dir_fd=self._folder)
        os.close(self._folder)


def _inode(folder: int) -> tuple[int, int]:
    found = os.fstat(folder)
    return found.st_dev, found.st_ino

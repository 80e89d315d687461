"""Space that is set aside on the home's disk, so that what makes room can be written when the disk is full.

A deletion writes before it frees. Without the reserve a full disk would stay full for good: nothing could be cleared.
Knows no database.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

SIZE = 16 << 20
"""Bytes. As much as the log holds before it is folded into the file, so that it can be folded on a full disk too."""
NEEDED = SIZE + (1 << 20)
"""Bytes that must be free before the reserve is taken: some are left for what is to be written."""
_STEP = bytes(1 << 20)


class Reserve:
    """A file whose only worth is its space. `is_held` is False while that is given to those who make room."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_held = False

    def take(self) -> bool:
        """Set the space aside if the disk has it; a disk that cannot even be asked has none."""
        try:
            self.is_held = self._take()
        except OSError:
            self.is_held = False
        return self.is_held

    def _take(self) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            return _holds(descriptor) or (_has_room(self._path.parent) and _fill(descriptor))
        finally:
            os.close(descriptor)

    def release(self) -> None:
        """Give the space to those who make room."""
        self.is_held = False
        with contextlib.suppress(OSError):
            os.truncate(self._path, 0)


def _holds(descriptor: int) -> bool:
    status = os.fstat(descriptor)
    return status.st_size >= SIZE and status.st_blocks * 512 >= SIZE


def _has_room(folder: Path) -> bool:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize >= NEEDED


def _fill(descriptor: int) -> bool:
    try:
        _allocate(descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
        return False
    return True


def _allocate(descriptor: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(descriptor, 0, SIZE)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
    for at in range(0, SIZE, len(_STEP)):
        os.pwrite(descriptor, _STEP, at)

"""Renames that overwrite nothing by mistake, as Linux has them (renameat2). Knows no file but by folder and name.

Where the system or the disk does not know them, they are a look and then a rename, with a moment in between.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Callable

NOREPLACE, EXCHANGE = 1, 2
UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
"""What disks say that do not know such renames."""


def rename_new(name: str, new: str, folder: int, to_folder: int) -> None:
    """Raises FileExistsError when something is called `new`."""
    if not _renamed(name, new, folder, to_folder, NOREPLACE):
        try:
            os.stat(new, dir_fd=to_folder, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, new, src_dir_fd=folder, dst_dir_fd=to_folder)
        else:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def exchange(name: str, other: str, folder: int) -> bool:
    """Give two files each other's names. False if that cannot be done here; then nothing was."""
    return _renamed(name, other, folder, folder, EXCHANGE)


def _renamed(name: str, new: str, folder: int, to_folder: int, flags: int) -> bool:
    rename = _renameat2()
    if rename is None:
        return False
    if rename(folder, os.fsencode(name), to_folder, os.fsencode(new), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in UNKNOWN:
        return False
    raise OSError(code, os.strerror(code))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None

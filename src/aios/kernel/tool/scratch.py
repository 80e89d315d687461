"""A worker's own folder: made, owned for as long as one lives who needs it, taken away. Knows no process and no tool.

Whoever made a folder holds a lock on it, and so does a process that inherits the descriptor. The system lets go of the
lock when the last of them has ended, in whatever way. So a folder without a lock is nobody's, and `sweep` takes it
away; numbers of processes, which are given out again and differ from container to container, tell nothing here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile

PREFIX = "aios-worker-"


def make() -> tuple[str, int]:
    """A new empty folder, and the descriptor that owns it. Raises OSError."""
    while True:
        folder = tempfile.mkdtemp(prefix=PREFIX)
        try:
            return folder, _lock(folder, fcntl.LOCK_SH)
        except (BlockingIOError, FileNotFoundError):
            continue  # a sweep came between: it takes away what it found without an owner


def remove(folder: str) -> None:
    """Take away `folder` with all in it, as far as that can be done. Nobody may be writing there any more."""
    _open_up(folder)
    for parent, names, _ in os.walk(folder):
        for name in names:
            _open_up(os.path.join(parent, name))
    shutil.rmtree(folder, ignore_errors=True)


def _open_up(folder: str) -> None:
    """A tool may have locked its own user out."""
    if not os.path.islink(folder):
        with contextlib.suppress(OSError):
            os.chmod(folder, 0o700)


def sweep() -> None:
    """Take away the folders of this user that have no owner: of a kernel that was killed with its keepers."""
    for folder in _found():
        try:
            lock = _lock_shut(folder)
        except OSError:
            continue  # it has an owner, or whether it has one cannot be known
        remove(folder)
        os.close(lock)


def _lock_shut(folder: str) -> int:
    """The lock on a folder that its tool may have locked. Raises OSError."""
    try:
        return _lock(folder, fcntl.LOCK_EX)
    except PermissionError:
        _open_up(folder)
        return _lock(folder, fcntl.LOCK_EX)


def _found() -> list[str]:
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        return [entry.path for entry in entries if entry.name.startswith(PREFIX) and _is_ours(entry)]
    return []


def _is_ours(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.stat(follow_symlinks=False).st_uid == os.getuid()
    except FileNotFoundError:
        return False


def _lock(folder: str, kind: int) -> int:
    """A descriptor with a lock on the folder at this path. Raises OSError: it is locked by another, or not there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        os.lstat(folder)  # the lock is of use only if nobody took the folder away before it was had
    except OSError:
        os.close(descriptor)
        raise
    return descriptor

"""A home's folder, and the lock that says one kernel runs on it. Knows no database."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from aios.abi.errors import AiosError


class HomeError(AiosError):
    """The home cannot be used: one sentence that says why and what to do."""

    status, fault, type, default_code = 500, "kernel", "server_error", "home_unusable"


def make_home(path: Path) -> None:
    """The folder of `path`, private to its user, and an empty file in it. Raises HomeError."""
    home = path.parent
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise HomeError(
            f"the home {home} cannot be written ({error.strerror}): make it writable, or set AIOS_HOME to a folder "
            "that is",
            code="home_not_writable",
        ) from None


_taken: set[Path] = set()


class HomeLock:
    """Says that one kernel runs on this home. A lock of the process: children do not inherit it, kill -9 frees it."""

    def __init__(self, home: Path, descriptor: int) -> None:
        self._home = home
        self._descriptor = descriptor

    @classmethod
    def take(cls, home: Path) -> HomeLock:
        """Raises HomeError that names the process which holds it."""
        home = home.resolve()
        if home in _taken:
            # Not opened again: closing any descriptor of the file would free this process's lock.
            raise _is_taken(home, os.getpid())
        try:
            descriptor = os.open(home / "kernel.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _lock(home, descriptor)
        except OSError as error:
            raise HomeError(
                f"the home {home} cannot be locked ({error.strerror}): make it writable, or set AIOS_HOME to a "
                "folder that is",
                code="home_not_writable",
            ) from None
        _note(descriptor, f"{os.getpid()}\n")
        _taken.add(home)
        return cls(home, descriptor)

    def free(self) -> None:
        if self._home in _taken:
            _taken.discard(self._home)
            _note(self._descriptor, "")
            os.close(self._descriptor)


def _lock(home: Path, descriptor: int) -> None:
    """Take the lock, or close the file and raise: HomeError when another has it, OSError when nobody can."""
    is_locked = False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_locked = True
    except (BlockingIOError, PermissionError):
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
        raise _is_taken(home, int(holder) if holder.isdigit() else 0) from None
    finally:
        if not is_locked:
            os.close(descriptor)


def _note(descriptor: int, holder: str) -> None:
    """Say in the file who has it: a help to people. What a full disk does not take is left out: the lock holds."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)


def _is_taken(home: Path, pid: int) -> HomeError:
    return HomeError(
        f"another kernel (process {pid or 'unknown'}) already runs on {home}: use that one, stop it with 'aios down', "
        "or set AIOS_HOME to another folder",
        code="home_in_use",
    )

"""The lock of a home: whoever could not open it leaves nothing behind that keeps the next one out."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aios.kernel import Config, Kernel
from aios.kernel.database import Database, HomeError
from aios.kernel.journal import Journal
from aios.testing import booted

pytestmark = pytest.mark.anyio

TAKE = (
    "import sys, pathlib; from aios.kernel.database.home import HomeLock\n"
    "HomeLock.take(pathlib.Path(sys.argv[1])).free(); print('taken')"
)


def is_free(home: Path) -> bool:
    """Whether another process can take the lock."""
    done = subprocess.run([sys.executable, "-c", TAKE, str(home)], capture_output=True, text=True, check=False)
    return done.stdout == "taken\n"


def failing(number: int) -> Any:
    def fails(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fails


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "the disk that holds it is full; free some space"),
        (errno.EROFS, "Read-only file system.*writable"),
    ],
)
def test_a_home_that_failed_to_open_is_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("aios.kernel.database.database.migrate", failing(number))
        with pytest.raises(HomeError, match=says) as caught:
            Database.open(tmp_path / "aios.db")
        assert "\n" not in caught.value.message
    assert is_free(tmp_path)
    Database.open(tmp_path / "aios.db").close()


def test_a_home_is_free_again_whatever_kept_it_from_being_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("aios.kernel.database.database.migrate", broken)
        with pytest.raises(RuntimeError):
            Database.open(tmp_path / "aios.db")
    assert is_free(tmp_path)


def test_a_disk_that_does_not_take_the_holders_name_does_not_keep_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.open(tmp_path / "aios.db")
    database.close()
    for name in ("ftruncate", "pwrite"):
        with monkeypatch.context() as patch:
            patch.setattr(f"aios.kernel.database.home.os.{name}", failing(errno.ENOSPC))
            database = Database.open(tmp_path / "aios.db")
            with pytest.raises(HomeError, match="already runs on"):
                Database.open(tmp_path / "aios.db")
            database.close()
        assert is_free(tmp_path)


def test_a_home_that_nobody_can_lock_is_not_said_to_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "lockf", failing(errno.ENOLCK))
        with pytest.raises(HomeError, match="cannot be locked") as caught:
            Database.open(tmp_path / "aios.db")
        assert caught.value.code == "home_not_writable"
    Database.open(tmp_path / "aios.db").close()


async def test_a_kernel_that_fails_to_take_up_its_calls_leaves_the_home_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "recover", failing(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            await Kernel.boot(Config(), tmp_path, cores={})
    async with booted(home=tmp_path):
        pass

"""The folders of workers: one is taken away when nobody owns it any more, and never before."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from aios.kernel.tool import scratch


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_swept_when_its_last_owner_has_gone(temp: Path) -> None:
    folder, owner = scratch.make()
    Path(folder, "kept").touch()
    heir = os.dup(owner)  # as a process that inherits it has it
    os.close(owner)
    scratch.sweep()
    assert os.listdir(folder) == ["kept"]
    os.close(heir)
    scratch.sweep()
    assert os.listdir(temp) == []


def test_what_a_tool_locked_away_is_removed_and_what_it_points_at_is_not(temp: Path) -> None:
    folder, owner = scratch.make()
    outside = temp / "outside"
    outside.mkdir(mode=0o500)
    Path(folder, "link").symlink_to(outside)
    Path(folder, "locked", "inner").mkdir(parents=True)
    Path(folder, "locked").chmod(0)
    scratch.remove(folder)
    os.close(owner)
    assert os.listdir(temp) == ["outside"]
    assert outside.stat().st_mode & 0o777 == 0o500


def test_a_folder_that_its_tool_had_locked_is_swept_too(temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, owner = scratch.make()
    os.close(owner)
    Path(folder, "kept").touch()
    Path(folder).chmod(0)
    really_open = os.open

    def as_a_user(path: str, *flags: Any, **more: Any) -> int:
        if not os.stat(path).st_mode & 0o400:
            raise PermissionError(errno.EACCES, "Permission denied")  # as all but root hear
        return really_open(path, *flags, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", as_a_user)
        scratch.sweep()
    assert os.listdir(temp) == []


def test_a_sweep_leaves_alone_what_is_no_workers_folder_of_this_user(
    temp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temp / "other").mkdir()
    (temp / f"{scratch.PREFIX}file").touch()
    (temp / f"{scratch.PREFIX}link").symlink_to(temp / "other")
    scratch.sweep()
    stranger = temp / f"{scratch.PREFIX}stranger"
    stranger.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: stranger.stat().st_uid + 1)
    scratch.sweep()
    assert len(os.listdir(temp)) == 4


@pytest.mark.parametrize("moment", ["before the lock", "at the lock"])
def test_a_folder_that_is_swept_while_it_is_made_is_made_again(
    temp: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Another kernel sweeps between the folder's making and its lock; or it has the lock already."""
    real, made, sweepers = tempfile.mkdtemp, [], []

    def watched(**more: Any) -> str:
        folder = real(**more)
        made.append(folder)
        if len(made) > 1:
            return folder
        if moment == "before the lock":
            scratch.sweep()
        else:
            sweepers.append(os.open(folder, os.O_RDONLY))
            fcntl.flock(sweepers[0], fcntl.LOCK_EX)
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", watched)
    folder, owner = scratch.make()
    assert made == [made[0], folder]
    assert Path(folder).is_dir()
    for each in (owner, *sweepers):
        os.close(each)


def test_a_lock_that_was_had_too_late_is_no_owner(temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep takes the folder away between its opening and its lock."""
    real, opened = os.open, []

    def slow(path: str, flags: int, *rest: Any, **more: Any) -> int:
        descriptor = real(path, flags, *rest, **more)
        if not opened:
            opened.append(path)
            scratch.sweep()
        return descriptor

    monkeypatch.setattr(os, "open", slow)
    folder, owner = scratch.make()
    assert folder != opened[0]
    assert Path(folder).is_dir()
    os.close(owner)

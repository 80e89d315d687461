"""What is changed in a folder by others is heard, below links nothing is, and dropped events are told."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aios.kernel.storage.mounts import watch, watchfiles_watch
from aios.kernel.storage.mounts.watch import Inotify
from aios.kernel.storage.mounts.watchfiles_watch import Watchfiles
from aios.testing import settle, until

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify is Linux's")]


class Ear:
    """Shows folders to a watch, and keeps what it hears."""

    def __init__(self, top: Path, kind: type[Inotify] | type[Watchfiles]) -> None:
        self.top = top
        self.watch = kind()
        self.heard: set[str] = set()
        self.new_folders: list[str] = []
        self.num_lost = 0
        self.watch.listen("mount", str(top), self._hear, self._lose)

    def show(self, path: str = "") -> bool:
        descriptor = os.open(self.top / path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return self.watch.add("mount", path, descriptor)
        finally:
            os.close(descriptor)

    async def begun(self) -> None:
        """Until it hears."""

        def is_heard() -> bool:
            (self.top / ".begun").touch()
            return ".begun" in self.heard

        await until(is_heard)
        self.heard.clear()

    def _hear(self, path: str, is_new_folder: bool) -> None:
        self.heard.add(path)
        if is_new_folder:
            self.new_folders.append(path)

    def _lose(self) -> None:
        self.num_lost += 1


@pytest.fixture
async def ear(tmp_path: Path) -> AsyncIterator[Ear]:
    (tmp_path / "top" / "sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    ear = Ear(tmp_path / "top", Inotify)
    yield ear
    ear.watch.close()


@pytest.fixture(params=[Inotify, Watchfiles])
async def any_ear(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Ear]:
    (tmp_path / "top" / "sub").mkdir(parents=True)
    ear = Ear(tmp_path / "top", request.param)
    ear.show()
    ear.show("sub")
    await ear.begun()
    yield ear
    ear.watch.close()


async def test_whatever_watches_what_comes_changes_moves_and_goes_is_heard_of(any_ear: Ear) -> None:
    ear = any_ear
    (ear.top / "new").write_text("x")
    (ear.top / "sub" / "é").write_text("x")
    await until(lambda: {"new", "sub/é"} <= ear.heard)
    ear.heard.clear()
    (ear.top / "sub" / "é").rename(ear.top / "moved")
    (ear.top / "new").unlink()
    (ear.top / "folder").mkdir()
    await until(lambda: {"new", "sub/é", "moved"} <= ear.heard and "folder" in ear.new_folders)
    assert not [path for path in ear.heard if path.startswith(("/", ".."))]
    ear.watch.drop("mount")
    ear.heard.clear()
    (ear.top / "after").touch()
    await settle()
    assert ear.heard == set()


async def test_a_large_batch_of_watchfiles_and_what_it_cannot_name_count_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchfiles_watch, "LARGE", 10)
    ear = Ear(tmp_path, Watchfiles)
    await ear.begun()
    for n in range(30):
        (tmp_path / str(n)).touch()
    await until(lambda: ear.num_lost)
    before = ear.num_lost
    (tmp_path / os.fsdecode(b"\xff\xfe")).touch()
    await until(lambda: ear.num_lost > before)
    ear.watch.close()


async def test_files_that_come_change_move_and_go_are_heard_of(ear: Ear) -> None:
    assert ear.show()
    assert ear.show("sub")
    (ear.top / "new").write_text("x")
    (ear.top / "sub" / "é").write_text("x")
    await until(lambda: ear.heard == {"new", "sub/é"})
    ear.heard.clear()
    with (ear.top / "new").open("a") as file:
        file.write("more")
    (ear.top / "sub" / "é").rename(ear.top / "moved")
    await until(lambda: ear.heard == {"new", "sub/é", "moved"})
    ear.heard.clear()
    (ear.top / "moved").unlink()
    os.link(ear.top / "new", ear.top / "again")
    await until(lambda: ear.heard == {"moved", "again"})


async def test_a_new_folder_is_told_as_one_and_what_is_in_it_once_it_is_shown(ear: Ear) -> None:
    ear.show()
    (ear.top / "fresh").mkdir()
    await until(lambda: ear.new_folders == ["fresh"])
    ear.show("fresh")
    (ear.top / "fresh" / "a").touch()
    await until(lambda: "fresh/a" in ear.heard)


async def test_a_folder_that_moves_is_known_by_its_new_path_when_it_is_shown_again(ear: Ear) -> None:
    ear.show()
    ear.show("sub")
    (ear.top / "sub").rename(ear.top / "other")
    await until(lambda: ear.new_folders == ["other"])
    ear.show("other")
    (ear.top / "other" / "a").touch()
    await until(lambda: "other/a" in ear.heard)
    assert "sub/a" not in ear.heard


async def test_behind_a_link_nothing_is_heard(ear: Ear) -> None:
    (ear.top / "link").symlink_to(ear.top.parent / "outside")
    ear.show()
    (ear.top.parent / "outside" / "secret").touch()
    (ear.top / "end").touch()
    await until(lambda: "end" in ear.heard)
    assert ear.heard == {"end"}


async def test_what_is_dropped_is_heard_no_more_and_neither_is_what_is_below_it(ear: Ear) -> None:
    (ear.top / "sub" / "inner").mkdir()
    for path in ("", "sub", "sub/inner"):
        ear.show(path)
    ear.watch.drop("mount", "sub")
    assert ear.watch.num_watched() == 1
    for path in ("sub/a", "sub/inner/b", "c"):
        (ear.top / path).touch()
    await until(lambda: "c" in ear.heard)
    assert ear.heard == {"c"}
    ear.watch.drop("mount")
    assert ear.watch.num_watched() == 0


async def test_two_mounts_of_one_folder_both_hear(ear: Ear) -> None:
    other: set[str] = set()
    ear.watch.listen("other", str(ear.top / "sub"), lambda path, _: other.add(path), lambda: None)
    ear.show("sub")
    descriptor = os.open(ear.top / "sub", os.O_RDONLY)
    ear.watch.add("other", "", descriptor)
    os.close(descriptor)
    (ear.top / "sub" / "a").touch()
    await until(lambda: ear.heard and other)
    assert (ear.heard, other) == ({"sub/a"}, {"a"})
    ear.watch.drop("other")
    (ear.top / "sub" / "b").touch()
    await until(lambda: "sub/b" in ear.heard)
    assert other == {"a"}


@pytest.fixture
def limit() -> int:
    return int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


async def test_events_that_the_system_dropped_are_told(ear: Ear, limit: int) -> None:
    ear.show()
    names = [str(ear.top / str(n)) for n in range(limit // 2 + 100)]
    for name in names:  # the loop does not turn meanwhile, so nothing is read
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
    await until(lambda: ear.num_lost)
    assert len(ear.heard) < len(names)


async def test_no_turn_of_the_loop_reads_more_than_some_events(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "READ", 400)
    ear.show()
    for n in range(100):
        (ear.top / f"file{n:03}").touch()
    turns = [0]
    while len(ear.heard) < 100:
        before = len(ear.heard)
        await asyncio.sleep(0)
        turns.append(len(ear.heard) - before)
    assert max(turns) <= 12


async def test_a_system_without_room_for_one_more_says_so(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ear.watch, "_libc", type("Full", (), {"inotify_add_watch": lambda *_: -1}))
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.ENOSPC)
    assert not ear.show()

"""The disk that suspended generations are kept on: what people hear of it, and what is done with junk on it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from tests.context.generations import FakePool, keeper
from tests.context.test_tiers import stopped, where

from aios.kernel.context import ContextManager
from aios.kernel.storage import Swap
from aios.testing import MockClock

pytestmark = pytest.mark.anyio


class Faulty:
    """Writes that fail with `error` while it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: int | None = None) -> None:
        self.error = error
        self._really_write = os.write
        monkeypatch.setattr("aios.kernel.storage.swap.os.write", self._write)

    def _write(self, descriptor: int, data: Any) -> int:
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        return self._really_write(descriptor, data)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "aios.context"]


async def pass_through(manager: ContextManager, pool: FakePool, keys: str) -> None:
    """Generations that are each moved out of the pool, with no room in memory, and then dropped."""
    for held in await stopped(manager, pool, keys):
        manager.drop(held)


@pytest.mark.parametrize(
    ("error", "what_to_do"),
    [
        (errno.ENOSPC, "make room on its disk"),
        (errno.EACCES, "let the kernel write there"),
        (errno.EIO, "look whether its disk is sound"),
    ],
)
async def test_a_disk_that_fails_is_told_once_and_so_is_that_it_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: int, what_to_do: str
) -> None:
    disk = Faulty(monkeypatch, error)
    manager, swap = keeper(tmp_path, ram=0, disk=1 << 20)
    pool = FakePool(1000)
    await pass_through(manager, pool, "abcd")
    [told] = warnings(caplog)
    assert f"{swap.folder} cannot be written ({os.strerror(error)}); {what_to_do}" in told
    assert manager.statistics()["disk_failures"] == manager.statistics(pool)["disk_failures"] == 3
    assert manager.statistics()["disk_is_failing"]
    assert manager.statistics(pool)["disk_trouble"] == os.strerror(error)
    disk.error = None
    await pass_through(manager, pool, "efgh")
    assert warnings(caplog)[1:] == [f"suspended generations are kept on disk again, in {swap.folder}"]
    assert not manager.statistics()["disk_is_failing"]
    assert "disk_trouble" not in manager.statistics(pool)
    assert manager.statistics(FakePool(1))["disk_failures"] == 0, "another core has lost nothing"
    await manager.close()


async def test_a_disk_that_keeps_turning_is_told_of_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk, clock = Faulty(monkeypatch), MockClock()
    manager, _ = keeper(tmp_path, ram=0, disk=1 << 20, now=clock.now)
    pool = FakePool(1000)
    for minute in range(2):
        for _ in range(5):
            disk.error = errno.ENOSPC
            await pass_through(manager, pool, "ab")
            disk.error = None
            await pass_through(manager, pool, "cd")
        assert len(warnings(caplog)) == 2 * (minute + 1)
        clock.advance(61)
    await manager.close()


async def test_a_disk_that_goes_on_failing_after_it_had_turned_is_told_when_the_minute_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk, clock = Faulty(monkeypatch), MockClock()
    manager, _ = keeper(tmp_path, ram=0, disk=1 << 20, now=clock.now)
    pool = FakePool(1000)
    for error in (errno.EIO, None, errno.EIO):
        disk.error = error
        await pass_through(manager, pool, "ab")
    assert len(warnings(caplog)) == 2
    clock.advance(61)
    await pass_through(manager, pool, "ab")
    assert "cannot be written" in warnings(caplog)[2]
    await manager.close()


async def test_a_budget_that_is_spent_is_told_once_and_those_it_had_no_room_for_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager, swap = keeper(tmp_path, ram=0, disk=5_400)
    pool = FakePool(1000)
    await stopped(manager, pool, "abcdef")
    assert where(manager, "abcdef") == ["text"] * 3 + ["disk"] * 2 + ["pool"]
    [told] = warnings(caplog)
    assert f"fill [context] disk_bytes = 5400, in {swap.folder}" in told
    found = manager.statistics()
    assert (found["disk_spent"], found["disk_failures"], found["disk_is_failing"]) == (3, 0, False)
    manager.check_integrity()
    await manager.close()


async def test_who_asked_for_no_disk_hears_nothing_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager, _ = keeper(tmp_path, ram=0, disk=0)
    await stopped(manager, FakePool(1000), "abc")
    assert where(manager, "abc") == ["text", "text", "pool"]
    assert warnings(caplog) == []


async def test_a_folder_that_cannot_be_used_at_the_start_is_used_as_soon_as_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "swap").write_text("in the way")
    manager, swap = keeper(tmp_path, ram=0, disk=1 << 20)
    pool = FakePool(1000)
    await pass_through(manager, pool, "ab")
    assert manager.statistics()["disk_is_failing"]
    (tmp_path / "swap").unlink()
    made = await stopped(manager, pool, "cd")
    assert where(manager, "cd") == ["disk", "pool"]
    assert ["cannot be written" in told for told in warnings(caplog)] == [True, False]
    manager.drop(made[1])
    await manager.take(made[0])
    assert made[0].num_lost == 0
    manager.part(made[0])
    await manager.close()
    swap.check_integrity()


async def test_what_an_earlier_run_left_in_a_folder_that_could_not_be_used_at_first_is_swept_away(
    tmp_path: Path,
) -> None:
    elsewhere = Swap(tmp_path / "aside", 1 << 20)
    elsewhere.open()
    elsewhere.put("old@fake@7", [b"x" * 5000])
    (tmp_path / "swap").write_text("in the way")
    manager, swap = keeper(tmp_path, ram=0, disk=10_000)
    (tmp_path / "swap").unlink()
    elsewhere.folder.rename(swap.folder)
    await stopped(manager, FakePool(1000), "ab")
    await manager.close()
    assert list(swap.sizes()) == ["a@fake@0"]


# ── junk ──

FOREIGN = {
    "holiday.swap": b"a picture",
    "notes.txt": b"a list",
    "film.part": b"half a film",
    "call_1@nano.swap": b"no number",
    "two words@nano@1.swap": b"no key",
}
OURS = ["call_over@nano@3.swap", "call_over@nano@3.swap.12.part", "call_over2@nano@4.swap"]


def with_junk(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, content in FOREIGN.items():
        (folder / name).write_bytes(content)
    (folder / "dir.swap").mkdir()
    (folder / "dir@nano@1.swap").mkdir()
    (folder / "link@nano@1.swap").symlink_to("/etc/hostname")
    for name in OURS:
        (folder / name).write_bytes(b"AIOSSWP1, as far as it goes")


async def test_junk_of_ours_is_removed_and_what_is_foreign_is_let_be_told_once_and_not_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_junk(tmp_path / "swap")
    manager, swap = keeper(tmp_path, ram=0, disk=9_000)
    manager.sweep([])
    pool = FakePool(1000)
    made = await stopped(manager, pool, "abc")
    assert where(manager, "abc") == ["disk", "disk", "pool"], "the budget is not taken up by junk"
    for held in made:
        manager.drop(held)
    await manager.close()
    names = {path.name for path in swap.folder.iterdir()}
    assert names == {*FOREIGN, "dir.swap", "dir@nano@1.swap", "link@nano@1.swap"}
    assert all((swap.folder / name).read_bytes() == content for name, content in FOREIGN.items())
    [told] = warnings(caplog)
    assert f"{swap.folder} holds 8 that" in told
    assert "and 5 more" in told


async def test_of_two_files_of_one_call_the_newer_one_counts(tmp_path: Path) -> None:
    earlier = Swap(tmp_path / "swap", 1 << 20)
    earlier.open()
    for number in (10, 11):
        earlier.put(f"a@fake@{number}", [b"%d" % number])
    manager, swap = keeper(tmp_path, disk=1 << 20)
    assert manager.find("a") is not None
    await manager.close()
    assert list(swap.sizes()) == ["a@fake@11"]


async def test_a_damaged_file_of_an_open_call_is_removed_when_its_turn_comes(tmp_path: Path) -> None:
    earlier = Swap(tmp_path / "swap", 1 << 20)
    earlier.open()
    earlier.put("a@fake@1", [b"no snapshot"])
    manager, swap = keeper(tmp_path, disk=1 << 20)
    manager.sweep(["a"])
    pool = FakePool(1000)
    with pytest.raises(ValueError, match="not a snapshot"):
        await manager.load("a", pool, "fp", "v")
    manager.drop_stored("a")
    await manager.close()
    assert swap.sizes() == {}

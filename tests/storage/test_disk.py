"""A disk that does not answer is said so, holds up nobody else, and leaves nothing open that is opened too late."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mount_world import MountWorld

from aios.abi.errors import Full, Stopping
from aios.kernel.storage.mounts import disk, mount, mounts
from aios.kernel.storage.mounts.disk import Disk
from aios.kernel.storage.mounts.faults import Gone
from aios.kernel.unbroken import unbroken
from aios.testing import settle, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def hanging() -> AsyncIterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


async def test_a_disk_that_does_not_answer_is_said_so_and_nobody_else_waits_until_it_does(
    hanging: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "ANSWER", 0.01)
    threads = Disk()
    with pytest.raises(Gone, match="does not answer"):
        await threads.run(hanging.wait)
    with pytest.raises(Gone, match="does not answer"):
        await threads.run(pytest.fail, "asked while it hangs")
    hanging.set()
    await until(lambda: not threads._stuck)
    assert await threads.run(lambda: 5) == 5
    threads.close()
    with pytest.raises(Gone, match="unmounted"):
        await threads.run(lambda: 5)


@pytest.mark.parametrize("how", ["cancelled", "late"])
async def test_what_is_opened_when_nobody_waits_any_more_is_closed(
    hanging: threading.Event, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    closed: list[str] = []
    threads = Disk()

    def opening() -> str:
        hanging.wait()
        return "opened"

    if how == "late":
        monkeypatch.setattr(disk, "ANSWER", 0.01)
        with pytest.raises(Gone):
            await threads.open(opening, undo=closed.append)
        hanging.set()
    else:
        task = asyncio.ensure_future(threads.open(opening, undo=closed.append))
        await settle()
        task.cancel()
        hanging.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until(lambda: closed == ["opened"])
    threads.close()


async def test_steps_that_belong_together_are_done_to_their_end() -> None:
    steps: list[int] = []

    async def both() -> None:
        for number in range(2):
            await settle()
            steps.append(number)

    task = asyncio.ensure_future(unbroken(both()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == [0, 1]


async def test_a_mount_whose_disk_hangs_holds_up_no_other(
    tmp_path: Path, hanging: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await MountWorld(tmp_path).begun()
    (tmp_path / "other").mkdir()
    await world.mount("other", tmp_path / "other")
    await world.write("docs/a.txt", "one")
    monkeypatch.setattr(world.mounted().beneath, "open", lambda path: hanging.wait())
    monkeypatch.setattr(mount, "MAX_CALLS", 20)
    calls = [asyncio.ensure_future(world.read("docs/a.txt")) for _ in range(30)]
    await settle()
    with pytest.raises(Full, match="20 calls are at the mount 'docs'"):
        await world.names("docs")
    await world.write("other/b.txt", "two")
    assert await world.read("other/b.txt") == "two"
    for each in calls:
        each.cancel()
    hanging.set()
    await asyncio.wait(calls)
    await world.end()
    world.close()


async def test_a_disk_that_hangs_at_the_start_holds_up_no_start(
    tmp_path: Path, hanging: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await MountWorld(tmp_path).begun()
    await world.write("docs/a.txt", "one")
    await world.end()
    world.restart()
    real = mount.Beneath.look
    monkeypatch.setattr(mount.Beneath, "look", lambda self: (hanging.wait(), real(self))[1])
    monkeypatch.setattr(mounts, "OPEN", 0.01)
    await world.storage.mounts.open()
    monkeypatch.setattr(disk, "ANSWER", 0.01)
    with pytest.raises(Stopping, match="does not answer"):
        await world.read("docs/a.txt")
    assert await world.read("docs/a.txt", 1) == "one"
    hanging.set()
    await until(lambda: not world.mounted().disk._stuck)
    assert await world.read("docs/a.txt") == "one"
    await world.end()
    world.close()

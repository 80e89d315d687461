"""What a kernel dies over in a mounted folder is done once or not at all, and its call is answered as it would have
been."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mount_world import MountWorld, large

from aios.abi.calls import Args, Count, StoClear, StoCreate, StoMove, StoRestore, StoRollback, StoWrite, Version
from aios.abi.errors import ModuleFault, NotFound, Stopping
from aios.kernel.config import MountSection
from aios.kernel.storage.mounts import intents

pytestmark = pytest.mark.anyio


class Died(BaseException):
    """The kernel, at this very point."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MountWorld]:
    world = await MountWorld(tmp_path).begun()
    await world.write("docs/a.txt", "one")
    await world.write("docs/a.txt", "two")
    await world.write("docs/d/b.txt", "three")
    await world.write("docs/gone/c.txt", "four")
    await world.write("docs/gone.txt", "five")
    await world.clear("docs/gone")
    await world.clear("docs/gone.txt")
    yield world
    await world.end()
    world.check_integrity()
    assert not world.count("intents")
    world.close()


CALLS: dict[str, tuple[Args, Any]] = {
    "write": (StoWrite(path="docs/a.txt", content="new", base=2), Version(path="docs/a.txt", version=3)),
    "write the same": (StoWrite(path="docs/a.txt", content="two"), Version(path="docs/a.txt", version=3)),
    "write a new one": (StoWrite(path="docs/n/n.txt", content=large(1)), Version(path="docs/n/n.txt", version=1)),
    "write where one was cleared": (
        StoWrite(path="docs/gone.txt", content="five"),
        Version(path="docs/gone.txt", version=1),
    ),
    "create": (StoCreate(path="docs/e.txt"), Version(path="docs/e.txt", version=1)),
    "create a folder": (StoCreate(path="docs/f", kind="folder"), Version(path="docs/f", version=1)),
    "roll back": (StoRollback(path="docs/a.txt", version=1), Version(path="docs/a.txt", version=3)),
    "move": (StoMove(path="docs/a.txt", to="docs/n/a.txt"), Version(path="docs/n/a.txt", version=2)),
    "move a folder": (StoMove(path="docs/d", to="docs/n/d"), Version(path="docs/n/d", version=1)),
    "clear": (StoClear(path="docs/a.txt"), Count(count=1)),
    "clear a folder": (StoClear(path="docs/d"), Count(count=2)),
    "restore": (StoRestore(path="docs/gone.txt"), Version(path="docs/gone.txt", version=1)),
    "restore a folder": (StoRestore(path="docs/gone"), Version(path="docs/gone", version=1)),
}


async def died(
    world: MountWorld, args: Args, key: str | None, patch: pytest.MonkeyPatch, *, begun: bool, id: str = "call_x"
) -> None:
    """A kernel dies over the call: with `begun` when the folder is changed and the store is not, else just before."""
    run, in_folder, add, is_intended = world.database.run, world.mounted().run, intents.add, False

    def intend(*intent: Any) -> int:
        nonlocal is_intended
        is_intended = True
        return add(*intent)

    async def database(*job: Any, **more: Any) -> Any:
        if is_intended:
            raise Died
        return await run(*job, **more)

    async def folder(*work: Any) -> Any:
        if is_intended and not begun:
            raise Died
        return await in_folder(*work)

    with patch.context() as patched:
        patched.setattr(intents, "add", intend)
        patched.setattr(world.database, "run", database)
        patched.setattr(world.mounted(), "run", folder)
        with pytest.raises(Died):
            await world.call(args, key=key, id=id)


def files(world: MountWorld) -> dict[str, str]:
    """But for what was on its way."""
    return {path: text for path, text in world.all_files().items() if ".aios-" not in path}


async def everything(world: MountWorld) -> Any:
    """What is in the folder, in the store and in the trash, and who wrote it."""
    there = {path: await world.history(f"docs/{path}") for path in files(world)}
    return files(world), there, sorted(await world.names("docs", trash=True)), world.kept("\ndocs")


@pytest.mark.parametrize("begun", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", CALLS)
async def test_a_call_with_a_key_is_done_once_though_its_kernel_died_before_or_after_it_changed_the_folder(
    world: MountWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, begun: bool
) -> None:
    args, answer = CALLS[call]
    await died(world, args, "k", monkeypatch, begun=begun)
    await world.again()
    assert await world.call(args, key="k", id="call_x") == answer
    found = await everything(world)
    assert await world.call(args, key="k", id="call_x") == answer, "and once more it is just told"
    await world.again()
    assert await everything(world) == found
    assert all(author == "a" for history in found[1].values() for _, author in history)


@pytest.mark.parametrize("call", ["move", "move a folder", "restore", "restore a folder"])
async def test_without_a_key_it_is_all_done_when_the_folder_was_changed(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    args, _ = CALLS[call]
    before = (await everything(world))[3]
    await died(world, args, None, monkeypatch, begun=True)
    await world.again()
    found, histories, trash, _ = await everything(world)
    if isinstance(args, StoMove):
        assert not [path for path in found if f"docs/{path}".startswith(args.path)]
        assert sum(len(history) for history in histories.values()) == 3, "and it has all its versions"
        assert trash == ["docs/gone", "docs/gone.txt"]
    else:
        assert len(trash) == 1
        assert world.kept("\ndocs") == before


@pytest.mark.parametrize("call", ["write", "write the same", "create a folder"])
async def test_what_was_taken_for_an_outside_change_by_a_kernel_that_could_not_record_it_is_not_done_again(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    args, answer = CALLS[call]
    await died(world, args, "k", monkeypatch, begun=True)
    world.clock.advance(1.0)
    await world.changed("a.txt", "f")
    await world.again()
    assert await world.call(args, key="k", id="call_x") == answer


async def test_what_could_not_be_recorded_as_restored_is_in_the_trash(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, before = world.database.run, world.all_files()

    async def full(job: Any, **more: Any) -> Any:
        if "gone.txt" in world.all_files():
            raise Stopping("the disk is full", code="storage_full")
        return await run(job, **more)

    with monkeypatch.context() as patched:
        patched.setattr(world.database, "run", full)
        with pytest.raises(Stopping):
            await world.call(StoRestore(path="docs/gone.txt"), key="k", id="call_x")
    assert world.all_files() == before
    answer = await world.call(StoRestore(path="docs/gone.txt"), key="k", id="call_x")
    assert answer == Version(path="docs/gone.txt", version=1)


@pytest.mark.parametrize(
    "args",
    [StoWrite(path="docs/a.txt", content="new"), StoCreate(path="docs/f", kind="folder")],
    ids=["file", "folder"],
)
async def test_what_is_in_its_folder_and_could_not_be_recorded_is_told_so(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch, args: Args
) -> None:
    run, before = world.database.run, files(world)

    async def full(job: Any, **more: Any) -> Any:
        if (world.top / "f").exists() or files(world) != before:
            raise Stopping("the disk is full: nothing was recorded", code="storage_full")
        return await run(job, **more)

    with monkeypatch.context() as patched:
        patched.setattr(world.database, "run", full)
        with pytest.raises(Stopping, match="is in its folder as you asked, and no version yet") as refused:
            await world.call(args)
    assert refused.value.code == "storage_full"
    await world.again()
    assert world.database.read(lambda c: world.mounted().tree(c).find(args.path.removeprefix("docs/")) is not None)


@pytest.mark.parametrize("is_there", [False, True], ids=["lost", "kept"])
@pytest.mark.parametrize("call", ["write", "move", "clear", "clear a folder", "restore"])
async def test_after_a_sync_that_failed_the_next_kernel_finds_out_what_was_done(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch, call: str, is_there: bool
) -> None:
    args, answer = CALLS[call]
    run, add, num_jobs = world.database.run, intents.add, -1

    def intend(*intent: Any) -> int:
        nonlocal num_jobs
        num_jobs = 0
        return add(*intent)

    async def failing(job: Any, **more: Any) -> Any:
        nonlocal num_jobs
        if num_jobs < 0:
            return await run(job, **more)
        num_jobs += 1
        if num_jobs == 1 and is_there:
            await run(job, **more)
        raise ModuleFault("an fsync failed", code="storage_failed")

    with monkeypatch.context() as patched:
        patched.setattr(intents, "add", intend)
        patched.setattr(world.database, "run", failing)
        with pytest.raises(ModuleFault):
            await world.call(args, key="k", id="call_x")
        if not is_there:
            with pytest.raises(Stopping, match="a call was cut short there"):
                await world.names("docs")
    await world.again()
    assert await world.call(args, key="k", id="call_x") == answer
    trash = {"docs/gone", "docs/gone.txt"}
    if isinstance(args, StoClear):
        trash.add(args.path)
    if isinstance(args, StoRestore):
        trash.remove(args.path)
    assert set(await world.names("docs", trash=True)) == trash
    assert all(author == "a" for history in (await everything(world))[1].values() for _, author in history)


@pytest.mark.parametrize("call", ["move", "move a folder", "clear", "clear a folder", "restore", "restore a folder"])
async def test_a_rename_that_could_not_be_synced_is_undone(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    args, answer = CALLS[call]
    await world.again(durable=True)
    before, is_intended, add = await everything(world), False, intents.add

    def intend(*intent: Any) -> int:
        nonlocal is_intended
        is_intended = True
        return add(*intent)

    def sync(folder: int) -> None:
        nonlocal is_intended
        if is_intended:
            is_intended = False
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(intents, "add", intend)
        patched.setattr(world.mounted().beneath, "_sync", sync)
        with pytest.raises(ModuleFault, match="cannot be used: the disk says Input/output error"):
            await world.call(args, key="k", id="call_x")
    assert await everything(world) == before
    assert await world.call(args, key="k", id="call_x") == answer


async def test_a_mount_whose_folder_cannot_be_made_says_so(world: MountWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", full)
        with pytest.raises(Stopping, match="the disk of the mounted folder is full: 'own' was not written"):
            await world.storage.mounts.open([MountSection(name="own")])


async def test_what_was_to_be_cleared_without_a_key_is_there(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = world.all_files()
    await died(world, StoClear(path="docs/d"), None, monkeypatch, begun=True)
    assert world.all_files() != before
    await world.again()
    assert world.all_files() == before
    assert await world.history("docs/d/b.txt") == [(1, "a")]


async def test_what_others_did_after_the_death_of_a_kernel_stays(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One changed what was moved, another made something where a file was set aside."""
    await died(world, StoMove(path="docs/a.txt", to="docs/z.txt"), "k", monkeypatch, begun=True)
    world.put("z.txt", "by others")
    await world.again()
    assert await world.history("docs/z.txt") == [(1, "a"), (2, "a"), (3, "outside")]
    await died(world, StoClear(path="docs/d/b.txt"), "l", monkeypatch, begun=True, id="call_y")
    world.put("d/b.txt", "by others too")
    await world.again()
    assert sorted(world.all_files().values()) == ["by others", "by others too", "three"]


async def test_a_mount_that_is_gone_at_the_start_is_put_in_order_when_it_is_back(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await died(world, StoMove(path="docs/a.txt", to="docs/z.txt"), "k", monkeypatch, begun=True)
    away = world.top.rename(world.top.with_name("away"))
    await world.again()
    away.rename(world.top)
    answer = await world.call(StoMove(path="docs/a.txt", to="docs/z.txt"), key="k", id="call_x")
    assert answer == Version(path="docs/z.txt", version=2)
    with pytest.raises(NotFound):
        await world.read("docs/a.txt")


async def test_an_unmounted_folder_leaves_nothing_to_be_put_in_order(
    world: MountWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await died(world, StoMove(path="docs/a.txt", to="docs/z.txt"), "k", monkeypatch, begun=True)
    away = world.top.rename(world.top.with_name("away"))
    await world.again()
    await world.unmount()
    assert not world.count("intents")
    away.rename(world.top)


async def test_a_folder_is_cleared_with_what_a_killed_kernel_was_writing_in_it(world: MountWorld) -> None:
    world.put("d/.aios-0123456789abcdef.part", "half a fi")
    assert await world.clear("docs/d") == 2
    assert not (world.top / "d").exists()

"""Faults that are planted in tables and blobs are found, told apart, and mended without losing what can be read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from storage_world import LARGE, World

from aios.abi.calls import StoMove, StoRestore, StoShare, StoWrite
from aios.abi.errors import ModuleFault
from aios.kernel.process import Place
from aios.kernel.storage import check, mend

pytestmark = pytest.mark.anyio


async def fill(world: World) -> None:
    """Files, versions, trash, a link and an upload: of each some."""
    for n in range(3):
        await world.write(f"d/e/f{n}", f"text {n}")
    await world.write("large", LARGE)
    await world.write("large", LARGE[:100_000] + "!" + LARGE[100_000:])
    await world.write("d/e/f0", "newer")
    await world.write("d/x", "cleared out of a folder")
    await world.clear("d/x")
    await world.write("gone/y", "cleared with its folder")
    await world.clear("gone")
    await world.write("b", LARGE, agent="b")
    await world.call(StoShare(path="large"))

    async def source() -> object:
        yield b"z" * 100_000

    await world.storage.streams.take_in(Place("o", "a"), "later", source(), "mark")  # type: ignore[arg-type]


async def test_an_empty_file_that_was_streamed_in_is_whole(world: World) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        return
        yield b""

    name, _ = await world.storage.streams.take_in(Place("o", "a"), "e", nothing(), "mark")
    await world.call(StoWrite(path="e", content="", upload=name))
    assert await world.read("e") == ""
    assert world.faults() == []


async def texts(world: World) -> dict[str, str]:
    """All that can be read, by path and version."""
    found = {}
    for path, newest in (("d/e/f0", 2), ("d/e/f1", 1), ("d/e/f2", 1), ("large", 2)):
        for number in range(1, newest + 1):
            found[f"{path} {number}"] = await world.read(path, number)
    return found


FAULTS: dict[str, tuple[str, str]] = {
    "how often a content is named": ("UPDATE contents SET refs = refs + 1 WHERE id = 2", "content 2"),
    "a content that seems unnamed": ("UPDATE contents SET refs = 0 WHERE refs > 0 AND id = 1", "content 1"),
    "how often a chunk is named": ("UPDATE chunks SET refs = refs + 1 WHERE id = 1", "chunk 1"),
    "what an agent keeps": ("UPDATE kept SET bytes = 1 WHERE room = 'storage' AND agent = 'a'", "files of a"),
    "what nobody was charged for": ("DELETE FROM kept WHERE room = 'storage'", "files of"),
    "a newest version": ("UPDATE files SET version = 9 WHERE name = 'f0'", "file"),
    "an oldest version": ("UPDATE files SET oldest = 2 WHERE name = 'large'", "file"),
    "a size": ("UPDATE files SET size = 0 WHERE name = 'large'", "file"),
    "a file without versions": (
        "INSERT INTO files VALUES (99, 1, 0, 'empty', 'file', 0, 1, 1, 0, NULL, NULL)", "file 99, 'empty'",
    ),
    "a link to nothing": ("INSERT INTO links VALUES (x'00', 999, NULL, 0, 9e9, 'a')", "a link"),
    "an upload of nothing": ("INSERT INTO uploads VALUES ('o', 'a', 'x', 999, 0)", "an upload of a"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
async def test_a_wrong_count_or_row_is_found_and_mended_and_every_text_is_as_before(name: str, world: World) -> None:
    await fill(world)
    assert world.faults() == []
    before = await texts(world)
    sql, where = FAULTS[name]
    world.damage(sql)
    assert any(fault.where.startswith(where) for fault in world.faults()), world.faults()
    world.repair()
    assert (world.faults(), await texts(world)) == ([], before)


async def test_a_lost_folder_gives_back_what_is_below_it_with_its_names(world: World) -> None:
    await fill(world)
    await world.write("e", "is at the top already")
    world.damage("DELETE FROM files WHERE name = 'd'")
    assert [fault.where for fault in world.faults()][:3] == ["file 2, 'e'", "file 3, 'f0'", "file 4, 'f1'"]
    world.repair()
    assert world.faults() == []
    assert await world.names() == ["e", "found-2-e", "large"]
    assert await world.read("found-2-e/f0", 1) == "text 0"


async def test_folders_that_are_below_themselves_come_to_the_top(world: World) -> None:
    await fill(world)
    world.damage("UPDATE files SET parent = (SELECT id FROM files WHERE name = 'e') WHERE name = 'd'")
    assert len(world.faults()) == 5
    world.repair()
    assert world.faults() == []
    assert await world.read("d/e/f1") == "text 1"


async def test_what_is_in_the_trash_needs_no_folder(world: World) -> None:
    await world.write("d/x", "x")
    await world.clear("d/x")
    await world.call(StoMove(path="d", to="e"))
    await world.clear("e")
    await world.clear("e", trash=True)
    assert world.faults() == []
    await world.call(StoRestore(path="d/x"))
    assert await world.read("d/x") == "x"


@pytest.mark.parametrize("path", ["d/e/f0", "large"])
async def test_versions_of_a_file_that_is_lost_are_saved_beside_the_store(world: World, path: str) -> None:
    await fill(world)
    first, second = await world.read(path, 1), await world.read(path, 2)
    name = path.rpartition("/")[2]
    (id,) = world.database.read(lambda c: c.execute("SELECT id FROM files WHERE name = ?", (name,)).fetchone())
    world.damage("DELETE FROM files WHERE id = ?", id)
    assert {fault.mend for fault in world.faults()} >= {"goes to the folder 'lost' of the home"}
    world.repair()
    assert world.faults() == []
    saved = world.home / mend.LOST
    assert (saved / f"file-{id}-version-1").read_text() == first
    assert (saved / f"file-{id}-version-2").read_text() == second
    assert len(list(saved.iterdir())) == 2


# ── contents ──


def change_a_blob(world: World) -> None:
    blob = max(world.blobs(), key=lambda path: path.stat().st_mtime_ns)
    blob.write_bytes(b"?" + blob.read_bytes()[1:])


def drop_a_blob(world: World) -> None:
    max(world.blobs(), key=lambda path: path.stat().st_mtime_ns).unlink()


LAST_IN_STORE = "(SELECT max(id) FROM chunks WHERE body IS NOT NULL)"
DAMAGES: dict[str, Callable[[World], None] | str] = {
    "a blob that was changed": change_a_blob,
    "a blob that is gone": drop_a_blob,
    "a chunk of the store": f"UPDATE chunks SET body = x'00' WHERE id = {LAST_IN_STORE}",
    "a chunk that is no bytes": f"UPDATE chunks SET body = 'text' WHERE id = {LAST_IN_STORE}",
    "a chunk that is gone": "DELETE FROM chunks WHERE id = (SELECT max(id) FROM chunks)",
    "a body": "UPDATE contents SET body = x'00' WHERE id = (SELECT content FROM versions WHERE file = 3)",
    "a content that is gone": "DELETE FROM contents WHERE id = (SELECT content FROM versions WHERE file = 3)",
    "a list": "UPDATE contents SET chunks = '[]' WHERE id = (SELECT max(content) FROM versions)",
    "a list that is none": "UPDATE contents SET chunks = '{' WHERE id = (SELECT max(content) FROM versions)",
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
async def test_a_part_that_is_lost_is_told_and_stays_told_and_nothing_else_is_touched(
    name: str, world: World, in_files: None
) -> None:
    for n in range(3):
        await world.write(f"d/f{n}", f"text {n}")
    await world.write("large", LARGE)
    damage = DAMAGES[name]
    world.damage(damage) if isinstance(damage, str) else damage(world)
    found = world.faults()
    assert found
    world.repair()
    left = world.faults()
    assert left
    world.repair()
    assert world.faults() == left
    lost = "d/f1" if "content" in name or "body" in name else "large"
    for path, content in (*((f"d/f{n}", f"text {n}") for n in range(3)), ("large", LARGE)):
        if path != lost:
            assert await world.read(path) == content
    with pytest.raises(ModuleFault, match="aios fs check"):
        await world.read(lost)
    assert world.count("versions") == 4


@pytest.mark.parametrize("damage", [change_a_blob, drop_a_blob, DAMAGES["a body"], DAMAGES["a list"]])
async def test_it_is_said_which_files_need_what_is_damaged(
    world: World, in_files: None, damage: Callable[[World], None] | str
) -> None:
    for n in range(2):
        await world.write(f"d/f{n}", f"text {n}")
    await world.write("large", LARGE)
    for n in range(2, 6):
        await world.write("large", LARGE + "!" * n)
    world.damage(damage) if isinstance(damage, str) else damage(world)
    told = " ".join(fault.what for fault in world.faults())
    lost = "d/f1" if damage == DAMAGES["a body"] else "large"
    assert f"needed by '{lost}' of o:a (version " in told


async def test_of_many_files_that_need_what_is_damaged_some_are_named(world: World, in_files: None) -> None:
    await world.write("cleared", LARGE)
    await world.clear("cleared")
    for n in range(5):
        await world.write(f"f{n}", LARGE)
    world.damage("UPDATE chunks SET body = x'00' WHERE id = 1")
    world.damage("UPDATE chunks SET token = NULL WHERE id = 1")
    fault = world.faults()[0]
    assert fault.what.endswith(
        "; needed by a file in the trash of o:a (version 1), 'f0' of o:a (version 1), 'f1' of o:a (version 1), 3 more"
    )


@pytest.mark.parametrize("damage", [change_a_blob, drop_a_blob])
async def test_a_lost_part_comes_back_from_an_equal_one(
    world: World, in_files: None, damage: Callable[[World], None]
) -> None:
    await world.write("a", LARGE, agent="b")
    await world.write("a", LARGE)
    damage(world)
    assert world.faults()
    world.repair()
    assert (world.faults(), await world.read("a")) == ([], LARGE)


async def test_a_blob_that_nobody_names_goes_and_while_a_kernel_runs_only_an_old_one(world: World) -> None:
    await fill(world)
    stray = world.store.blobs.path(b"\xab" * 32, 77)
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"x")
    assert [fault.where for fault in world.faults()] == [f"blobs/ab/{stray.name}"]
    job = check.check
    assert world.database.read(lambda c: list(job(c, world.store.blobs, is_served=True))) == []
    world.repair()
    assert not stray.exists()


async def test_a_chunk_that_leaves_while_it_is_looked_at_is_no_fault(
    world: World, in_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.write("a", LARGE)
    get = world.store.blobs.get

    def leaves(hash: bytes, token: int) -> bytes:
        if world.count("files"):
            for sql in ("DELETE FROM files", "DELETE FROM versions", "DELETE FROM contents", "DELETE FROM chunks"):
                world.damage(sql)
            for path in world.blobs():
                path.unlink()
        return get(hash, token)

    monkeypatch.setattr(world.store.blobs, "get", leaves)
    found = world.database.read(lambda c: list(check.bad_chunks(c, world.store.blobs)))
    assert found == []

"""Long contents: kept in chunks, shared with nobody else, whole or not there at all, and read piece by piece."""

from __future__ import annotations

import asyncio
import errno
import random
import threading
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_world import LARGE, World

from aios.abi.calls import StoRead
from aios.abi.errors import ModuleFault, Stopping, TooLarge
from aios.kernel.database import rows
from aios.kernel.spaces import Scope
from aios.kernel.storage import blobs, intake, outlet, trash
from aios.kernel.storage.contents import Chunk
from aios.kernel.storage.outlet import _groups

pytestmark = pytest.mark.anyio


async def test_versions_of_one_agent_share_what_is_alike_and_two_agents_share_nothing(world: World) -> None:
    await world.write("a", LARGE)
    num = world.count("chunks")
    await world.write("b", LARGE)
    await world.write("a", f"{LARGE[:100_000]}!{LARGE[100_000:]}")
    assert num < world.count("chunks") <= num + 3
    await world.write("c", LARGE, agent="b")
    assert world.count("chunks") >= 2 * num
    assert world.kept("b") == (1, len(LARGE) + 100)


async def test_chunks_leave_with_the_last_version_that_has_them(world: World, in_files: None) -> None:
    await world.write("a", LARGE)
    alone = world.count("chunks")
    await world.write("b", LARGE[:150_000] + "y" * 100_000)
    await world.clear("b")
    await world.clear(".", trash=True)
    assert (world.count("chunks"), len(world.blobs())) == (alone, world.count("chunks", "body IS NULL"))
    assert await world.read("a") == LARGE
    await world.clear("a")
    await world.clear(".", trash=True)
    assert (world.count("chunks"), world.count("contents"), world.blobs()) == (0, 0, [])


async def test_large_chunks_are_files_that_only_the_kernels_user_reads(world: World, in_files: None) -> None:
    await world.write("a", LARGE)
    assert len(world.blobs()) >= 2
    assert not any(path.stat().st_mode & 0o077 for path in world.blobs())


@pytest.mark.parametrize("damage", ["changed", "gone"])
@pytest.mark.parametrize("place", ["file", "row"])
async def test_a_content_that_was_damaged_is_never_given_out(
    world: World, damage: str, place: str, request: pytest.FixtureRequest
) -> None:
    if place == "file":
        request.getfixturevalue("in_files")
    await world.write("a", LARGE)
    await world.write("b", "small")
    if place == "file":
        blob = world.blobs()[0]
        blob.write_bytes(b"y" + blob.read_bytes()[1:]) if damage == "changed" else blob.unlink()
    else:
        change = "UPDATE chunks SET body = x'00' || substr(body, 2)" if damage == "changed" else "DELETE FROM chunks"
        await world.database.run(lambda c: c.execute(f"{change} WHERE id = 3"))
    with pytest.raises(ModuleFault, match="aios fs check") as fault:
        await world.read("a")
    assert fault.value.code == ("blob_damaged" if damage == "changed" else "blob_lost")
    assert await world.texts() == ({"b": "small"}, False)


async def test_a_small_content_that_was_damaged_is_never_given_out(world: World) -> None:
    await world.write("a", "small")
    await world.database.run(lambda c: c.execute("UPDATE contents SET body = x'00'"))
    with pytest.raises(ModuleFault, match="is damaged"):
        await world.read("a")


# ── what is not finished ──


async def test_a_content_that_cannot_be_written_is_refused_and_nothing_changes(world: World, in_files: None) -> None:
    await world.write("a", "before")
    (world.home / "blobs").write_text("in the way")
    with pytest.raises(Stopping) as refusal:
        await world.write("a", LARGE)
    assert refusal.value.code == "storage_full"
    assert await world.read("a") == "before"
    (world.home / "blobs").unlink()
    await world.write("a", LARGE)
    assert await world.read("a") == LARGE


async def test_a_disk_that_is_full_in_the_middle_of_a_content_keeps_nothing_of_it(
    world: World, in_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_written = 0
    put = world.store.blobs.put

    def fills_up(hash: bytes, data: Any) -> int:
        nonlocal num_written
        num_written += 1
        if num_written == 3:
            raise Stopping("no space left", code="storage_full")
        return put(hash, data)

    monkeypatch.setattr(world.store.blobs, "put", fills_up)
    monkeypatch.setattr(intake, "BLOCK", 1)
    with pytest.raises(Stopping, match="no space left"):
        await world.write("a", LARGE * 3)
    await nothing_left(world)


async def nothing_left(world: World) -> None:
    """Of all that was begun."""
    await asyncio.gather(*world.store.intake._ending, return_exceptions=True)
    assert (world.count("contents"), world.count("chunks"), world.blobs()) == (0, 0, [])


@pytest.mark.parametrize("refused_by", ["quota", "base", "kind"])
async def test_a_content_whose_write_is_refused_leaves_the_disk(world: World, in_files: None, refused_by: str) -> None:
    if refused_by == "quota":
        world.store.quota = world.store.quota._replace(max_entries=0)
    with pytest.raises(TooLarge if refused_by == "quota" else Exception):
        await world.write("a" if refused_by != "kind" else "", LARGE, **({"base": 7} if refused_by == "base" else {}))
    await nothing_left(world)


class Stream:
    """A content that comes when it is let."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.num_taken = 0
        self.gate = asyncio.Event()
        self.waits = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            self.num_taken += 1
            yield piece
        self.waits.set()
        await self.gate.wait()


def staged(world: World, source: Any) -> Any:
    storage = world.store
    return storage.intake.staged(Scope("o", "a"), source, storage.quota)


@pytest.mark.parametrize("block", [1, 50_000, 1 << 20])
async def test_a_writer_who_leaves_half_way_leaves_nothing_behind(
    world: World, in_files: None, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(intake, "BLOCK", block)
    source = Stream([random.Random(n).randbytes(70_000) for n in range(12)])

    async def write() -> None:
        async with staged(world, source):
            raise AssertionError("it is not whole")

    writing = asyncio.ensure_future(write())
    await source.waits.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await nothing_left(world)


async def test_a_writer_who_leaves_while_the_store_is_told_leaves_nothing_behind(
    world: World, in_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, told = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    submit = world.database.submit

    def slow(job: Any, *more: Any, **named: Any) -> None:
        def held(connection: Any) -> Any:
            loop.call_soon_threadsafe(told.set)
            assert may_write.wait(60)
            return job(connection)

        submit(held, *more, **named)

    monkeypatch.setattr(world.database, "submit", slow)
    source = Stream([LARGE.encode()])
    source.gate.set()

    async def write() -> None:
        async with staged(world, source):
            raise AssertionError("it is not whole")

    writing = asyncio.ensure_future(write())
    await told.wait()
    writing.cancel()
    loop.call_soon(may_write.set)  # it ends when the store has been told, and no sooner
    with pytest.raises(asyncio.CancelledError):
        await writing
    await nothing_left(world)


async def test_files_stay_when_a_failed_disk_leaves_open_whether_they_were_named(
    world: World, in_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_doubt(job: Any, then: Any = None, **_: Any) -> None:
        if then is not None:
            asyncio.get_running_loop().call_soon(then, None, Stopping("an fsync failed", code="storage_failed"))

    monkeypatch.setattr(world.database, "submit", in_doubt)
    with pytest.raises(Stopping):
        await world.write("a", LARGE)
    assert len(world.blobs()) >= 2


async def test_what_a_dead_kernel_was_writing_is_dropped_by_the_next(world: World, in_files: None) -> None:
    source = Stream([LARGE.encode()])
    source.gate.set()
    async with staged(world, source):
        assert world.count("contents", "refs = -1") == 1
        world.restart()
        await world.storage.keep_house()
        assert (world.count("contents"), world.count("chunks"), world.blobs()) == (0, 0, [])
        world.restart()


async def test_a_file_that_a_dead_kernel_could_not_name_leaves_with_the_next(world: World, in_files: None) -> None:
    await world.write("a", LARGE)
    named = world.blobs()
    data = b"written, and never named"
    world.store.blobs.put(sha256(data).digest(), [memoryview(data)])
    (world.home / "blobs" / "notes.txt").write_text("somebody's own")
    await world.storage.keep_house()
    assert len(world.blobs()) == len(named) + 2, "the kernel that wrote it may be about to name it"
    world.restart()
    await world.write("b", LARGE[::-1])
    await world.storage.keep_house()
    assert set(named) < set(world.blobs())
    assert len(world.blobs()) == world.count("chunks", "body IS NULL") + 1
    assert [await world.read(path) for path in "ab"] == [LARGE, LARGE[::-1]]


async def test_a_content_whose_name_cannot_be_synced_is_refused_and_leaves_the_disk(
    world: World, in_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    world.restart(durable=True)
    monkeypatch.setattr(blobs, "_sync_folder", broken)
    with pytest.raises(Stopping, match=r"Input/output error.*nothing was written"):
        await world.write("a", LARGE)
    await nothing_left(world)


async def test_two_who_write_the_same_at_once_share_it(world: World, in_files: None) -> None:
    await asyncio.gather(*(world.write(path, LARGE) for path in "abc"))
    for path in "abc":
        assert await world.read(path) == LARGE
    assert len(world.blobs()) == world.count("chunks", "body IS NULL")


async def test_a_chunk_that_goes_while_another_content_counts_on_it_is_written_again(
    world: World, in_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.write("a", LARGE)
    is_looking, may_go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    written, again = intake._Arrival._written, []

    def slow(self: Any, chunks: Any, hashes: Any, known: Any) -> Any:
        again.append(not known)
        loop.call_soon_threadsafe(is_looking.set)
        assert may_go_on.wait(60)
        return written(self, chunks, hashes, known)

    monkeypatch.setattr(intake._Arrival, "_written", slow)
    writing = asyncio.ensure_future(world.write("b", LARGE))
    await is_looking.wait()
    await world.clear("a")
    await world.clear(".", trash=True)
    assert world.count("chunks") == 0
    may_go_on.set()
    assert await writing == 1
    assert again == [False, True]
    assert await world.read("b") == LARGE


# ── reading ──


async def test_what_is_being_read_stays_though_its_last_version_goes(
    world: World, in_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.write("a", LARGE)
    file = world.database.read(lambda c: rows(c, "SELECT id FROM contents"))[0][0]
    with world.store.outlet.held(file) as content:
        await world.clear("a")
        await world.clear(".", trash=True)
        await world.write("a", "another")
        stream = world.store.outlet.stream(content, 0, content.size)
        assert b"".join([piece async for piece in stream]) == LARGE.encode()
    await world.storage.keep_house()
    assert world.blobs() == []


CHUNKS = st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(CHUNKS, st.integers(0, 300), st.integers(0, 300))
def test_a_part_is_put_together_of_the_chunks_that_it_touches(
    sizes: list[tuple[int, bool]], offset: int, length: int
) -> None:
    chunks = [Chunk(n, b"", size, 1 if is_file else None) for n, (size, is_file) in enumerate(sizes)]
    data = [bytes([n]) * size for n, (size, _) in enumerate(sizes)]
    whole = b"".join(data)
    step, outlet.STEP = outlet.STEP, 60
    try:
        groups = list(_groups(chunks, offset, offset + length))
    finally:
        outlet.STEP = step
    read = b"".join(b"".join(data[chunk.id] for chunk in group.chunks)[group.begin : group.end] for group in groups)
    assert read == whole[offset : offset + length]
    for group in groups:
        assert len(group.chunks) == 1 or all(chunk.token is None for chunk in group.chunks)


async def test_a_long_content_streams_through_bounded_memory(
    world: World, in_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "BLOCK", 100_000)
    dice = random.Random(0)
    source = Stream([dice.randbytes(50_000) for _ in range(60)])
    source.gate.set()
    kept: list[int] = []
    written = intake._Arrival._name_next

    async def watched(self: Any) -> None:
        kept.append(sum(1 for _ in self._under_way))
        await written(self)

    monkeypatch.setattr(intake._Arrival, "_name_next", watched)
    async with staged(world, source) as content:
        assert content.size == 3_000_000
    assert max(kept) <= intake.DEPTH
    assert trash.STEP


@pytest.mark.parametrize("length", [None, 7])
async def test_a_part_of_a_long_content_is_read_from_the_chunks_it_touches_only(
    world: World, in_files: None, length: int | None
) -> None:
    await world.write("a", LARGE)
    first = min(world.blobs(), key=lambda path: LARGE.encode().index(path.read_bytes()))
    first.unlink()
    part = (await world.call(StoRead(path="a", offset=110_000, length=length))).content
    assert part == (LARGE[110_000:] if length is None else LARGE[110_000:110_007])


def test_blobs_are_nowhere_but_in_their_folder(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.close()
    assert not (tmp_path / "blobs").exists()

"""`client.files` reads like paths, `client.memory` like a dictionary, for those who await and those who do not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fake_transport import FakeTransport

from aios.abi.calls import History, Revision
from aios.abi.errors import Conflict, NotFound
from aios.cli.mem import newest
from aios.kernel import Kernel
from aios.kernel.memory import entries
from aios.sdk import Agent, AsyncClient, Client, InProcess
from aios.testing import booted


def key_of(kernel: Kernel) -> str:
    return kernel.access.mint(owner="o", agent="a")[1]


@contextmanager
def client() -> Iterator[Client]:
    """A client of a kernel that runs on another thread's event loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    kernels = booted()
    try:
        kernel = asyncio.run_coroutine_threadsafe(kernels.__aenter__(), loop).result()
        with Client(transport=InProcess(kernel, key_of(kernel), loop)) as made:
            yield made
    finally:
        asyncio.run_coroutine_threadsafe(kernels.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_files_are_paths_with_a_history() -> None:
    with client() as kernel:
        note = kernel.files / "notes" / "today.md"
        assert (note.name, note.stem, note.suffix, str(note.parent)) == ("today.md", "today", ".md", "notes")
        assert not note.exists()
        assert note.write_text("one") == 1
        assert note.write_text("two", base=1) == 2
        with pytest.raises(Conflict):
            note.write_text("three", base=1)
        assert note.is_file()
        assert note.parent.is_dir()
        assert not note.parent.is_file()
        assert list(kernel.files.iterdir()) == [kernel.files / "notes"]
        assert [each.path for each in note.parent.iterdir()] == ["notes/today.md"]
        assert "-one" in note.diff()
        assert note.rollback(1) == 3
        assert [revision.version for revision in note.history()] == [3, 2, 1]
        moved = note.rename("old.md")
        assert moved.read_text(version=2) == "two"
        moved.unlink()
        with pytest.raises(NotFound):
            moved.read_text()
        moved.restore()
        assert moved.read_text() == "one"
        (kernel.files / "folder").mkdir()
        assert (kernel.files / "folder").is_dir()
        (kernel.files / "blob").write_bytes(b"\xff\x00")
        assert (kernel.files / "blob").read_bytes() == b"\xff\x00"


def history(name: str, arguments: dict[str, Any]) -> History:
    """Of a file with seven versions, three at a time."""
    last = arguments.get("before", 8) - 1
    told = [Revision(version=n, size=1, created=0.0) for n in range(last, max(last - 3, 0), -1)]
    return History(path="a", revisions=told, has_more=last > 3)


def test_a_history_is_told_to_its_end() -> None:
    with Client(transport=FakeTransport(history)) as told:
        assert [each.version for each in (told.files / "a").history()] == [7, 6, 5, 4, 3, 2, 1]
    path = AsyncClient(transport=FakeTransport(history)).files / "a"
    assert [each.version for each in asyncio.run(path.history())] == [7, 6, 5, 4, 3, 2, 1]


def test_files_are_found_by_what_they_say() -> None:
    with client() as kernel:
        (kernel.files / "kb" / "harbour.md").write_text("# Harbour\n\nIt opens in May.")
        (kernel.files / "kb" / "harbour.csv").write_text("harbour,month\nNorth,June\n")
        (kernel.files / "mine.txt").write_text("harbour of mine")
        found = kernel.files.search("harbour")
        assert {each.path for each in found.passages} == {"kb/harbour.md", "kb/harbour.csv", "mine.txt"}
        assert (found.pending, found.skipped) == (0, {})
        below = kernel.files / "kb"
        assert {each.path for each in below.search("harbour").passages} == {"kb/harbour.md", "kb/harbour.csv"}
        (passage,) = below.search("harbour", k=1, mode="keyword", types=["md"]).passages
        assert (passage.path, passage.title, passage.version) == ("kb/harbour.md", "Harbour", 1)
        assert below.search("harbour", author="nobody").passages == []
        assert (below / "harbour.csv").search("harbour").passages[0].path == "kb/harbour.csv"
        with pytest.raises(NotFound):
            (kernel.files / "nowhere").search("harbour")


def test_memory_is_a_dictionary_of_entries_by_id() -> None:
    with client() as kernel:
        memory = kernel.memory
        id = memory.add("the door code is 4711", kind="fact")
        assert memory[id].content == "the door code is 4711"
        assert id in memory
        assert "m000000000000001" not in memory
        assert memory.get("m000000000000001") is None
        memory[id] = "the door code is 4712"
        assert [entry.content for entry in memory.history(id)] == ["the door code is 4711"]
        other = memory.add("the cat is called Tom")
        assert list(memory) == [other, id]
        assert len(memory) == 2
        assert [entry.id for entry in memory.search("door")] == [id]
        del memory[id]
        assert id not in memory
        drafts = memory.block("drafts")
        drafts.alloc()
        drafts.add("a draft")
        assert (len(drafts), len(memory)) == (1, 1)
        assert drafts.clear() == 1


def test_memory_is_gone_through_to_its_end_though_a_page_ends_for_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "MAX_ANSWER", 2500)
    with client() as kernel:
        ids = [kernel.memory.add(f"{n} " + "x" * 1000) for n in range(5)]
        assert list(kernel.memory) == ids[::-1]
        assert [entry.id for entry in newest(kernel, None, None, 4)] == ids[:0:-1]


@pytest.mark.anyio
async def test_who_awaits_goes_through_memory_to_its_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "MAX_ANSWER", 2500)
    async with booted() as kernel, AsyncClient(transport=InProcess(kernel, key_of(kernel))) as told:
        ids = [await told.memory.add(f"{n} " + "x" * 1000) for n in range(5)]
        assert [entry.id async for entry in told.memory] == ids[::-1]


@pytest.mark.anyio
async def test_an_agent_has_both_to_await() -> None:
    async with booted() as kernel, AsyncClient(transport=InProcess(kernel, key_of(kernel))) as told:
        agent = Agent("a", told)
        id = await agent.memory.add("the door code is 4711")
        assert (await agent.memory[id]).content == "the door code is 4711"
        assert (await agent.memory.update(id, importance=0.5)).revision == 2
        assert [entry.id async for entry in agent.memory] == [id]
        assert [entry.id for entry in await agent.memory.search("door")] == [id]
        assert (await agent.memory.stat()).entries == 1
        await agent.memory.remove(id)
        assert await agent.memory.get(id) is None
        note = agent.files / "a" / "b.txt"
        await note.write_text("text")
        assert await note.read_text() == "text"
        assert [each.path async for each in agent.files.iterdir()] == ["a"]
        assert [each.text for each in (await note.parent.search("text", types=["txt"])).passages] == ["text"]
        assert await (await note.rename("c.txt")).is_file()
        assert await note.parent.is_dir()
        assert not await note.exists()

"""Whatever was done to files before, what is found in them is exactly what their newest versions hold."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from knowledge_world import KnowledgeWorld

from aios.abi.calls import StoClear, StoList, StoMove, StoRead, StoRestore, StoRollback
from aios.abi.errors import AiosError
from aios.kernel.storage.knowledge import reader
from aios.kernel.storage.knowledge.split import split

AGENTS = st.sampled_from(["a", "b"])
PATHS = st.sampled_from(["x.txt", "d/x.txt", "d/y.md", "d/e/x.txt", "d", "d/e", "f/z.md", "f"])
WORDS = ("anchor", "boat", "crane", "dock", "ebb")
TEXTS = st.lists(st.sampled_from([*WORDS, "# Head\n\n", "\n\n", "and some more words. " * 30]), max_size=8).map(
    " ".join
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), AGENTS, PATHS, TEXTS),
        st.tuples(st.just("move"), AGENTS, PATHS, PATHS),
        st.tuples(st.sampled_from(["clear", "restore", "roll back", "for good"]), AGENTS, PATHS, st.just("")),
        st.tuples(st.sampled_from(["find", "find below", "ask"]), AGENTS, PATHS, st.sampled_from(WORDS)),
        st.tuples(st.sampled_from(["settle", "restart", "keep house"]), AGENTS, PATHS, st.just("")),
    ),
    min_size=5,
    max_size=60,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_what_is_found_is_what_the_newest_versions_hold(steps: list[tuple[str, str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        asyncio.run(_through(Path(place), steps))


async def _through(place: Path, steps: list[tuple[str, str, str, str]]) -> None:
    world = KnowledgeWorld(place)
    await world.begin()
    for step in steps:
        await _one(world, *step)
    for agent in ("a", "b"):
        await _check(world, agent, "", WORDS[0])
    await world.storage.keep_house()
    assert world.count("readings", "state <> 1") == 0
    assert world.count("passages", "reading NOT IN (SELECT id FROM readings)") == 0
    assert world.count("passages") == world.count("passage_texts")
    await world.end()
    world.close()


async def _one(world: KnowledgeWorld, what: str, agent: str, path: str, more: str) -> None:
    calls = {
        "move": lambda: StoMove(path=path, to=more),
        "clear": lambda: StoClear(path=path),
        "restore": lambda: StoRestore(path=path),
        "roll back": lambda: StoRollback(path=path, version=1),
        "for good": lambda: StoClear(path=path, trash=True),
    }
    world.clock.advance(0.5)
    if what in calls:
        await _tried(world.call(calls[what](), agent))
    elif what == "write":
        await _tried(world.write(path, more, agent))
    elif what == "find":
        await _check(world, agent, "", more)
    elif what == "find below":
        await _check(world, agent, path, more)
    elif what == "ask":  # without waiting for an answer
        world.asking.append(asyncio.ensure_future(_tried(world.ask(more, agent))))
        await asyncio.sleep(0)
    elif what == "settle":
        world.clock.advance(reader.SETTLE)
        await world.read()
    elif what == "keep house":
        await world.storage.keep_house()
    else:
        await world.read()
        await world.again()


async def _tried(call: object) -> object:
    try:
        return await call  # type: ignore[misc]
    except AiosError:
        return None


async def _check(world: KnowledgeWorld, agent: str, path: str, word: str) -> None:
    held = await _held(world, agent, path)
    passages = await _tried(world.ask(word, agent, k=1000, **({"path": path} if path else {})))
    if passages is None:
        assert held == {}
        return
    assert passages.pending == 0  # type: ignore[attr-defined]
    found = {(each.path, each.version, each.start, each.end, each.text) for each in passages.passages}  # type: ignore[attr-defined]
    assert found == {
        (name, version, start, end, text[start:end])
        for name, (version, text) in held.items()
        for start, end, _ in split(text, "markdown" if name.endswith(".md") else "text")
        if word in text[start:end].split()
    }


async def _held(world: KnowledgeWorld, agent: str, path: str) -> dict[str, tuple[int, str]]:
    """The files at `path` and below, as other calls show them."""
    listing = await _tried(world.call(StoList(path=path), agent))
    held: dict[str, tuple[int, str]] = {}
    for entry in listing.entries if listing is not None else ():  # type: ignore[attr-defined]
        if entry.kind == "folder":
            held |= await _held(world, agent, entry.path)
        else:
            file = await world.call(StoRead(path=entry.path), agent)
            held[entry.path] = (file.version, file.content)
    return held

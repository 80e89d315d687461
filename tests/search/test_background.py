"""Vectors are made in the background: by whoever makes them, whatever that does, and nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_world import Told, World, by_first_word

from aios.abi.errors import BadRequest, ContextLengthExceeded, TimedOut, UpstreamFault
from aios.kernel.search import background, upkeep
from aios.kernel.search.nearest import Vectors
from aios.testing import settle, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path, Told())
    yield world
    await world.close()


async def opened(world: World, embedder: Told) -> None:
    """As if the kernel had stopped, and started with another embedder."""
    await world.search.close()
    world.use(embedder)
    await world.search.open()
    await world.search.idle()


def now(world: World) -> dict[str, Any]:
    return world.search.statistics()


async def test_texts_are_found_by_their_vectors_once_those_are_made_and_by_words_before(world: World) -> None:
    told = Told()
    told.gate.clear()
    world.use(told)
    await world.search.open()
    await world.put(1, 1, "cat on the mat")
    await world.put(1, 2, "dog in the yard")
    assert world.unembedded(1) == 2
    assert await world.rows(1, "yard") == [2]
    told.gate.set()
    await world.search.idle()
    assert world.unembedded(1) == 0
    assert (await world.rows(1, "cat whatever", mode="vector"))[0] == 1
    assert (await world.rows(1, "DOG other", mode="vector"))[0] == 2


async def test_what_was_left_to_do_is_done_after_a_restart(world: World) -> None:
    await world.put(1, 1, "cat")
    await opened(world, Told())
    assert (world.unembedded(1), await world.rows(1, "cat", mode="vector")) == (0, [1])


BAD = {
    "of another dimension": np.ones(9),
    "of none": np.ones(0),
    "nested": np.ones((2, 4)),
    "a number that is none": np.array([1.0, np.nan] * 4),
    "one that is infinite": np.array([1.0, np.inf] * 4),
    "all zero": np.zeros(8),
    "words": np.array(["a"] * 8),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_vector_that_is_none_is_refused_once_and_its_text_is_found_by_words(
    world: World, bad: Any, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(make=lambda text: bad if "bad" in text else by_first_word(text))
    await opened(world, told)
    await world.put(1, 1, "fine first")
    await world.put(1, 2, "bad vector")
    await world.put(1, 3, "fine too")
    with caplog.at_level(logging.WARNING):
        await world.search.idle()
    assert "'told' gives it no vector: its vector is of no use" in caplog.text
    assert (world.unembedded(1), now(world)["refused"]) == (0, 1)
    assert set(await world.rows(1, "fine", mode="vector")) == {1, 3}
    assert (await world.rows(1, "bad", mode="keyword"))[0] == 2
    if bad.shape == (8,) and not np.any(bad != 0):  # it is one, and means nothing
        assert await world.rows(1, "bad", mode="vector") == []
        return
    with pytest.raises(UpstreamFault, match="of no use"):
        await world.rows(1, "bad", mode="vector")
    asked = await world.index.ask("bad", 5)
    assert asked.mode == "keyword"
    assert "of no use" in str(asked.why)


async def test_a_text_that_is_refused_keeps_no_other_from_its_vector(world: World) -> None:
    told = Told(make=lambda text: BadRequest("not this one") if "bad" in text else by_first_word(text))
    await opened(world, told)
    for row in range(1, 12):
        await world.put(1, row, "bad" if row == 5 else f"fine {row}")
    await world.search.idle()
    assert (now(world)["refused"], now(world)["embedded"]) == (1, 10)
    assert 5 not in await world.rows(1, "fine", k=20, mode="vector")


async def test_a_text_that_is_too_long_is_cut_until_it_fits(world: World) -> None:
    def make(text: str) -> Any:
        return ContextLengthExceeded("too long") if len(text) > 100 else by_first_word(text)

    await opened(world, Told(make=make))
    await world.put(1, 1, "cat " * 300)
    await world.put(1, 2, "dog")
    await world.search.idle()
    assert (now(world)["embedded"], now(world)["refused"]) == (2, 0)
    assert (await world.rows(1, "cat", mode="vector"))[0] == 1


async def test_an_embedder_that_fails_is_left_alone_longer_and_longer_and_taken_up_when_it_is_back(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    broken = [True]
    told = Told(make=lambda text: UpstreamFault("no connection") if broken[0] else by_first_word(text))
    await world.search.close()
    world.use(told)
    await world.search.open()
    await world.put(1, 1, "cat")
    with caplog.at_level(logging.WARNING):
        await world.search.idle()
        for rest in (1.0, 2.0, 4.0):
            before = len(told.asked)
            world.clock.advance(rest - 0.01)
            await world.put(1, 2, f"dog {rest}")
            await world.search.idle()
            assert len(told.asked) == before
            world.clock.advance(0.01)
            await until(lambda n=before: len(told.asked) > n)
            await world.search.idle()
    assert caplog.text.count("cannot be made now: no connection") == 1
    assert (now(world)["failure"], world.unembedded(1)) == ("no connection", 2)
    broken[0] = False
    world.clock.advance(8.0)
    await until(lambda: now(world)["failure"] is None)
    assert (await world.rows(1, "cat", mode="vector"))[0] == 1


async def test_an_embedder_that_makes_too_few_vectors_has_failed(world: World) -> None:
    told = Told()
    told.embed = lambda texts, is_urgent: asyncio.sleep(0, [])  # type: ignore[method-assign]
    await world.put(1, 1, "cat")
    await opened(world, told)
    assert now(world)["failure"] == "model 'told' made 0 vectors of 1 texts"
    assert world.unembedded(1) == 1


async def test_another_model_embeds_everything_anew_and_the_old_vectors_are_not_used(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "PORTION", 3)
    await world.search.open()
    for row in range(1, 12):
        await world.put(1 + row % 2, row, f"word{row}")
    await world.search.idle()
    other = Told("other", make=lambda text: by_first_word(text, 16))
    other.gate.clear()
    await world.search.close()
    world.use(other)
    await world.search.open()
    await until(lambda: other.asked)  # it is asked what its dimension is before anything is marked
    other.gate.set()
    await world.search.idle()
    assert (now(world)["dimension"], now(world)["unembedded"]) == (16, 0)
    assert (await world.rows(2, "word3", mode="vector"))[0] == 3
    await opened(world, Told("other", make=lambda text: by_first_word(text, 16)))
    assert now(world)["embedded"] == 0, "nothing is left to do for the same model"


async def test_until_all_is_embedded_anew_the_new_vectors_are_searched_and_words_for_the_rest(world: World) -> None:
    await world.search.open()
    for row in range(1, 11):
        await world.put(1, row, f"word{row} here")
    await world.search.idle()
    await world.search.close()

    def make(text: str) -> Any:
        done = sum(len(asked) for asked in other.asked)
        return UpstreamFault("enough for now") if done > 8 else by_first_word(text, 16)

    other = Told("other", make=make)
    other.batch = 4
    world.use(other)
    await world.search.open()
    await world.search.idle()
    left = world.unembedded(1)
    assert 0 < left < 10
    other.make = lambda text: by_first_word(text, 16)
    assert len(await world.rows(1, "here", mode="vector", k=20)) == 10 - left
    assert len(await world.rows(1, "here", k=20)) == 10


async def test_a_model_whose_dimension_changed_under_its_name_is_another_model(world: World) -> None:
    await world.search.open()
    await world.put(1, 1, "cat")
    await world.search.idle()
    await opened(world, Told(make=lambda text: by_first_word(text, 32)))
    await world.put(1, 2, "dog")
    await world.search.idle()
    assert (now(world)["dimension"], world.unembedded(1)) == (32, 0)
    assert set(await world.rows(1, "cat", mode="vector")) <= {1, 2}
    assert (await world.rows(1, "cat", mode="vector"))[0] == 1


async def test_a_query_shows_that_the_model_has_changed(world: World) -> None:
    await world.search.open()
    await world.put(1, 1, "cat")
    await world.search.idle()
    await opened(world, Told(make=lambda text: by_first_word(text, 32)))
    await world.rows(1, "cat")
    await world.search.idle()
    assert (await world.rows(1, "cat", mode="vector")) == [1]


async def test_a_query_whose_vector_does_not_come_in_time_is_answered_by_words_which_the_answer_says(
    world: World,
) -> None:
    told = Told()
    await opened(world, told)
    await world.put(1, 1, "cat")
    await world.search.idle()
    told.gate.clear()
    for mode in ("hybrid", "vector"):
        asking = asyncio.ensure_future(world.index.ask("cat", 5, mode=mode))  # type: ignore[arg-type]
        await settle()
        world.clock.advance(2.0)
        if mode == "vector":
            with pytest.raises(TimedOut, match="made no vector of the query within 2 s"):
                await asking
        else:
            asked = await asking
            assert (asked.mode, asked.why) == ("keyword", "model 'told' made no vector of the query within 2 s")
    told.gate.set()


async def test_a_text_that_changes_while_its_vector_is_made_gets_that_of_what_it_is_now(world: World) -> None:
    told = Told()
    await opened(world, told)
    await world.put(1, 1, "cat")
    await world.put(1, 2, "bird")
    await world.search.idle()
    told.gate.clear()
    await world.put(1, 1, "dog")
    await until(lambda: told.asked[-1] == ["dog"])
    await world.put(1, 1, "fish")
    await world.drop(2)
    await world.put(1, 3, "cow")
    told.gate.set()
    await world.search.idle()
    assert (await world.rows(1, "fish", mode="vector"))[0] == 1
    assert told.asked[-2:] == [["fish", "cow"], ["fish"]]
    assert set(await world.rows(1, "x", mode="vector")) == {1, 3}


async def test_who_has_many_texts_does_not_make_others_wait(world: World) -> None:
    for row in range(1, 301):
        await world.put(1, row, f"many {row}")
    for scope in range(2, 5):
        await world.put(scope, 1000 + scope, "few")
    told = Told(dimension=8)
    await opened(world, told)
    assert all("few" in asked for asked in told.asked[:1])
    assert len(told.asked) == 6
    assert all(world.unembedded(scope) == 0 for scope in range(1, 5))


async def test_vectors_are_made_when_the_writer_has_little_to_do(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(dimension=8)
    waiting = [background.BUSY]
    busy = world.database.statistics
    monkeypatch.setattr(world.database, "statistics", lambda: busy() | {"waiting": waiting[0]})
    await world.search.close()
    world.use(told)
    await world.search.open()
    for row in range(1, 200):
        await world.put(1, row, f"text {row}")
    await until(lambda: told.asked)
    await settle()
    assert len(told.asked) == 1
    waiting[0] = 0
    await until(lambda: world.clock.num_timers)
    world.clock.advance(background.GIVE_WAY)
    await world.search.idle()
    assert world.unembedded(1) == 0


async def test_a_stop_waits_for_no_embedder(world: World) -> None:
    told = Told()
    told.gate.clear()
    await world.put(1, 1, "cat")
    world.use(told)
    await world.search.open()
    await until(lambda: told.asked)
    await world.search.close()
    await world.put(1, 2, "dog")
    assert world.unembedded(1) == 2


async def test_vectors_in_memory_are_bounded_and_the_scope_searched_longest_ago_leaves(world: World) -> None:
    await opened(world, Told(dimension=8))
    for scope in (1, 2, 3):
        for row in range(100):
            await world.put(scope, scope * 1000 + row, f"word{row}")
    await world.search.idle()
    vectors = world.index._vectors
    await world.rows(1, "word1", mode="vector")
    vectors._max_bytes = int(vectors.num_bytes * 2.5)
    for scope in (2, 1, 3, 1, 2):
        assert (await world.rows(scope, "word1", mode="vector"))[0] == scope * 1000 + 1
    seen = vectors.statistics()
    assert (seen["scopes"], seen["evictions"], seen["loads"]) == (2, 2, 4)
    assert seen["bytes"] <= vectors._max_bytes


async def test_a_scope_larger_than_all_that_may_be_in_memory_is_searched_all_the_same(world: World) -> None:
    world.index._vectors = Vectors(max_bytes=10)
    await opened(world, Told(dimension=8))
    world.index._vectors = Vectors(max_bytes=10)
    await world.put(1, 1, "cat")
    await world.put(1, 2, "dog")
    await world.search.idle()
    assert (await world.rows(1, "dog", mode="vector"))[0] == 2
    assert world.index._vectors.num_bytes == 0


async def test_much_that_was_dropped_leaves_memory_too(world: World) -> None:
    await opened(world, Told(dimension=8))
    for row in range(1, 801):
        await world.put(1, row, f"word{row}")
    await world.search.idle()
    assert len(await world.rows(1, "word1", k=1000, mode="vector")) > 300
    await world.drop(*range(1, 791))
    assert set(await world.rows(1, "word1", k=1000, mode="vector")) <= set(range(791, 801))
    kept = next(iter(world.index._vectors._kept.values()))
    assert kept.matrix.count == 10


async def test_a_text_of_the_highest_scope_gets_its_vector_too(world: World) -> None:
    scope = 2_000_000_000
    await world.put(scope, 1, "cat")
    await opened(world, Told())
    assert world.unembedded(scope) == 0

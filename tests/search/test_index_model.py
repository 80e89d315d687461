"""The index against a plain dictionary: whatever is put, dropped and searched, whichever model makes the vectors and
however it fails meanwhile."""

from __future__ import annotations

import asyncio
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from search_world import Told, World, by_first_word

from aios.abi.errors import BadRequest, UpstreamFault
from aios.kernel.search import Where

WORDS = ["amber", "birch", "cedar", "dune", "ember", "frost", "nan", "refused", "zero"]
BAD = {"nan", "refused", "zero"}
"""Texts that begin so get no vector."""
MODELS = [("first", 8), ("second", 8), ("second", 12)]
ROWS = st.integers(1, 25)
PLACES = st.integers(0, 2)
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)


class Searching(RuleBasedStateMachine):
    """Places are the rooms' own; each has the number of a scope, and another one after it was dropped."""

    @initialize(model=st.sampled_from(MODELS))
    def begin(self, model: tuple[str, int]) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.is_down = False
        self.fresh = count(1)
        self.numbers = {place: next(self.fresh) for place in range(3)}
        self.embedder = self._embedder(model)
        self.world = World(Path(self.folder.name), self.embedder)
        self.runner.run(self.world.search.open())

    def _embedder(self, model: tuple[str, int]) -> Told:
        name, dimension = model

        def make(text: str) -> Any:
            if self.is_down:
                return UpstreamFault("down")
            match text.split()[0]:
                case "refused":
                    return BadRequest("not this")
                case "nan":
                    return np.full(dimension, np.nan)
                case "zero":
                    return np.zeros(dimension)
            return by_first_word(f"{text.split()[0]}-{name}", dimension)

        return Told(name, None, make)

    # ── what happens ──

    @rule(place=PLACES, row=ROWS, text=TEXTS)
    def put(self, place: int, row: int, text: str) -> None:
        self.runner.run(self.world.put(self.numbers[place], row, text, created=float(row)))

    @rule(rows=st.sets(ROWS, max_size=6))
    def drop(self, rows: set[int]) -> None:
        self.runner.run(self.world.drop(*rows))

    @rule(place=PLACES)
    def drop_place(self, place: int) -> None:
        self.runner.run(self.world.drop_scope(self.numbers[place]))
        self.numbers[place] = next(self.fresh)

    @rule(model=st.sampled_from(MODELS))
    def restart(self, model: tuple[str, int]) -> None:
        async def again() -> None:
            await self.world.search.close()
            self.embedder = self._embedder(model)
            self.world.use(self.embedder)
            await self.world.search.open()

        self.runner.run(again())

    @rule()
    def fall(self) -> None:
        self.is_down = True

    @rule()
    def rise(self) -> None:
        self.is_down = False
        self.world.clock.advance(600)

    @rule()
    def turn(self) -> None:
        """Let the background work a little, and leave it in the middle."""
        self.runner.run(asyncio.sleep(0))

    @rule()
    def everything_gets_its_vector_when_the_embedder_is_well(self) -> None:
        self.rise()

        async def idle() -> None:
            await self.world.search.idle()
            self.world.clock.advance(600)
            await self.world.search.idle()

        self.runner.run(idle())
        for place, number in self.numbers.items():
            assert self.world.unembedded(number) == 0
            texts = self._texts(place)
            good = {row for row, text in texts.items() if text.split()[0] not in BAD}
            for word in ("amber", "birch"):
                found = self.runner.run(self.world.rows(number, word, k=100, mode="vector"))
                assert len(found) == len(set(found))
                assert set(found) == good
                first = {row for row in good if texts[row].split()[0] == word}
                assert set(found[: len(first)]) == first

    # ── what is found ──

    @rule(place=PLACES, words=st.sets(st.sampled_from(WORDS), min_size=1, max_size=3))
    def words_are_found_at_once(self, place: int, words: set[str]) -> None:
        texts = self._texts(place)
        holders = {row for row, text in texts.items() if words & set(text.split())}
        query = " ".join(sorted(words))
        number = self.numbers[place]
        found = self.runner.run(self.world.rows(number, query, k=100, mode="keyword"))
        assert len(found) == len(set(found))
        assert set(found) == holders
        hybrid = self.runner.run(self.world.rows(number, query, k=100))
        assert holders <= set(hybrid) <= set(texts)
        older = self.runner.run(self.world.rows(number, query, 100, Where("t.created < ?", (13.0,)), mode="keyword"))
        assert set(older) == {row for row in holders if row < 13}

    def _texts(self, place: int) -> dict[int, str]:
        return self.world.model.get(self.numbers[place], {})

    @invariant()
    def the_index_is_sound(self) -> None:
        if hasattr(self, "world"):
            assert self.world.search.check_integrity() == []

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.runner.run(self.world.close())
            self.runner.close()
            self.folder.cleanup()


TestSearching = Searching.TestCase
TestSearching.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)

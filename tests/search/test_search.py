"""Texts of a room: found by their words and their meaning, by nobody else, whatever else is written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from search_world import Told, World

from aios.kernel.database import value
from aios.kernel.search import Where, keyword

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.close()


async def test_a_text_is_found_by_any_word_of_it_at_once(world: World) -> None:
    await world.put(1, 1, "The harbour of Lisbon")
    await world.put(1, 2, "A train to Porto")
    assert await world.rows(1, "trains and PORTO", mode="keyword") == [2]
    assert await world.rows(1, "lisbon") == [1]
    assert await world.rows(1, "madrid") == []


async def test_the_better_match_comes_first_and_the_newer_before_the_older(world: World) -> None:
    await world.put(1, 1, "red")
    await world.put(1, 2, "red house")
    await world.put(1, 3, "red house")
    await world.put(1, 4, "blue boat by the sea")
    assert await world.rows(1, "red house", mode="keyword") == [3, 2, 1]
    assert await world.rows(1, "red house", k=2, mode="keyword") == [3, 2]


async def test_what_is_put_again_is_found_as_it_is_now_and_what_is_dropped_is_not_found(world: World) -> None:
    await world.put(1, 1, "old words")
    await world.put(1, 2, "other words")
    await world.put(1, 1, "new ones")
    assert await world.rows(1, "old") == []
    assert await world.rows(1, "new") == [1]
    await world.drop(2, 99)
    assert await world.rows(1, "words") == []


async def test_a_scope_that_is_dropped_is_gone_at_once_and_cleared_away_in_the_background(world: World) -> None:
    for row in range(1, 1200):
        await world.put(row % 2 + 1, row, f"word {row}")
    await world.drop_scope(1)
    assert await world.rows(1, "word") == []
    await world.search.open()
    await world.search.idle()
    assert world.database.read(lambda c: value(c, "SELECT count(*) FROM memory_words")) == 600
    assert world.database.read(lambda c: value(c, "SELECT count(*) FROM memory_vectors")) == 600
    assert len(await world.rows(2, "word", k=1000)) == 600


QUERIES = [
    '"', '""', "'", "*", "wor*", "AND", "OR", "NOT", "word AND", "NEAR(word secret)", "words : secret", "-word",
    "^word", "(", ")))", "{words}", "word + secret", "memory_words", "rowid:1", "1xsecret", "2xsecret", "x", "\\",
    "%", "_", "\x00", "word\x00secret", "🙂", "﷽", "٣", "²2xsecret", "\ue0002xsecret", "a" * 4000, "word " * 800,
]  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("text", ["secret", "🙂 secret", "\ue000secret", "²secret x secret"])
async def test_no_query_reaches_another_scope_or_is_understood_as_more_than_words(
    world: World, query: str, text: str
) -> None:
    await world.put(2, 1, text)
    await world.put(1, 2, "plain")
    await world.search.open()
    await world.search.idle()
    for mode in ("keyword", "vector", "hybrid"):
        assert 1 not in await world.rows(1, query, mode=mode)


@pytest.mark.parametrize("text", ["2xsecret", "² 2xsecret", "\ue000 2xsecret", "a\u03012xsecret", "ﬁ2xsecret"])
async def test_no_text_gets_into_the_words_of_another_scope(world: World, text: str) -> None:
    await world.put(2, 1, "a secret and more")
    before = await world.hits(2, "secret more", mode="keyword")
    await world.put(1, 2, text)
    assert await world.hits(2, "secret more", mode="keyword") == before


async def test_what_others_write_changes_no_score(world: World) -> None:
    for row, text in enumerate(["a common word", "a common word and a rare one", "something else"], 1):
        await world.put(1, row, text)
    await world.search.open()
    await world.search.idle()
    before = {mode: await world.hits(1, "common rare", mode=mode) for mode in ("keyword", "vector", "hybrid")}
    for row in range(10, 60):
        await world.put(2, row, "rare rare rare")
    await world.search.idle()
    assert {mode: await world.hits(1, "common rare", mode=mode) for mode in before} == before
    assert before["keyword"][0].row == 2


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("東京は今日とても寒い", "寒い"),
        ("東京は今日とても寒い", "京"),
        ("東京は今日とても寒い", "い"),
        ("วันนี้อากาศหนาวมาก", "หนาว"),
        ("오늘은 서울이 춥다", "서울"),
        ("Ein Café in Zürich", "cafe zurich"),
        ("un café décomposé", "décomposé"),
        ("Ελλάδα και Αθήνα", "ΑΘΗΝΑ"),
        ("हिन्दी में लिखा", "हिन्दी"),
        ("see foo_bar.baz(1)", "bar"),
        ("what does C++ cost", "C++"),
        ("### 🙂 ###", "🙂"),
        ("running and ran", "runs"),
    ],
)
async def test_words_are_found_in_scripts_with_and_without_spaces_accents_and_signs(
    world: World, text: str, query: str
) -> None:
    await world.put(1, 1, "nothing of that")
    await world.put(1, 2, text)
    assert (await world.rows(1, query, mode="keyword"))[:1] == [2]


async def test_a_condition_holds_for_whatever_is_found(world: World) -> None:
    for row in range(1, 41):
        await world.put(1, row, f"note {row} about #tea", created=float(row))
    await world.search.open()
    await world.search.idle()
    older = Where("t.created < ?", (4.0,))
    for query in ("note tea", "about 17", "#", "tea"):
        for mode in ("keyword", "hybrid"):
            assert set(await world.rows(1, query, where=older, mode=mode)) == {1, 2, 3}
    assert set(await world.rows(1, "note tea", where=older, mode="vector")) == {1, 2, 3}


async def test_what_is_old_is_found_by_a_condition_however_many_newer_texts_hold_the_word(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyword, "COMMON", 5)
    for row in range(1, 30):
        await world.put(1, row, "the same word" + (" twice" if row == 7 else ""), created=float(row))
    assert await world.rows(1, "word", where=Where("t.created = ?", (2.0,)), mode="keyword") == [2]
    assert (await world.rows(1, "word twice", mode="keyword"))[0] == 7
    assert len(await world.rows(1, "word", mode="keyword")) == 5


async def test_two_common_words_find_an_old_text_that_holds_both(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyword, "COMMON", 5)
    await world.put(1, 1, "salt and pepper")
    for row in range(2, 40):
        await world.put(1, row, "salt" if row % 2 else "pepper")
    assert (await world.rows(1, "pepper salt", mode="keyword"))[0] == 1


async def test_recency_and_importance_count_as_much_as_they_are_said_to(world: World) -> None:
    await world.put(1, 1, "tea tea tea", created=1.0, importance=0.1)
    await world.put(1, 2, "tea and more words than that", created=9.0)
    await world.put(1, 3, "tea and more words than that, many more", created=2.0, importance=0.9)
    await world.put(1, 4, "coffee", created=99.0, importance=1.0)
    assert await world.rows(1, "tea", mode="keyword") == [1, 2, 3]
    assert (await world.rows(1, "tea", recency=1.0, mode="keyword"))[0] == 2
    assert (await world.rows(1, "tea", importance=1.0, mode="keyword"))[0] == 3
    assert await world.rows(1, "tea", recency=0.01, mode="keyword") == [1, 2, 3]


async def test_texts_that_a_room_had_before_it_had_an_index_are_taken_up(world: World) -> None:
    for row in range(1, 1101):
        await world.put(row % 3 + 1, row, f"text {row}")
    await world.database.run(world.index.rebuild)
    assert await world.rows(1, "text") == []
    world.search.take_up()
    world.check()
    assert await world.rows(1, "1098") == [1098]
    assert len(await world.rows(1, "text", k=1000)) == 366


async def test_scopes_that_are_searched_together_are_ranked_as_one(world: World) -> None:
    texts = ["red and more", "red house", "a red, red house", "blue boat", "green", "red house by the blue sea", "sea"]
    for row, text in enumerate(texts, 1):
        await world.put(1, row, text)
        await world.put(2 + row % 2, 100 + row, text)
    await world.put(9, 200, "red house " * 5)
    await world.search.open()
    await world.search.idle()
    for query in ("red", "house red", "blue sea", "boat house", "#", "ee"):
        for mode in ("keyword", "vector", "hybrid"):
            alone = await world.hits(1, query, mode=mode)
            together = await world.hits([2, 3, 7], query, mode=mode)
            assert [(hit.row - 100, round(hit.score, 5)) for hit in together] == [
                (hit.row, round(hit.score, 5)) for hit in alone
            ]
    assert await world.rows([7], "red") == []


async def test_misspelt_words_and_other_forms_of_a_word_are_found_by_the_vectors_of_letters(world: World) -> None:
    await world.put(1, 1, "the accommodation in Copenhagen was expensive")
    await world.put(1, 2, "a bicycle needs new tyres")
    await world.search.open()
    await world.search.idle()
    assert await world.rows(1, "acommodation copenhaguen", mode="keyword") == []
    assert await world.rows(1, "acommodation copenhaguen") == [1]


async def test_a_stray_word_of_a_question_does_not_bury_what_the_vectors_have_found(tmp_path: Path) -> None:
    told = Told(make=lambda text: np.eye(4)[0] if "feline" in text or "cat" in text else np.eye(4)[1])
    world = World(tmp_path, told)
    await world.search.open()
    await world.put(1, 1, "the feline rests upon cushions")
    for row in range(2, 30):
        await world.put(1, row, f"somebody sleeps in house number {row}")
    await world.search.idle()
    assert (await world.rows(1, "somebody's cat sleeps where"))[0] == 1
    assert (await world.rows(1, "house number 7"))[0] == 7
    await world.close()

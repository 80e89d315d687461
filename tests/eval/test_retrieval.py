"""The corpus that searches are judged by, and the two benchmarks of searching: small, and that they measure at all."""

from __future__ import annotations

import pytest

from aios.eval.bench import retrieval, search
from aios.eval.lexicon import ACTIONS, OBJECTS, PEOPLE, PLACES
from aios.eval.retrieval import content_words, corpus, scores, shared

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("half", [0, 1])
def test_half_of_the_questions_share_no_word_with_a_meaning_with_their_passage(half: int) -> None:
    made = corpus(3, half=half)
    assert (len(made.passages), len(made.questions), len(made.misspelt)) == (2000, 500, 250)
    assert len(set(made.passages)) == 2000
    paraphrased = [each for each in made.questions if each.kind == "other words"]
    assert len(paraphrased) == 250
    for each in paraphrased:
        assert shared(each.text, made.passages[each.passage]) == set()
        assert len(content_words(each.text)) >= 3
    for each in made.questions:
        assert each in paraphrased or len(shared(each.text, made.passages[each.passage])) >= 3


def test_the_same_seed_makes_the_same_corpus_and_another_another() -> None:
    assert corpus(3, num_passages=200, num_questions=40) == corpus(3, num_passages=200, num_questions=40)
    assert corpus(3, num_passages=200, num_questions=40) != corpus(4, num_passages=200, num_questions=40)


def test_the_half_that_judges_has_no_concept_of_the_one_that_was_tuned_on() -> None:
    for table in (PEOPLE, ACTIONS, OBJECTS, PLACES):
        lines = [line for line in table.split("\n") if line]
        assert not {*lines[0::2]} & {*lines[1::2]}
        words = [word for line in lines for word in line.split("|")]
        assert len(words) == len(set(words)), "a word that means two things makes wrong labels"


def test_scores_count_what_is_among_the_first_five_and_one_over_the_rank() -> None:
    judged = scores([1, 2, 6, None])
    assert (judged.recall_5, round(judged.mrr, 4)) == (0.5, round((1 + 1 / 2 + 1 / 6) / 4, 4))


async def test_retrieval_is_judged_by_mode_and_kind_of_question() -> None:
    figures = await retrieval.measure(quick=True)
    assert figures["lexical"]["keyword"]["same words"]["recall_5"] > 0.9
    assert figures["lexical"]["hybrid"]["misspelt"]["mrr"] > figures["lexical"]["keyword"]["misspelt"]["mrr"]
    assert "misspelt" in retrieval.table(figures)


async def test_searches_are_timed_by_mode_and_kind_of_query() -> None:
    figures = await search.measure(entries=300, agents=3)
    assert set(figures["one_block"]["a sentence"]) == {"keyword", "vector", "hybrid", "bare FTS5"}
    assert figures["vectors"]["loads"] == 2
    assert "vectors a second" in search.table(figures)

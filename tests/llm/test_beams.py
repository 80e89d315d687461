"""Beam search finds what it should: all of it when it is wide enough, and the same each time."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import TOKENIZER, vocabulary

from aios.kernel.llm.local import beams
from aios.kernel.llm.local.branch import Branch, Spec
from aios.kernel.llm.local.grammar import Grammars
from aios.kernel.llm.local.linear import F32
from aios.kernel.llm.local.sampler import Sampler

GRAMMARS = Grammars(vocabulary())
END = vocabulary().end
SIZE = len(TOKENIZER.tokens)
WORDS = (65, 66, END)


def model(seed: int):  # type: ignore[no-untyped-def]
    """Logits over three tokens that depend on all that was said."""

    def logits(said: tuple[int, ...]) -> F32:
        rng = random.Random(f"{seed}/{said}")
        row = np.full(SIZE, -np.inf, np.float32)
        for token in WORDS:
            row[token] = rng.choice([rng.uniform(-2, 2), 0.0])  # ties happen
        return row

    return logits


def search(seed: int, width: int, longest: int, penalty: float) -> list[Branch]:
    """Decode as a sequence does, without a model and without KV."""
    logits = model(seed)
    spec = Spec((1,), max_tokens=longest, beam_width=width, length_penalty=penalty)
    sampler = Sampler(spec.sampling, SIZE, vocabulary().banned(may_call=False))
    live, ended = [Branch(spec, GRAMMARS)], list[Branch]()
    while live:
        _, live, done = beams.step(live, [logits(tuple(branch.output)) for branch in live], width, sampler)
        ended = beams.best(ended + done, width)
        if beams.is_over(live, ended, width):
            live = []
    return ended


def score(seed: int, line: tuple[int, ...]) -> float:
    logits, total = model(seed), 0.0
    for at, token in enumerate(line):
        row = logits(line[:at]).astype(np.float64)
        total += row[token] - math.log(np.exp(row - row.max()).sum()) - row.max()
    return total


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1 << 20), st.sampled_from([0.0, 0.5, 1.0]))
def test_a_search_wide_enough_for_all_lines_finds_the_worthiest(seed: int, penalty: float) -> None:
    longest = 4
    lines = [
        line
        for size in range(1, longest + 1)
        for line in itertools.product(WORDS, repeat=size)
        if END not in line[:-1] and (line[-1] == END or size == longest)
    ]
    found = search(seed, len(lines), longest, penalty)[0]
    best = max(score(seed, line) / len(line) ** penalty for line in lines)
    assert found.worth == pytest.approx(best, abs=1e-9)
    assert score(seed, tuple(found.output)) == pytest.approx(found.score, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1 << 20), st.integers(1, 4))
def test_of_each_step_the_likeliest_lines_go_on(seed: int, width: int) -> None:
    """Against a search written the plain way: extend, sort, cut."""
    longest, logits = 6, model(seed)

    def worth(line: tuple[int, ...]) -> float:
        return score(seed, line) / len(line)

    live: list[tuple[int, ...]] = [()]
    ended: list[tuple[int, ...]] = []
    for _ in range(longest):
        wider = [(*line, token) for line in live for token in sorted(WORDS) if logits(line)[token] > -np.inf]
        ranked = sorted(wider, key=lambda line: (-round(score(seed, line), 9), live.index(line[:-1]), line[-1]))
        ended += [line for line in ranked[:width] if line[-1] == END or len(line) == longest]
        ended = sorted(ended, key=worth, reverse=True)[:width]
        live = [line for line in ranked if line[-1] != END and len(line) < longest][:width]
        if len(ended) == width and live and max(map(worth, live)) <= worth(ended[-1]):
            break
    assert search(seed, width, longest, 1.0)[0].worth == pytest.approx(worth(ended[0]), abs=1e-9)


def test_the_same_search_gives_the_same_lines_in_the_same_order() -> None:
    first, second = (search(11, 3, 8, 1.0) for _ in range(2))
    assert [branch.output for branch in first] == [branch.output for branch in second]
    assert [branch.worth for branch in first] == sorted((branch.worth for branch in first), reverse=True)


def test_a_forked_line_shares_nothing_that_changes() -> None:
    branch = Branch(Spec((1,), max_tokens=9, stops=("zz",)), GRAMMARS)
    branch.accept(TOKENIZER.encode("a")[0])
    other = branch.fork()
    for token in TOKENIZER.encode("bcd"):
        other.accept(token)
    assert branch.text.text == "a"
    assert other.text.text == "abcd"
    assert len(branch.output) == 1

"""Choosing tokens, and making text of them: exact, repeatable, whole characters, stop strings left out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.kernel.llm.local.sampler import Mask, Sampler, Sampling
from aios.kernel.llm.local.text import TextStream

V = 50


def none_banned() -> Mask:
    return np.zeros(V, np.bool_)


def logits(seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(V) * 3).astype(np.float32)


def test_greedy_takes_the_best_and_the_smaller_id_on_a_tie() -> None:
    row = np.zeros(V, np.float32)
    row[[7, 3]] = 2
    assert Sampler(Sampling(), V, none_banned()).choose(row) == 3


def test_the_same_seed_draws_the_same_tokens_and_another_one_others() -> None:
    def drawn(seed: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed), V, none_banned())
        return [sampler.choose(logits(i)) for i in range(30)]

    assert drawn(5) == drawn(5)
    assert drawn(5) != drawn(6)
    assert drawn(-1) == drawn(2**64 - 1)


def test_draws_follow_the_distribution() -> None:
    row = np.full(V, -np.inf, np.float32)
    row[:3] = np.log([0.5, 0.3, 0.2])
    sampler = Sampler(Sampling(temperature=1.0, seed=1), V, none_banned())
    counts = np.bincount([sampler.choose(row) for _ in range(4000)], minlength=V)
    assert counts[3:].sum() == 0
    np.testing.assert_allclose(counts[:3] / 4000, [0.5, 0.3, 0.2], atol=0.03)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=1.0, top_k=2), {0, 1}),
        (Sampling(temperature=1.0, top_p=0.5), {0}),
        (Sampling(temperature=1.0, top_p=0.79), {0, 1}),
        (Sampling(temperature=1.0, top_p=0.95, top_k=2), {0, 1}),
        (Sampling(temperature=1.0, top_p=1e-9), {0}),
        (Sampling(temperature=1e-6), {0}),
    ],
)
def test_top_k_and_top_p_cut_the_tail(sampling: Sampling, kept: set[int]) -> None:
    row = np.full(V, -np.inf, np.float32)
    row[:3] = np.log([0.5, 0.3, 0.2])
    sampler = Sampler(sampling, V, none_banned())
    assert {sampler.choose(row) for _ in range(200)} == kept


@given(
    seed=st.integers(0, 10_000), temperature=st.sampled_from([0.0, 0.01, 1.0, 2.0]), top_p=st.sampled_from([0.3, 1.0])
)
def test_banned_and_masked_tokens_are_never_chosen(seed: int, temperature: float, top_p: float) -> None:
    rng = np.random.default_rng(seed)
    banned, allowed = rng.random(V) < 0.5, rng.random(V) < 0.5
    allowed[0], banned[0] = True, False
    sampler = Sampler(Sampling(temperature=temperature, top_p=top_p, seed=seed, logit_bias={1: 100.0}), V, banned)
    token = sampler.choose(logits(seed), allowed)
    assert allowed[token]
    assert not banned[token]


def test_bias_and_penalties_move_the_choice() -> None:
    row = np.zeros(V, np.float32)
    assert Sampler(Sampling(logit_bias={9: 1.0}), V, none_banned()).choose(row) == 9
    shy = Sampler(Sampling(presence_penalty=1.0), V, none_banned())
    assert [shy.choose(row) for _ in range(3)] == [0, 1, 2]
    row[0] = 1.2
    counting = Sampler(Sampling(frequency_penalty=0.5), V, none_banned())
    assert [counting.choose(row) for _ in range(4)] == [0, 0, 0, 1]


@given(st.integers(0, 2**63), st.integers(0, 30))
def test_a_sampler_goes_on_from_its_written_state(seed: int, before: int) -> None:
    sampling = Sampling(temperature=1.0, seed=seed, frequency_penalty=0.5)
    first = Sampler(sampling, V, none_banned())
    chosen = [first.choose(logits(i)) for i in range(before)]
    second = Sampler(sampling, V, none_banned())
    second.restore(json.loads(json.dumps(first.state())), chosen)
    assert [first.choose(logits(i)) for i in range(9)] == [second.choose(logits(i)) for i in range(9)]


def test_log_probabilities_are_the_models_own() -> None:
    row = logits()
    exact = row.astype(np.float64)
    expected = exact - np.log(np.exp(exact).sum())
    found = Sampler(Sampling(temperature=2.0, logprobs=3, logit_bias={1: 50.0}), V, none_banned()).logprob(row, 4)
    assert found.logprob == pytest.approx(expected[4])
    assert [token for token, _ in found.top] == np.argsort(-expected)[:3].tolist()


# ── text ──


def test_a_character_is_given_when_its_bytes_are_complete() -> None:
    stream = TextStream()
    assert [stream.feed(bytes([byte])) for byte in "aé€".encode()] == ["a", "", "é", "", "", "€"]


def test_a_broken_character_at_the_end_is_replaced() -> None:
    stream = TextStream()
    stream.feed("€".encode()[:2])
    assert stream.finish() == "\ufffd"


def test_the_start_of_a_stop_string_is_held_back_until_it_is_clear() -> None:
    stream = TextStream(["</end>"])
    assert stream.feed(b"a</e") == "a"
    assert stream.feed(b"x</en") == "</ex"
    assert stream.finish() == "</en"


def test_a_stop_string_across_tokens_is_left_out_and_ends_the_text() -> None:
    stream = TextStream(["STOP"])
    assert [stream.feed(part) for part in (b"one S", b"TO", b"P two")] == ["one ", "", ""]
    assert stream.is_stopped
    assert stream.text == "one "
    assert stream.finish() == ""


def test_of_two_stop_strings_that_end_together_the_longer_is_left_out() -> None:
    stream = TextStream(["b", "ab"])
    stream.feed(b"xab")
    assert stream.text == "x"


def test_before_min_tokens_a_stop_string_is_text() -> None:
    stream = TextStream(["x"])
    assert stream.feed(b"axb", may_stop=False) == "axb"
    assert stream.feed(b"axb") == "a"
    assert stream.is_stopped


@given(st.text("abc", max_size=40), st.lists(st.text("abc", min_size=1, max_size=5), max_size=4), st.data())
def test_any_cutting_gives_the_text_before_the_first_stop_string(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    ends = [(text.index(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    expected = text[: sum(min(ends)[:1]) + min(ends)[1]] if ends else text
    stream, rest, given_out = TextStream(stops), text, ""
    while rest and not stream.is_stopped:
        size = data.draw(st.integers(1, len(rest)))
        given_out += stream.feed(rest[:size].encode())
        rest = rest[size:]
    given_out += stream.finish()
    assert given_out == stream.text == expected
    assert stream.is_stopped == bool(ends)


def test_many_hostile_stop_strings_cost_no_more_than_harmless_ones() -> None:
    stops = ["a" * 1000 + str(n) for n in range(16)]
    stream = TextStream(stops)
    stream.feed(b"a" * 3000)
    assert len(stream.text) == 2000

"""Prompts that begin alike: what one computed the next need not, and neither says anything else for it."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import alone, interleaved, specs
from tiny_model import TOKENIZER, engine

from aios.kernel.llm.local.decoder import CHUNK
from aios.kernel.llm.local.engine import Engine
from aios.kernel.llm.local.linear import F32
from aios.kernel.llm.local.prefix import PrefixCache
from aios.kernel.llm.local.sequence import Spec

SIZE = 4
PIECE = np.zeros((1, 2, SIZE, 8), np.float32)


def kept(cache: PrefixCache, group: str, tokens: list[int]) -> None:
    """Put each chunk of `tokens`, marked with its last token, as an engine would."""
    for end in range(SIZE, len(tokens) + 1, SIZE):
        if not cache.has(group, tokens[:end]):
            cache.put(group, tokens[:end], PIECE + tokens[end - 1])


def marks(pieces: list[F32]) -> list[int]:
    return [int(piece.flat[0]) for piece in pieces]


def test_the_longest_known_beginning_is_found_and_one_token_is_left_to_compute() -> None:
    cache = PrefixCache(1 << 20, SIZE)
    kept(cache, "", [*range(12)])
    assert marks(cache.find("", [*range(12), 99])) == [3, 7, 11]
    assert marks(cache.find("", [*range(12)])) == [3, 7]
    assert marks(cache.find("", [*range(8), 50, 51, 52, 53, 54])) == [3, 7]
    assert cache.find("", [99, *range(12)]) == []


def test_groups_do_not_learn_of_each_other() -> None:
    cache = PrefixCache(1 << 20, SIZE)
    kept(cache, "mine", [*range(8)])
    assert cache.find("yours", [*range(9)]) == []
    assert len(cache.find("mine", [*range(9)])) == 2


def test_nothing_is_left_of_a_group_whose_chunks_are_gone() -> None:
    cache = PrefixCache(2 * PIECE.nbytes, SIZE)
    for n in range(50):
        kept(cache, f"salt {n}", [*range(4)])
    assert [group for group, _ in cache._root.children] == ["salt 48", "salt 49"]
    cache.check_integrity()


def test_the_least_recently_used_end_goes_first_and_never_what_others_follow() -> None:
    cache = PrefixCache(3 * PIECE.nbytes, SIZE)
    kept(cache, "", [0, 1, 2, 3, 4, 5, 6, 7])
    kept(cache, "", [0, 1, 2, 3, 8, 9, 10, 11])
    cache.find("", [0, 1, 2, 3, 4, 5, 6, 7, 99])
    kept(cache, "", [0, 1, 2, 3, 12, 13, 14, 15])
    assert marks(cache.find("", [0, 1, 2, 3, 4, 5, 6, 7, 99])) == [3, 7]
    assert marks(cache.find("", [0, 1, 2, 3, 8, 9, 10, 11, 99])) == [3]
    assert cache.num_evicted == 1


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from("ab"), st.lists(st.integers(0, 2), max_size=24)), max_size=60),
    st.integers(0, 8),
)
def test_whatever_is_put_and_found_the_tree_holds_together(
    steps: list[tuple[bool, str, list[int]]], pieces: int
) -> None:
    cache = PrefixCache(pieces * PIECE.nbytes, SIZE)
    for is_put, group, tokens in steps:
        if is_put:
            kept(cache, group, tokens)
        else:
            found = cache.find(group, tokens)
            assert marks(found) == [tokens[end - 1] for end in range(SIZE, len(found) * SIZE + 1, SIZE)]
            assert len(found) * SIZE < max(1, len(tokens))
        cache.check_integrity()


# ── in the engine ──


def alike(rng: random.Random, count: int) -> list[Spec]:
    """Requests of all kinds whose prompts share beginnings of many lengths."""
    common = [rng.randrange(TOKENIZER.vocab_size) for _ in range(4 * CHUNK)]
    found = []
    for spec in specs(rng, count):
        shared = rng.choice([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7])
        found.append(replace(spec, prompt=(*common[:shared], *spec.prompt)))
    return found


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1 << 30), st.sampled_from([1, 3, 1 << 10]))
def test_with_and_without_the_cache_and_while_it_overflows_each_says_the_same(seed: int, chunks: int) -> None:
    rng = random.Random(seed)
    plain = engine()
    size = plain.pool.shape.bytes(CHUNK * 2) // 2  # capacity starts at two chunks
    cached = engine(prefix_bytes=chunks * size)
    wanted = alike(rng, 8)
    expected = {str(n): alone(plain, spec) for n, spec in enumerate(wanted)}
    assert interleaved(cached, wanted, rng, slots=3) == expected
    assert {str(n): alone(cached, spec) for n, spec in enumerate(wanted)} == expected
    cached.prefixes.check_integrity()


def test_what_an_earlier_prompt_computed_is_not_computed_again() -> None:
    it = engine(prefix_bytes=1 << 24)
    prompt = tuple(n % TOKENIZER.vocab_size for n in range(3 * CHUNK + 5))
    first, second = Spec(prompt, max_tokens=3), Spec((*prompt, 1, 2, 3), max_tokens=3)
    alone(it, first)
    before = it.num_prefilled
    alone(it, second)
    assert it.num_prefilled - before == 8
    assert it.statistics()["prefix_hit_tokens"] == 3 * CHUNK


def test_prompts_that_are_read_side_by_side_share_what_they_compute() -> None:
    it = engine(prefix_bytes=1 << 24)
    prompt = tuple(n % TOKENIZER.vocab_size for n in range(6 * CHUNK))
    for number in range(4):
        it.add(it.new(str(number), Spec((*prompt, number), max_tokens=1)))
    while not it.is_idle:
        it.step()
    assert it.num_prefilled == len(prompt) + 4
    statistics = it.statistics()
    assert statistics["prefix_hit_tokens"] + statistics["prefix_missed_tokens"] == 4 * (len(prompt) + 1)
    assert statistics["prefix_missed_tokens"] == it.num_prefilled


def test_what_was_decoded_is_never_kept() -> None:
    it: Engine = engine(prefix_bytes=1 << 24)
    sequence = it.new("a", Spec((1, 2, 3), max_tokens=2 * CHUNK, min_tokens=2 * CHUNK))
    it.add(sequence)
    while sequence.finish is None:
        it.step()
    assert it.prefixes.bytes == 0

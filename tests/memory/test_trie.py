"""The trie: contents come back as they went in, shared beginnings are there once, and its bytes are the real ones."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from memory_steps import machine

from aios.kernel.memory import trie as trie_module
from aios.kernel.memory.trie import EMPTY, Node, Trie

WORDS = "the agent reads a file and writes what it found in the notes of the day before".split()  # noqa: SIM905


def dialogue(num_words: int, seed: int = 0) -> bytes:
    dice = random.Random(seed)
    return " ".join(dice.choice(WORDS) for _ in range(num_words)).encode()


def insert(trie: Trie, content: bytes) -> Node:
    handle = trie.insert(content)
    assert handle is not None
    return handle


def test_contents_are_read_as_they_were_inserted() -> None:
    trie = Trie()
    contents = [b"", b"a", b"abc", b"abd", b"ab", b"abcdef", b"b", b"\0\xff" * 50, b"a"]
    handles = [insert(trie, content) for content in contents]
    trie.check_integrity()
    assert [trie.read(handle) for handle in handles] == contents
    assert [trie.length(handle) for handle in handles] == list(map(len, contents))
    assert trie.raw == sum(map(len, contents))


def test_the_same_content_twice_stays_until_both_are_removed() -> None:
    trie = Trie()
    first, second = insert(trie, b"twice"), insert(trie, b"twice")
    trie.remove(first)
    trie.check_integrity()
    assert trie.read(second) == b"twice"
    trie.remove(second)
    assert trie.size == EMPTY


def test_a_tree_that_was_emptied_is_as_small_as_a_new_one() -> None:
    trie = Trie()
    handles = [insert(trie, dialogue(20, n % 7) + b"%d" % n) for n in range(500)]
    random.Random(1).shuffle(handles)
    for handle in handles:
        trie.remove(handle)
    trie.check_integrity()
    assert (trie.size, trie.raw) == (EMPTY, 0)
    assert list(trie) == []


def test_twenty_snapshots_of_a_growing_dialogue_take_less_than_a_fifth_of_their_bytes() -> None:
    text = dialogue(4000)
    trie = Trie()
    for n in range(1, 21):
        insert(trie, text[: len(text) * n // 20])
    trie.check_integrity()
    assert trie.size < trie.raw / 5


def test_chains_of_thousands_are_no_depth_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trie_module, "MAX_DEPTH", 3000)
    trie = Trie()
    text = dialogue(10_000)
    handles = [insert(trie, text[:n]) for n in range(1, 3001)]
    assert trie.insert(text[:3001]) is None
    trie.check_integrity()
    assert trie.read(handles[-1]) == text[:3000]
    assert len(list(trie)) == 3000
    for handle in handles[::2]:
        trie.remove(handle)
    trie.check_integrity()
    assert trie.read(insert(trie, text[:3001])) == text[:3001]
    trie.clear()
    trie.check_integrity()
    assert trie.size == EMPTY


def test_what_would_be_too_deep_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trie_module, "MAX_DEPTH", 2)
    trie = Trie()
    insert(trie, b"ab")
    insert(trie, b"abcdef")
    before = trie.size
    assert trie.insert(b"abcdxy") is None
    trie.check_integrity()
    assert trie.size == before
    assert trie.insert(b"abcd") is not None


@pytest.mark.parametrize("shape", ["small entries", "snapshots"])
def test_the_bytes_that_are_counted_are_those_that_are_taken(shape: str) -> None:
    contents = [dialogue(15, n) for n in range(2000)]
    if shape == "snapshots":
        contents = [dialogue(4000)[:n] for n in range(10, 10_000, 10)]
    gc.collect()  # and forget the tuples that Python has put by for later
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        trie = Trie()
        handles = [insert(trie, bytes(bytearray(content))) for content in contents]
        taken = tracemalloc.get_traced_memory()[0] - before - len(handles) * 8
    finally:
        tracemalloc.stop()
    assert 0.9 * taken < trie.size < 1.1 * taken


class Trees(RuleBasedStateMachine):
    """A trie beside a bag of contents."""

    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.trie = Trie()
        self.model: Counter[bytes] = Counter()

    @rule(
        target=handles,
        stem=st.sampled_from([b"", b"aaaaaaaa", b"aaaab", b"abababab", dialogue(30)]),
        cut=st.integers(0, 40),
        rest=st.binary(max_size=4),
    )
    def insert(self, stem: bytes, cut: int, rest: bytes) -> tuple[Node, bytes]:
        content = stem[:cut] + rest
        self.model[content] += 1
        return insert(self.trie, content), content

    @rule(held=consumes(handles))
    def remove(self, held: tuple[Node, bytes]) -> None:
        handle, content = held
        assert self.trie.read(handle) == content
        self.trie.remove(handle)
        self.model[content] -= 1

    @rule(held=handles)
    def read(self, held: tuple[Node, bytes]) -> None:
        handle, content = held
        assert self.trie.read(handle) == content
        assert self.trie.length(handle) == len(content)

    @invariant()
    def it_is_sound(self) -> None:
        self.trie.check_integrity()
        assert self.trie.raw == sum(len(content) * times for content, times in self.model.items())
        ends = Counter({self.trie.read(node): node.uses for node in self.trie if node.uses})
        assert ends == +Counter({content: n for content, n in self.model.items() if content})


TestTrees = Trees.TestCase
TestTrees.settings = machine

"""Who leaves first: a contract for all policies, what each of them is about, and LRU-K against a model of its paper."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from memory_steps import machine

from aios.kernel.memory.base import Evictor
from aios.kernel.memory.policies import ARC, LRU, POLICIES, SizeAware, TwoQ
from aios.kernel.memory.policies.lru_k import LRUK
from aios.kernel.memory.sizes import INT

Make = Callable[[], Evictor]


@pytest.fixture(params=sorted(POLICIES))
def make(request: pytest.FixtureRequest) -> Make:
    return lambda: POLICIES[request.param](2)


# ── the contract ──


def test_each_that_came_leaves_once_and_then_there_is_none(make: Make) -> None:
    evictor = make()
    for key in range(100):
        evictor.touched(key, 10 + key, float(key))
    assert len(evictor) == 100
    assert sorted(evictor.victim(200.0) for _ in range(100)) == list(range(100))
    assert len(evictor) == 0
    with pytest.raises(LookupError):
        evictor.victim(201.0)


def test_what_was_forgotten_is_never_a_victim(make: Make) -> None:
    evictor = make()
    for now, key in enumerate([*range(10), *range(5), *range(10)]):
        evictor.touched(key, 10, float(now))
    for key in (3, 7):
        evictor.removed(key)
    evictor.removed(99)  # nobody it has heard of
    assert {evictor.victim(100.0) for _ in range(8)} == set(range(10)) - {3, 7}


def test_what_has_left_may_come_back_and_leave_again(make: Make) -> None:
    evictor = make()
    for now in range(0, 300, 3):
        evictor.touched(now % 7, 10, float(now))
        if len(evictor) > 3:
            victim = evictor.victim(now + 1.0)
            evictor.touched(victim, 10, now + 2.0)
            evictor.victim(now + 2.5)
    assert len(evictor) == 3


def test_the_same_uses_make_the_same_victims(make: Make) -> None:
    def run() -> list[int]:
        dice, evictor, victims = random.Random(5), make(), []
        for now in range(2000):
            evictor.touched(dice.randrange(80), dice.randrange(1, 999), float(now))
            if len(evictor) > 40:
                victims.append(evictor.victim(float(now)))
        return victims

    assert run() == run()


def test_it_counts_what_it_takes_of_the_memory(make: Make) -> None:
    dice = random.Random(5)
    gc.collect()  # and forget the tuples that Python has put by for later
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        evictor = make()
        for now in range(6000):
            evictor.touched(1_000_000 + dice.randrange(4000), 100, now + 0.25)
            if len(evictor) > 2000:
                evictor.victim(now + 0.25)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    taken -= len(evictor) * INT  # keys are the caller's, who counts them
    assert 0.8 * taken < evictor.size < 1.2 * taken


def test_what_has_been_large_and_is_empty_is_small_again(make: Make) -> None:
    evictor = make()
    empty = evictor.size
    for key in range(5000):
        evictor.touched(key, 10, float(key))
    for _ in range(5000):
        evictor.victim(9000.0)
    assert evictor.size < empty + 4096
    for _ in range(3):
        for key in range(5000):
            evictor.touched(key, 10, 9000.0 + key)
        for key in range(5000):
            evictor.removed(key)
    evictor.touched(1, 10, 99_000.0)
    assert evictor.size < empty + 4096


# ── what each is about ──


def test_lru_lets_go_what_was_used_longest_ago() -> None:
    evictor = LRU()
    for now, key in enumerate([1, 2, 3, 1, 2]):
        evictor.touched(key, 1, float(now))
    assert [evictor.victim(9.0) for _ in range(3)] == [3, 1, 2]


@pytest.mark.parametrize("make", [LRUK, TwoQ, ARC], ids=lambda make: make.__name__)
def test_a_scan_does_not_drive_out_what_is_used_again_and_again(make: Make) -> None:
    evictor = make()
    for now in range(10):
        for key in range(5):
            evictor.touched(key, 1, now * 10.0)
        if now == 0:
            # 2Q promotes those only that have left before, so everybody has left once.
            for _ in range(5):
                evictor.victim(5.0)
                evictor.touched(100 + now, 1, 5.0)
                evictor.removed(100 + now)
    kept = set(range(5))
    for key in range(1000, 1200):
        evictor.touched(key, 1, 200.0 + key)
        if len(evictor) > 10:
            evictor.victim(200.0 + key)
    left = {evictor.victim(5000.0) for _ in range(len(evictor))}
    assert kept <= left if make is not TwoQ else len(left) == 10


def test_of_entries_used_alike_the_large_one_leaves() -> None:
    evictor = SizeAware()
    for key, size in enumerate([10, 1000, 20]):
        evictor.touched(key, size, 0.0)
    assert evictor.victim(1.0) == 1
    assert evictor.victim(1.0) == 2


def test_what_was_often_used_long_ago_is_overtaken() -> None:
    evictor = SizeAware()
    for _ in range(5):
        evictor.touched(0, 10, 0.0)
    for key in range(1, 200):
        evictor.touched(key, 10, 0.0)
        if len(evictor) > 2:
            victim = evictor.victim(0.0)
            if victim == 0:
                return
    pytest.fail("it stayed for ever")


def test_the_kth_last_use_decides_and_not_the_last() -> None:
    evictor = LRUK(2, correlated=0.0)
    for key, now in [(1, 1.0), (1, 2.0), (2, 3.0), (2, 20.0), (1, 10.0)]:
        evictor.touched(key, 1, now)
    # The last use but one: 2 of key 1, which was last used at 10; 3 of key 2, last used at 20.
    evictor.touched(3, 1, 30.0)
    assert [evictor.victim(40.0) for _ in range(3)] == [3, 1, 2]


def test_a_burst_of_uses_counts_once() -> None:
    evictor = LRUK(2, correlated=5.0)
    for now in (0.0, 1.0, 2.0, 3.0):
        evictor.touched(1, 1, now)  # a burst
    evictor.touched(2, 1, 4.0)
    evictor.touched(2, 1, 14.0)
    assert evictor.victim(30.0) == 1


def test_what_is_in_a_burst_leaves_only_when_all_are() -> None:
    evictor = LRUK(2, correlated=5.0)
    evictor.touched(1, 1, 0.0)
    evictor.touched(2, 1, 1.0)
    evictor.touched(1, 1, 99.0)
    evictor.touched(1, 1, 120.0)
    evictor.touched(3, 1, 118.0)
    assert evictor.victim(121.0) == 2
    assert evictor.victim(121.0) == 3
    assert evictor.victim(121.0) == 1


def test_who_comes_back_is_no_stranger() -> None:
    evictor = LRUK(2, correlated=0.0)
    for key in (1, 2, 3):
        evictor.touched(key, 1, float(key))
    assert evictor.victim(4.0) == 1
    evictor.touched(1, 1, 5.0)  # its second use, and the second but last of the others is infinitely long ago
    assert [evictor.victim(6.0) for _ in range(3)] == [2, 3, 1]


def test_so_many_are_remembered_and_for_so_long() -> None:
    evictor = LRUK(2, correlated=0.0, retained=1.0, period=100.0)
    for key in (1, 2, 3, 4):
        evictor.touched(key, 1, float(key))
    assert evictor.victim(5.0) == 1
    evictor.touched(1, 1, 500.0)
    assert evictor.victim(501.0) == 2
    assert evictor.victim(501.0) == 3
    assert evictor.victim(501.0) == 4  # 1 was forgotten and is new, but newer


class Histories(RuleBasedStateMachine):
    """LRU-K beside the paper's pseudocode, written down plainly."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.lru_k = LRUK(3, correlated=2.0, retained=1.0, period=60.0)
        self.there: dict[int, list[float]] = {}
        self.gone: dict[int, list[float]] = {}
        self.last: dict[int, float] = {}

    @rule(key=st.integers(0, 12), later=st.sampled_from([0.0, 0.5, 1.0, 3.0, 25.0]))
    def touch(self, key: int, later: float) -> None:
        self.now += later
        self.lru_k.touched(key, 1, self.now)
        if key in self.there:
            if self.now - self.last[key] > 2.0:
                times = self.there[key]
                lasted = self.last[key] - times[0]
                self.there[key] = [self.now, *(time + lasted for time in times)][:3]
        else:
            known = self.gone.pop(key, [])
            if known and self.now - self.last[key] > 60.0:
                known = []
            self.there[key] = [self.now, *known][:3]
        self.last[key] = self.now

    def worth(self, key: int) -> tuple[float, float, int]:
        times = self.there[key]
        return (times[2] if len(times) == 3 else float("-inf"), self.last[key], key)

    @precondition(lambda self: self.there)
    @rule()
    def evict(self) -> None:
        order = sorted(self.there, key=self.worth)[:8]
        quiet = [key for key in order if self.now - self.last[key] > 2.0]
        key = (quiet or order)[0]
        assert self.lru_k.victim(self.now) == key
        self.gone[key] = self.there.pop(key)
        self._trim()

    @rule(key=st.integers(0, 12))
    def remove(self, key: int) -> None:
        self.lru_k.removed(key)
        if self.there.pop(key, None) is None:
            self.gone.pop(key, None)
        self._trim()

    def _trim(self) -> None:
        while len(self.gone) > len(self.there):
            del self.gone[next(iter(self.gone))]

    @invariant()
    def it_is_sound(self) -> None:
        self.lru_k.check_integrity()
        assert len(self.lru_k) == len(self.there)


TestHistories = Histories.TestCase
TestHistories.settings = machine

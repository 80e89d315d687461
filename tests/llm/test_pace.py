"""How much a server is asked at once: it finds the limit, keeps to it, and leaves a broken server alone."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from aios.kernel.llm.pace import BREAK_AFTER, LONGEST_PAUSE, Pace


class Now:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def pace(most: int = 32) -> tuple[Pace, Now]:
    now = Now()
    return Pace(most, now, random.Random(1)), now


def test_at_first_all_slots_may_be_used() -> None:
    assert pace(32)[0].room == 32


def test_a_refusal_for_load_allows_a_fifth_fewer_and_is_waited_out() -> None:
    it, now = pace(32)
    assert it.was_refused(now.at, 20, None) > 0
    assert it.room == 0
    now.at += it.waits
    assert it.room == 16


def test_refusals_of_calls_that_were_sent_together_count_once() -> None:
    it, now = pace(32)
    began = now.at
    now.at += 1.0
    it.was_refused(began, 32, None)
    cut = it.limit
    for _ in range(10):
        it.was_refused(began, 32, None)
    assert it.limit == cut
    assert it.num_refused == 11


def test_the_servers_own_word_on_when_to_return_is_kept() -> None:
    it, now = pace()
    assert it.was_refused(now.at, 8, 7.0) == 7.0
    now.at += 6.9
    assert it.room == 0
    now.at += 0.2
    assert it.room > 0


def test_full_rounds_of_answers_allow_one_more_each_and_idle_ones_none() -> None:
    it, now = pace(32)
    it.was_refused(now.at, 10, 0.0)
    assert int(it.limit) == 8
    for _ in range(9):
        it.went_well(8)
    assert int(it.limit) == 9
    for _ in range(100):
        it.went_well(2)
    assert int(it.limit) == 9


def test_faults_in_a_row_open_the_breaker_and_one_call_goes_ahead_after_the_pause() -> None:
    it, now = pace()
    for _ in range(BREAK_AFTER):
        assert it.room > 0
        it.went_wrong()
    assert it.room == 0
    now.at += it.waits
    assert it.room == 1
    it.went_well(1)
    assert it.room == 32


def test_pauses_grow_while_the_server_stays_broken_up_to_a_bound() -> None:
    it, now = pace()
    pauses = []
    for _ in range(30):
        it.went_wrong()
        pauses.append(it.waits)
        now.at += it.waits
    assert pauses[BREAK_AFTER + 3] > pauses[BREAK_AFTER]
    assert max(pauses) <= LONGEST_PAUSE


def test_a_single_fault_delays_its_own_call_and_nobody_elses() -> None:
    it, _ = pace()
    assert it.went_wrong() > 0
    assert it.room == 32


@given(st.lists(st.tuples(st.sampled_from(["well", "refused", "wrong", "wait"]), st.integers(1, 64)), max_size=80))
def test_whatever_happens_the_room_stays_in_bounds_and_comes_back(events: list[tuple[str, int]]) -> None:
    it, now = pace(16)
    for what, number in events:
        if what == "well":
            it.went_well(number)
        elif what == "refused":
            it.was_refused(now.at, number, None)
        elif what == "wrong":
            it.went_wrong()
        else:
            now.at += number
        assert 0 <= it.room <= 16
        assert 0 <= it.waits <= LONGEST_PAUSE
    now.at += LONGEST_PAUSE
    assert it.room >= 1


def test_it_settles_near_the_limit_of_a_server_without_a_storm_of_refusals() -> None:
    """A server that takes 12 at once and refuses the rest, asked by as many as are allowed, round after round."""
    it, now = pace(64)
    seen, refused = [], 0
    for _ in range(400):
        now.at += max(it.waits, 1.0)
        sent = it.room
        began = now.at
        now.at += 0.5
        for n in range(sent):
            if n < 12:
                it.went_well(min(sent, 12))
            else:
                refused += 1
                it.was_refused(began, sent, 0.0)
        seen.append(sent)
    settled = seen[100:]
    assert 9.6 <= sum(settled) / len(settled) <= 14.4
    assert refused <= 0.05 * sum(seen) + 64

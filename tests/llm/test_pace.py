"""How much a server is asked at once: it finds the limit, keeps to it, and leaves a broken server alone."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from aios.kernel.llm.remote.pace import BREAK_AFTER, LONGEST_PAUSE, REST_AFTER, Pace


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


def test_a_refusal_for_load_allows_a_fifth_fewer_and_delays_its_own_call() -> None:
    it, now = pace(32)
    assert it.was_refused(now.at, 20, None) > 0
    assert it.room == 16


def test_refusals_however_little_is_asked_keep_everybody_waiting() -> None:
    it, now = pace(32)
    for number in range(REST_AFTER):
        assert it.room > 0
        now.at += 1.0
        it.was_refused(now.at, 5 - number, None)
    assert it.room == 0
    first = it.waits
    for _ in range(5):
        now.at += it.waits
        it.was_refused(now.at, 1, None)
    assert it.waits > 4 * first


def test_a_refusal_now_and_then_means_nothing_where_more_was_answered() -> None:
    it, now = pace(32)
    for number in range(600):
        now.at += 0.1
        if number % 8:
            it.went_well(now.at - 1.0, 32)
        else:
            it.was_refused(now.at, 32, None)
    assert it.limit > 25


def test_a_cut_for_a_refusal_that_meant_nothing_is_taken_back() -> None:
    it, now = pace(32)
    began = now.at
    now.at += 0.1
    it.was_refused(began, 3, None)
    assert it.room < 3
    for active in range(4, 33):  # they were under way when that one was refused
        it.went_well(began, active)
    assert it.limit > 25


def test_where_the_server_refused_is_gone_to_again_seldom() -> None:
    it, now = pace(64)
    it.was_refused(now.at, 11, None)
    now.at += 1.0
    num_answers = 0
    while it.room < 10:
        it.went_well(now.at, it.room)
        num_answers += 1
    assert num_answers < 25
    while it.room < 11:
        it.went_well(now.at, 10)
        num_answers += 1
    assert num_answers > 100


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


def test_answers_allow_more_as_long_as_all_that_is_allowed_is_used() -> None:
    it, now = pace(32)
    it.was_refused(now.at, 20, None)
    assert int(it.limit) == 16
    for _ in range(4):
        it.went_well(now.at, 16)
    assert int(it.limit) == 17
    for _ in range(100):
        it.went_well(now.at, 2)
    assert int(it.limit) == 17


def test_faults_of_requests_older_than_the_last_answer_do_not_open_the_breaker() -> None:
    it, now = pace()
    began = now.at
    now.at += 5.0
    it.went_well(began, 32)
    for _ in range(BREAK_AFTER):
        it.went_wrong(began)
    assert it.room == 32


def test_faults_in_a_row_open_the_breaker_and_one_call_goes_ahead_after_the_pause() -> None:
    it, now = pace()
    for _ in range(BREAK_AFTER):
        assert it.room > 0
        it.went_wrong(now.at)
    assert it.room == 0
    now.at += it.waits
    assert it.room == 1
    it.went_well(now.at, 1)
    assert it.room == 32


def test_pauses_grow_while_the_server_stays_broken_up_to_a_bound() -> None:
    it, now = pace()
    pauses = []
    for _ in range(30):
        it.went_wrong(now.at)
        pauses.append(it.waits)
        now.at += it.waits
    assert pauses[BREAK_AFTER + 3] > pauses[BREAK_AFTER]
    assert max(pauses) <= LONGEST_PAUSE


def test_a_single_fault_delays_its_own_call_and_nobody_elses() -> None:
    it, now = pace()
    assert it.went_wrong(now.at) > 0
    assert it.room == 32


@given(st.lists(st.tuples(st.sampled_from(["well", "refused", "wrong", "wait"]), st.integers(1, 64)), max_size=80))
def test_whatever_happens_the_room_stays_in_bounds_and_comes_back(events: list[tuple[str, int]]) -> None:
    it, now = pace(16)
    for what, number in events:
        if what == "well":
            it.went_well(now.at, number)
        elif what == "refused":
            it.was_refused(now.at, number, None)
        elif what == "wrong":
            it.went_wrong(now.at)
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
                it.went_well(began, n + 1)
            else:
                refused += 1
                it.was_refused(began, n + 1, None)
        seen.append(sent)
    settled = seen[100:]
    assert 9.6 <= sum(settled) / len(settled) <= 14.4
    assert refused <= 0.05 * sum(seen) + 64

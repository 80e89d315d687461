"""Which core a call goes to: names, shares, affinity, fallback, and that nobody waits for nothing."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError, ModuleFault, NotFound, Stopping
from aios.abi.messages import Message
from aios.kernel.config import ModelSection
from aios.kernel.llm.affinity import Affinity, Ties, beginnings
from aios.kernel.llm.roster import CORE_TRANSITIONS, CoreState, Roster, Seat
from aios.kernel.llm.router import MARGIN, Router
from aios.testing import ScriptedCore

PUBLIC = "a system prompt that many agents share. " * 40


def roster_of(slots: int = 4, **models: str) -> Roster:
    """Ready cores by name, with the model of each."""
    roster = Roster()
    for name, model in models.items():
        roster.move(roster.add(ScriptedCore(name=name, model=model, slots=slots)), CoreState.READY)
    return roster


def can_begin(seat: Seat) -> bool:
    return seat.state is CoreState.READY and seat.has_room


def never(seat: Seat) -> bool:
    return False


def begin(router: Router, model: str, ties: Ties = Ties(), refused: Callable[[Seat], bool] = never) -> str | None:  # noqa: B008
    """Choose a core and take a slot of it."""
    route = router.route(model)
    assert route is not None
    seat = router.choose(route, ties, lambda each: can_begin(each) and not refused(each), refused)
    if seat is None:
        return None
    seat.active += 1
    router.begins(route, ties, seat.name)
    return seat.name


def end(router: Router, roster: Roster, name: str | None) -> None:
    assert name is not None
    roster.find(name).active -= 1


def names_of(router: Router, model: str | None) -> list[str]:
    return [seat.name for seat in router.serving(model)]


# ── names ──


def test_a_name_is_an_alias_a_model_of_several_cores_a_core_or_the_model_of_cores() -> None:
    fast = ModelSection(name="fast", cores=["a", "b"], fallback=["c"])
    router = Router(roster_of(a="m", b="m", c="n"), models=[fast], aliases={"gpt-4o": "fast", "old": "c"})
    assert names_of(router, "fast") == names_of(router, "gpt-4o") == ["a", "b", "c"]
    assert names_of(router, "m") == ["a", "b"]
    assert names_of(router, "b") == ["b"]
    assert names_of(router, "old") == ["c"]
    assert list(router.names()) == ["a", "b", "c", "m", "n", "fast", "gpt-4o", "old"]


def test_a_name_that_nobody_knows_goes_to_the_default_or_is_told_with_the_nearest() -> None:
    roster = roster_of(alpha="m", beta="m")
    assert names_of(Router(roster, "m"), "nonesuch") == ["alpha", "beta"]
    with pytest.raises(NotFound, match="did you mean 'alpha'"):
        Router(roster).serving("alphs")
    with pytest.raises(NotFound, match="no model was named"):
        Router(roster).serving(None)
    assert names_of(Router(roster_of(only="m")), None) == ["only"]


def test_names_that_nobody_knows_are_not_kept_and_those_of_one_route_share_its_turns() -> None:
    names = ["x" * 1000 + str(n) for n in range(100)]
    for default in (None, "old"):
        router = Router(roster_of(a="m", b="m"), default, aliases={"old": "m"})
        found = {id(router.route(name)) for name in [*names, "", None, "old", "m"]}
        assert len(found) == 2 if default is None else 1
        assert len(pickle.dumps([*router._known])) < 100


def test_a_core_that_comes_later_serves_the_names_it_fits() -> None:
    roster = roster_of(a="m")
    router = Router(roster, models=[ModelSection(name="fast", cores=["a", "b"])])
    assert names_of(router, "m") == names_of(router, "fast") == ["a"]
    roster.move(roster.add(ScriptedCore(name="b", model="m")), CoreState.READY)
    assert names_of(router, "m") == names_of(router, "fast") == ["a", "b"]
    for state in (CoreState.DRAINING, CoreState.CLOSED):
        roster.move(roster.find("b"), state)
        assert names_of(router, "m") == names_of(router, "fast") == ["a"]


def test_a_known_name_without_a_core_at_work_says_what_each_core_is_up_to() -> None:
    roster = roster_of(a="m")
    router = Router(roster)
    roster.move(roster.add(ScriptedCore(name="b", model="n")), CoreState.FAILED, "no such folder")
    roster.move(roster.find("a"), CoreState.DRAINING)
    with pytest.raises(Stopping, match="core 'a' is being drained") as drained:
        router.serving("m")
    assert drained.value.retry_after
    with pytest.raises(ModuleFault, match=r"core 'b' failed .no such folder.*aios cores add"):
        router.serving("n")


# ── shares ──


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_weights_are_honoured_over_many_calls_however_many_run_at_once(at_once: int) -> None:
    roster = roster_of(slots=16, a="m", b="m", c="m")
    router = Router(roster, models=[ModelSection(name="fast", cores={"a": 5, "b": 2, "c": 1})])
    running: list[str | None] = []
    served: Counter[str | None] = Counter()
    for _ in range(800):
        if len(running) == at_once:
            end(router, roster, running.pop(0))
        running.append(begin(router, "fast"))
        served[running[-1]] += 1
    assert served["a"] == pytest.approx(500, abs=10)
    assert served["b"] == pytest.approx(200, abs=10)


def test_without_weights_the_least_loaded_core_is_next_and_idle_ones_take_turns() -> None:
    roster = roster_of(a="m", b="m")
    router = Router(roster)
    assert [begin(router, "m") for _ in range(8)] == ["a", "b"] * 4
    assert begin(router, "m") is None
    for _ in range(4):
        end(router, roster, "a")
        end(router, roster, "b")
    turns = []
    for _ in range(6):
        turns.append(begin(router, "m"))
        end(router, roster, turns[-1])
    assert turns == ["a", "b"] * 3


def test_a_core_that_was_away_is_not_flooded_with_the_turns_it_missed() -> None:
    roster = roster_of(a="m", b="m")
    router = Router(roster, models=[ModelSection(name="fast", cores={"a": 1, "b": 1})])
    for _ in range(100):
        end(router, roster, begin(router, "fast", refused=lambda seat: seat.name == "b"))
    later = []
    for _ in range(12):
        later.append(begin(router, "fast"))
        end(router, roster, later[-1])
    assert later.count("b") <= 9


# ── affinity ──


def prompt(text: str, **more: Any) -> LLMGenerate:
    return LLMGenerate(messages=[Message(role="system", content=PUBLIC), Message(role="user", content=text)], **more)


def test_prompts_that_begin_alike_have_hashes_in_common_and_others_none() -> None:
    first, second = beginnings(prompt("one " * 300)), beginnings(prompt("two " * 300))
    assert 0 < len(set(first) & set(second)) < len(first)
    assert not set(first) & set(beginnings(prompt("one " * 300, cache_salt="other")))
    assert beginnings(LLMGenerate(messages=[Message(role="user", content="hi")])) == ()


def test_a_session_stays_with_its_core_until_that_is_much_busier() -> None:
    roster = roster_of(a="m", b="m")
    router = Router(roster)
    mine = Ties(session=1)
    home = begin(router, "m", mine)
    assert home == "a"
    assert [begin(router, "m", mine) for _ in range(2)] == ["a", "a"]
    assert roster.find("a").active / 4 > MARGIN
    assert begin(router, "m", mine) == "b"
    assert begin(router, "m", mine) == "b"  # it has moved


def test_a_core_that_knows_the_beginning_of_a_prompt_is_preferred_and_all_who_know_it_share() -> None:
    roster = roster_of(a="m", b="m", c="m")
    router = Router(roster)
    known = Ties(beginnings=beginnings(prompt("x")))
    places = [begin(router, "m", known) for _ in range(4)]
    assert places[:3] == ["a", "a", "a"]
    assert places[3] == "b"
    assert begin(router, "m", known) == "b"
    assert begin(router, "m") == "c"


def test_a_process_goes_back_to_its_core_only_where_nothing_else_tells_two_apart() -> None:
    roster = roster_of(a="m", b="m")
    router = Router(roster)
    for _ in range(5):
        assert begin(router, "m", Ties(process=7)) == "a"
        end(router, roster, "a")
    roster.find("a").active = 1
    assert begin(router, "m", Ties(process=7)) == "b"


def test_what_is_remembered_is_bounded_and_forgotten_with_its_core() -> None:
    affinity = Affinity(limit=10)
    for n in range(100):
        affinity.remember(Ties(session=n), "ab"[n % 2])
    assert len(affinity) == 10
    affinity.forget(["a"])
    assert len(affinity) == 5
    assert list(affinity.firm(Ties(session=99))) == ["b"]
    assert list(affinity.firm(Ties(session=98))) == []


# ── fallback ──


def fallback_world() -> tuple[Roster, Router]:
    roster = roster_of(a="m", b="m", c="n", d="n")
    return roster, Router(roster, models=[ModelSection(name="fast", cores=["a", "b"], fallback=["c", "d"])])


def test_busy_cores_are_waited_for_and_the_fallback_is_not_asked() -> None:
    _, router = fallback_world()
    assert Counter(begin(router, "fast") for _ in range(8)) == {"a": 4, "b": 4}
    assert begin(router, "fast") is None


def test_the_fallback_is_asked_in_its_order_when_the_first_are_down_drained_or_refuse() -> None:
    roster, router = fallback_world()
    roster.find("a").active = 4
    roster.find("a").is_down = True
    roster.move(roster.find("b"), CoreState.DRAINING)
    assert begin(router, "fast") == "c"
    assert begin(router, "fast", refused=lambda seat: seat.name == "c") == "d"
    roster.find("a").active = 0
    assert begin(router, "fast") == "a"  # it is down, and has room for one to see whether it still is
    roster.find("a").is_down = False
    roster.find("a").active = 4
    assert begin(router, "fast") is None


# ── properties ──

STATES = [CoreState.READY, CoreState.DRAINING, CoreState.OPENING, CoreState.FAILED]


def in_state(roster: Roster, name: str, state: CoreState) -> None:
    seat = roster.add(ScriptedCore(name=name, model="m" if name < "d" else "n", slots=2))
    for step in {
        CoreState.READY: [CoreState.READY],
        CoreState.DRAINING: [CoreState.READY, CoreState.DRAINING],
        CoreState.FAILED: [CoreState.FAILED],
    }.get(state, []):
        roster.move(seat, step)


@settings(max_examples=200, deadline=None)
@given(
    states=st.lists(st.sampled_from(STATES), min_size=5, max_size=5),
    cores=st.dictionaries(st.sampled_from("abc"), st.floats(0.1, 10), min_size=1),
    steps=st.lists(st.tuples(st.sampled_from(["fast", "m", "n", "a", "e"]), st.integers(0, 3)), max_size=40),
    seed=st.integers(0, 1000),
)
def test_only_ready_cores_of_the_name_are_given_calls_and_none_waits_while_one_of_its_first_is_free(
    states: list[CoreState], cores: dict[str, float], steps: list[tuple[str, int]], seed: int
) -> None:
    roster, rng = Roster(), random.Random(seed)
    for name, state in zip("abcde", states, strict=True):
        in_state(roster, name, state)
    router = Router(roster, models=[ModelSection(name="fast", cores=dict(cores), fallback=["e"])])
    names = {"fast": [*cores, "e"], "m": ["a", "b", "c"], "n": ["d", "e"], "a": ["a"], "e": ["e"]}
    running: list[str] = []
    for model, who in steps:
        if running and rng.random() < 0.4:
            end(router, roster, running.pop(rng.randrange(len(running))))
        free = [name for name in names[model] if can_begin(roster.find(name))]
        chosen = begin(router, model, Ties(session=who, process=who))
        if chosen is None:
            first = names[model][:-1] if model == "fast" else names[model]
            assert not [name for name in first if name in free]
            assert not free or any(roster.find(name).state is CoreState.READY for name in first)
        else:
            assert chosen in free
            running.append(chosen)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(list(CoreState)), max_size=8))
def test_a_core_moves_along_the_table_and_no_other_way(moves: list[CoreState]) -> None:
    roster = Roster()
    heard: list[CoreState] = []
    roster.listen(lambda seat: heard.append(seat.state))
    seat = roster.add(ScriptedCore(name="a"))
    for state in moves:
        before = seat.state
        if state in CORE_TRANSITIONS[before]:
            roster.move(seat, state)
        else:
            with pytest.raises(AiosError, match="cannot move"):
                roster.move(seat, state)
            assert seat.state is before
    assert (roster.get("a") is None) == (seat.state is CoreState.CLOSED)
    legal = [CoreState.OPENING, *heard[1:]]
    assert all(b in CORE_TRANSITIONS[a] for a, b in pairwise(legal))

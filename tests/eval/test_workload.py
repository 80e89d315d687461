"""The workload keeps its splits apart, repeats for a seed, and judges answers as a reader would."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from aios.eval.workload import FAMILIES, Expected, Task, check, generate
from aios.eval.workload.phrasings import TABLES, expand, wordings
from aios.eval.workload.split import long_numbers

MANY = 3_000


def texts(task: Task) -> str:
    """All that is drawn for a task, and its result."""
    number = task.expected.number
    result = [] if number is None else [f"{number:.10f}".rstrip("0").rstrip(".")]
    return "\n".join((*task.prompts, task.notes, *task.expected.contains, *result))


@pytest.fixture(scope="module")
def train() -> list[Task]:
    return list(generate("train", "seen", seed=1, count=MANY))


@pytest.fixture(scope="module")
def held_out() -> list[Task]:
    return [*generate("test", "seen", seed=2, count=MANY), *generate("test", "unseen", seed=3, count=MANY)]


def test_no_long_number_of_the_test_split_occurs_in_training(train: list[Task], held_out: list[Task]) -> None:
    trained = {number for task in train for number in long_numbers(texts(task))}
    tested = {number for task in held_out for number in long_numbers(texts(task))}
    assert len(tested) > 1_000
    assert not trained & tested


def test_no_name_of_the_test_split_occurs_in_training(train: list[Task], held_out: list[Task]) -> None:
    trained = {name.casefold() for task in train for name in task.entities}
    tested = {name.casefold() for task in held_out for name in task.entities}
    assert len(tested) > 1_000
    assert not trained & tested


def test_no_unseen_phrasing_occurs_in_training(train: list[Task]) -> None:
    for table in TABLES:
        seen = {each.text for each in wordings(table, "seen")}
        assert not seen & {each.text for each in wordings(table, "unseen")}
    held_out = {each.text for table in TABLES for each in wordings(table, "unseen")}
    assert not {task.phrasing for task in train} & held_out


def test_of_five_rows_of_the_grammar_one_is_held_out_with_all_it_expands_to() -> None:
    for table, kinds in TABLES.items():
        unseen = {each.text for each in wordings(table, "unseen")}
        for rows in (rows for rows in kinds.values() if len(rows) >= 5):
            assert sum(set(expand(row)) <= unseen for row in rows) == len(rows) // 5


def test_every_family_has_dozens_of_phrasings(held_out: list[Task]) -> None:
    for family in FAMILIES:
        used = {task.phrasing for task in held_out if task.family == family and task.is_seen_phrasing}
        assert len(used) >= 40


def test_the_same_arguments_give_the_same_tasks_and_families_take_turns() -> None:
    one = list(generate("test", "unseen", seed=5, count=80))
    assert one == list(generate("test", "unseen", seed=5, count=80))
    assert one != list(generate("test", "unseen", seed=6, count=80))
    assert Counter(task.family for task in one) == dict.fromkeys(FAMILIES, 10)


def test_an_unknown_family_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown family 'poetry'"):
        next(generate(families=["poetry"]))


def test_needed_tools_are_offered_and_those_of_a_missing_tool_are_not(held_out: list[Task]) -> None:
    for task in held_out:
        needed = {step.tool for turn in task.turns for step in turn.steps}
        assert needed <= set(task.tools)
        assert not set(task.without) & set(task.tools)
        assert (task.family == "no_tool") == (not needed)
        assert len(set(task.tools)) == len(task.tools)


def test_memory_is_told_in_one_conversation_and_asked_in_a_later_one(held_out: list[Task]) -> None:
    for task in held_out:
        if task.family == "memory":
            assert [turn.steps[0].tool for turn in task.turns][-1] == "recall"
            assert all(turn.steps[0].tool == "remember" for turn in task.turns[:-1])
            assert len(task.prompts) == len(task.turns) >= 2


def judged(expected: Expected, answer: str, family: str = "lookup", trace: tuple[str, ...] = ()) -> bool:
    task = replace(next(generate(count=1)), family=family, prompts=("?",), tools=("recall",), expected=expected)
    return check(task, [answer], trace)


def test_numbers_are_compared_by_value_and_not_by_how_they_are_written() -> None:
    expected = Expected(number=4212.5)
    assert judged(expected, "That makes 4,212.50.")
    assert not judged(expected, "That makes 42125.")
    assert not judged(expected, "I do not know.")


def test_a_value_must_be_there_and_those_of_its_neighbours_must_not() -> None:
    expected = Expected(contains=("Blue  Door",), absent=("red",))
    assert judged(expected, "It is the blue door, reddish.")
    assert not judged(expected, "The blue door or the red one.")
    assert not judged(expected, "The door.")


def test_for_a_missing_tool_another_must_not_be_used_and_the_answer_says_so() -> None:
    expected = Expected(contains=("no tool",))
    assert judged(expected, "I have no tool for that.", "no_tool")
    assert judged(expected, "I have no tool for that.", "no_tool", ("calculator",))  # refused: it was not offered
    assert not judged(expected, "I have no tool for that.", "no_tool", ("recall",))
    assert not judged(expected, "It is 12.", "no_tool", ("calculator",))


def test_an_agent_that_did_not_answer_every_prompt_has_not_succeeded() -> None:
    task = next(generate(families=["memory"], count=1))
    assert not check(task, ["I will remember that."])

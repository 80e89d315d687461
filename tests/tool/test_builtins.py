"""The built-in tools say the right thing, exactly, and fault in words that help."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.kernel.tool.builtins import (
    BUILTIN_TOOLS,
    ToolFault,
    best_lines,
    calculator,
    convert,
    date_add,
    missing_file,
    recall_lines,
    search_lines,
)


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("12*351", "4212"),
        ("3/4", "0.75"),
        ("0.1 + 0.2", "0.3"),
        ("(2+3)**2 - 1", "24"),
        ("-2**2", "-4"),
        ("2**-1", "0.5"),
        ("7//2", "3"),
        ("-7 % 3", "2"),
        ("1/3", "0.3333333333"),
        ("10 - 4 - 3", "3"),
        ("84 ÷ 2 × 3", "126"),
        ("2**64", "18446744073709551616"),
        ("  .5*4 ", "2"),
    ],
)
def test_the_calculator_is_exact_and_prints_plainly(expression: str, result: str) -> None:
    assert calculator(expression) == result


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("1/0", "division by zero"),
        ("5 % 0", "division by zero"),
        ("0**-1", "division by zero"),
        ("9**64", "too large"),
        ("2**999", "exponent"),
        ("", "empty"),
        ("2 +", "ends too early"),
        ("(1", "missing ')'"),
        ("2 3", "unexpected '3'"),
        ("__import__('os')", "cannot read"),
        ("(" * 90 + "1" + ")" * 90, "nested"),
        ("1+" * 500 + "1", "longer than"),
        ("(-8)**0.5", "root of a negative"),
    ],
)
def test_what_the_calculator_cannot_do_is_said(expression: str, why: str) -> None:
    with pytest.raises(ToolFault, match=why.replace("(", r"\(").replace(")", r"\)")):
        calculator(expression)


ANSWER = re.compile(
    r"-?\d+(\.\d+)?"
    r"|error: (cannot read|empty|expect|expression (ends|nested)|unexpected|missing|division by zero"
    r"|result too large|exponent beyond|root of a negative).*",
    re.DOTALL,
)


def answer(expression: str) -> str:
    try:
        return calculator(expression)
    except ToolFault as fault:
        return f"error: {fault}"


@given(st.text(max_size=60) | st.text("0123456789+-*/%(). ", max_size=60))
@settings(max_examples=300, deadline=None)
def test_of_any_text_the_calculator_makes_a_number_or_says_why_not(text: str) -> None:
    assert ANSWER.fullmatch(answer(text))


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6), st.integers(1, 999))
@settings(max_examples=100, deadline=None)
def test_the_calculator_agrees_with_exact_fractions(a: int, b: int, c: int) -> None:
    exact = (Fraction(a) - b) / c
    assert Fraction(calculator(f"({a} - {b}) / {c}")) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(
    ("value", "source", "target", "result"),
    [
        (20, "miles", "km", "32.1869 km"),
        (100, "Fahrenheit", "celsius", "37.7778 celsius"),
        (0, "c", "k", "273.15 k"),
        (5, "lb", "kg", "2.26796 kg"),
        (72.0, "km/h", "m/s", "20 m/s"),
        (3, "weeks", "days", "21 days"),
        (2.5, "GB", "mb", "2500 mb"),
        (1000000, "km", "mm", "1000000000000 mm"),
    ],
)
def test_units_convert_to_six_digits(value: float, source: str, target: str, result: str) -> None:
    assert convert(value, source, target) == result


def test_an_unknown_unit_names_the_nearest_known_one() -> None:
    with pytest.raises(ToolFault, match="unknown unit 'milez'; nearest: 'mile"):
        convert(3, "milez", "km")
    with pytest.raises(ToolFault, match=r"unknown unit 'qqqqqq'$"):
        convert(3, "qqqqqq", "km")


def test_units_of_different_kinds_do_not_convert() -> None:
    with pytest.raises(ToolFault, match="cannot convert kg to km"):
        convert(3, "kg", "km")
    with pytest.raises(ToolFault, match="out of range"):
        convert(float("nan"), "kg", "g")


def test_dates_move_both_ways_over_leap_years() -> None:
    assert date_add("2028-02-28", 1) == "2028-02-29"
    assert date_add("2026-01-31", -45) == "2025-12-17"


def test_a_date_that_is_none_and_one_beyond_the_calendar_are_faults() -> None:
    with pytest.raises(ToolFault, match="not a date: '2026-13-01'; write YYYY-MM-DD"):
        date_add("2026-13-01", 1)
    with pytest.raises(ToolFault, match="out of range"):
        date_add("9999-12-31", 1)
    with pytest.raises(ToolFault, match="out of range"):
        date_add("2026-01-01", 10**18)


TEXTS = {
    "b.txt": "The code of the blue door is 5121\n\n",
    "a.txt": "The code of the red door is 4211\nThe owner of the blue door is Kelvor",
}


def test_search_puts_the_line_that_shares_most_rare_words_first() -> None:
    assert search_lines(TEXTS, "code of the blue door").splitlines()[0] == "The code of the blue door is 5121"
    assert len(search_lines(TEXTS, "door", limit=2).splitlines()) == 2


def test_search_without_a_match_says_so() -> None:
    with pytest.raises(ToolFault, match="nothing found for 'purple gate'"):
        search_lines(TEXTS, "purple gate")
    with pytest.raises(ToolFault, match="nothing remembered about 'the'"):
        recall_lines(["a fact"], "the")


def test_ties_keep_their_order_and_repeated_lines_come_once() -> None:
    assert best_lines(["x one", "x two", "x one"], "x", 3) == ["x one", "x two"]


def test_a_missing_file_names_the_nearest() -> None:
    assert missing_file("harbor_fee.txt", ["harbor_fees.txt", "b.md"]).endswith("nearest: 'harbor_fees.txt'")
    assert missing_file("zzz", ["harbor_fees.txt"]) == "no file called 'zzz'"


def test_every_parameter_but_the_query_of_a_file_is_required() -> None:
    assert [tool.name for tool in BUILTIN_TOOLS] == [
        "calculator", "convert", "date_add", "search_notes", "read_file", "remember", "recall",
    ]  # fmt: skip
    optional = {
        (tool.name, each)
        for tool in BUILTIN_TOOLS
        for each in set(tool.parameters["properties"]) - set(tool.parameters["required"])
    }
    assert optional == {("read_file", "query")}

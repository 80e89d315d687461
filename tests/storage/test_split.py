"""Passages of a text: cut at natural borders, none too long, nothing lost, each where it says it is."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aios.kernel.storage.knowledge.split import LEAST, MOST, Kind, split

KINDS: tuple[Kind, ...] = ("text", "markdown", "code", "csv")
PIECES = st.sampled_from(
    ["word", "a longer run of words. ", "\n", "\n\n", "# Head\n", "### Low\n", "```\n", "def f():\n", "    x = 1\n",
     "}\n", '"', ",", "é", "語。", "\t", "\x0b", "\r\n", "x" * 700]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=60).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
@example(text="")
@example(text="x" * 10_000)
def test_every_character_but_blanks_at_the_edges_is_in_one_passage_of_bounded_length(kind: Kind, text: str) -> None:
    at = 0
    for passage in split(text, kind):
        assert not text[at : passage.start].strip()
        assert at <= passage.start < passage.end
        assert passage.end - passage.start <= 2 * MOST
        at = passage.end
    assert not text[at:].strip()


def parts(text: str, kind: Kind) -> list[tuple[str | None, str]]:
    return [(each.title, text[each.start : each.end]) for each in split(text, kind)]


LONG = "word " * (LEAST // 4)


def test_a_heading_begins_a_passage_and_titles_it_with_those_above() -> None:
    text = f"# Ship\n\n{LONG}\n\n## Engine\n\n{LONG}\n\n## Sails\n\n{LONG}\n"
    titles = [title for title, _ in parts(text, "markdown")]
    assert titles == ["Ship", "Ship › Engine", "Ship › Sails"]


def test_what_stands_in_a_fence_is_no_heading() -> None:
    text = f"# Ship\n\n{LONG}\n\n```\n# not one\n\n# nor this\n```\n"
    assert [title for title, _ in parts(text, "markdown")] == ["Ship"]


def test_small_sections_are_one_passage() -> None:
    assert len(parts("# A\n\nshort\n\n# B\n\nshort too\n", "markdown")) == 1


def test_code_is_split_between_functions_and_titled_by_their_heads() -> None:
    body = "".join(f"    line_{n} = {n}\n" for n in range(20))
    text = f"import os\n\n\n@cached\ndef first(a: int) -> int:\n{body}\n\nclass Second:\n{body}"
    found = parts(text, "code")
    assert [title for title, _ in found][-2:] == ["def first(a: int) -> int:", "class Second:"]
    assert found[-2][1].startswith("@cached") or found[0][1].startswith("import os")


def test_rows_of_a_table_are_titled_by_its_first_and_not_cut() -> None:
    text = "name,age\n" + "".join(f"person {n},{n}\n" for n in range(500))
    found = parts(text, "csv")
    assert {title for title, _ in found[1:]} == {"name,age"}
    assert all(line.count(",") == 1 for _, part in found for line in part.splitlines())


def test_a_row_with_a_line_break_in_quotes_stays_whole() -> None:
    text = 'name,note\nann,"one\ntwo"\n' + "x,y\n" * 400
    assert any('ann,"one\ntwo"' in part for _, part in parts(text, "csv"))


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    text = "This is a sentence of some words. " * 200
    assert all(part.endswith(".") for _, part in parts(text, "text"))

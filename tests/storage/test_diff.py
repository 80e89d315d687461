"""A diff, applied, makes the new text of the old; and says why there is none."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.kernel.storage import compare, diff
from aios.kernel.storage.compare import Side, compared

LINES = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "\n", "a b\n"]), max_size=30)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(LINES, LINES)
def test_the_changes_make_the_new_lines_of_the_old(old: list[str], new: list[str]) -> None:
    made = list(old)
    for begin, end, new_begin, new_end in reversed(diff.changes(old, new)):
        made[begin:end] = new[new_begin:new_end]
    assert made == new
    assert bool(diff.unified("".join(old), "".join(new), "a", "b")) == (old != new)


def test_a_diff_is_written_as_patch_reads_it() -> None:
    old = "".join(f"{n}\n" for n in range(20)) + "end"
    new = old.replace("3\n4\n", "3\n3b\n4\n", 1).replace("end", "END")
    assert diff.unified(old, new, "old", "new") == (
        "--- old\n+++ new\n@@ -2,6 +2,7 @@\n 1\n 2\n 3\n+3b\n 4\n 5\n 6\n"
        "@@ -18,4 +19,4 @@\n 17\n 18\n 19\n-end\n\\ No newline at end of file\n+END\n\\ No newline at end of file\n"
    )


def test_texts_that_differ_too_much_are_shown_as_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff, "MAX_CHANGES", 10)
    dice = random.Random(0)
    old, new = ([f"{dice.random()}\n" for _ in range(100)] for _ in range(2))
    same = ["same\n"]
    assert diff.changes(same + old + same, same + new + same) == [(1, 101, 1, 101)]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"\0\1", b"\0\2", "f (version 1) and f (version 2) differ, with 2 and 2 bytes, and are not both text"),
        (b"\xff", b"x", "not both text"),
        (None, b"x", "more than the 4,194,304 that are compared line by line"),
    ],
)
def test_what_cannot_be_compared_line_by_line_is_said_in_a_sentence(old: bytes | None, new: bytes, says: str) -> None:
    text = compared(Side("f", 1, 2, old), Side("f", 2, len(new), new))
    assert says in text
    assert text.count("\n") == 1


def test_a_long_diff_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "MAX_TEXT", 50)
    text = compared(Side("f", 1, 2, b"x\n" * 100), Side("f", 2, 2, b"y\n" * 100))
    assert "[cut: these are the first 50 of" in text

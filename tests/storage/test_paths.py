"""Paths have one spelling, and no spelling leads out of an agent's storage."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.abi.errors import BadRequest
from aios.kernel.storage import base
from aios.kernel.storage.base import clean_path, folders_of, nearest_name, parent_of

ATTACKS = [
    "../x", "a/../../x", "..", ".", "./a", "a/./b", "/etc/passwd", "//etc", "a//b", "a\0b", "a\\..\\b",
    "\\\\host\\share", "C:/x", "c:\\x", "~/x", "~root", "a/..", "", "a\nb", "a\x7fb", "a/\ud800",
    "x" * 1025, "/".join("a" * 40), "a/../a",
]  # fmt: skip


@pytest.mark.parametrize("path", ATTACKS, ids=repr)
def test_a_path_that_is_not_a_plain_relative_one_is_refused_with_a_reason(path: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        clean_path(path)
    assert refusal.value.code == "bad_path"
    assert refusal.value.param == "path"


@pytest.mark.parametrize(
    "path", ["a", "a/b.txt", "notes/2026-11-22.md", "...", "a b/ç.txt", "..a", "a..b", "con", "日本/語"]
)
def test_a_plain_path_is_itself(path: str) -> None:
    assert clean_path(path) == path


def test_two_spellings_of_one_name_are_one_path() -> None:
    assert clean_path("cafe\u0301") == clean_path("café") == "café"
    assert clean_path("notes/") == "notes"


def test_only_a_listing_may_name_the_top() -> None:
    assert clean_path("", root=True) == clean_path(".", root=True) == ""
    with pytest.raises(BadRequest):
        clean_path("..", root=True)


def test_the_folders_above_a_path_are_named_from_the_top() -> None:
    assert folders_of("a/b/c.txt") == ["a", "a/b"]
    assert folders_of("a") == []
    assert parent_of("a/b/c.txt") == "a/b"
    assert parent_of("a") == ""


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.lists(
        st.sampled_from(["..", ".", "", "a", "/", "\\", "\0", "~", "C:", "b", "%2e%2e", "．．", "\u202e"]), max_size=6
    )
)
def test_whatever_is_let_pass_is_clean_and_stays_so(parts: list[str]) -> None:
    try:
        path = clean_path("/".join(parts))
    except BadRequest:
        return
    assert clean_path(path) == path
    pieces = path.split("/")
    assert not {"", ".", ".."} & set(pieces)
    assert not path.startswith(("/", "~"))
    assert "\0" not in path
    assert "\\" not in path


def test_the_nearest_name_is_found_and_none_when_nothing_is_near() -> None:
    assert nearest_name("todya.md", ["x", "today.md", "monday.md"]) == "today.md"
    assert nearest_name("zebra", ["x", "today.md"]) is None


def test_names_that_are_long_and_much_alike_are_not_all_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    num_compared = []
    compare = base.SequenceMatcher.ratio
    monkeypatch.setattr(base.SequenceMatcher, "ratio", lambda self: num_compared.append(self.a) or compare(self))
    assert nearest_name("a" * 1000, [f"{'a' * 1000}{n}" for n in range(200)]) is not None
    assert num_compared == ["a" * base.MAX_COMPARED] * (base.MAX_STEPS // base.MAX_COMPARED**2)

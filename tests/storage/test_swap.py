"""Bytes on disk by key: whole or not at all, within a budget, and only the user's."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.kernel.storage import Swap, SwapError

HEAD = 20
"""Bytes that a file has beside what was put."""


def opened(path: Path, budget: int = 10_000) -> Swap:
    swap = Swap(path / "swap" / "of-one", budget)
    swap.open()
    return swap


def test_what_was_put_is_got_until_it_is_dropped(tmp_path: Path) -> None:
    swap = opened(tmp_path)
    assert swap.put("a", [b"one ", memoryview(b"two"), b""]) == HEAD + 7
    assert bytes(swap.get("a")) == b"one two"
    swap.put("a", [b"three"])
    assert bytes(swap.get("a")) == b"three"
    assert swap.sizes() == {"a": HEAD + 5}
    swap.check_integrity()
    swap.drop("a")
    swap.drop("a")
    with pytest.raises(KeyError):
        swap.get("a")
    assert list(swap.folder.iterdir()) == []


def test_only_the_user_may_read_it(tmp_path: Path) -> None:
    swap = opened(tmp_path)
    swap.put("a", [b"secret"])
    assert stat.S_IMODE(swap.folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in swap.folder.iterdir()] == [0o600]


def test_the_next_process_finds_what_was_put_and_sweeps_away_what_was_not_finished(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.put("call_1@nano@0", [b"x" * 100])
    (first.folder / "call_2@nano@0.swap.7.part").write_bytes(b"half")
    (first.folder / "note.txt").write_bytes(b"somebody else's")
    (first.folder / "film.part").write_bytes(b"somebody else's")
    (first.folder / "link.swap").symlink_to("/etc/passwd")
    again = Swap(first.folder, 10_000)
    foreign = ["film.part", "link.swap", "note.txt"]
    assert again.open() == foreign
    assert again.sizes() == {"call_1@nano@0": HEAD + 100}
    assert bytes(again.get("call_1@nano@0")) == b"x" * 100
    assert sorted(path.name for path in again.folder.iterdir()) == ["call_1@nano@0.swap", *foreign]


def test_files_whose_keys_are_of_another_kind_are_left_alone_and_not_counted(tmp_path: Path) -> None:
    first = opened(tmp_path)
    for key in ("call@1", "holiday"):
        first.put(key, [b"x" * 100])
    again = Swap(first.folder, 10_000)
    assert again.open(lambda key: "@" in key) == ["holiday.swap"]
    assert again.sizes() == {"call@1": HEAD + 100}
    with pytest.raises(KeyError):
        again.get("holiday")
    assert (first.folder / "holiday.swap").exists()


def test_past_its_budget_nothing_is_put_and_what_was_there_stays(tmp_path: Path) -> None:
    swap = opened(tmp_path, budget=200)
    swap.put("a", [b"x" * 100])
    with pytest.raises(SwapError, match=r"'b' takes 120 bytes, and 80 of 200 are left"):
        swap.put("b", [b"x" * 100])
    with pytest.raises(SwapError):
        swap.put("a", [b"x" * 190])
    assert bytes(swap.get("a")) == b"x" * 100
    swap.check_integrity()


def test_a_full_disk_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swap = opened(tmp_path)
    swap.put("a", [b"old"])
    write = os.write

    def half(descriptor: int, data: Any) -> int:
        if len(data) > 50:
            return write(descriptor, data[:50])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("aios.kernel.storage.swap.os.write", half)
    with pytest.raises(SwapError, match="'a' cannot be kept on disk: No space left"):
        swap.put("a", [b"x" * 90])
    monkeypatch.undo()
    assert bytes(swap.get("a")) == b"old"
    swap.check_integrity()


@pytest.mark.parametrize(
    "damage",
    [lambda d: d[:-1], lambda d: b"", lambda d: d + b"more", lambda d: d[:-1] + bytes([d[-1] ^ 1]), lambda d: d[5:]],
    ids=["cut off", "empty", "longer", "a bit turned", "without its head"],
)
def test_a_damaged_file_is_told_and_never_taken_for_what_was_put(tmp_path: Path, damage: Any) -> None:
    swap = opened(tmp_path)
    swap.put("a", [b"some content"])
    (file,) = swap.folder.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(SwapError, match="'a' is damaged on disk"):
        swap.get("a")


@pytest.mark.parametrize("key", ["", "../a", "a/b", ".hidden", "a" * 201, "a\0", "ü"])
def test_a_key_is_no_path(tmp_path: Path, key: str) -> None:
    swap = opened(tmp_path)
    for use in (lambda: swap.put(key, [b""]), lambda: swap.get(key), lambda: swap.drop(key)):
        with pytest.raises(ValueError, match="is no key"):
            use()


KEYS = st.sampled_from(["a", "b", "c"])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(KEYS, st.one_of(st.none(), st.binary(max_size=120))), max_size=20))
def test_it_is_a_mapping_with_a_bound(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    swap = opened(tmp_path_factory.mktemp("swap"), budget=300)
    model: dict[str, bytes] = {}
    for key, value in steps:
        if value is None:
            swap.drop(key)
            model.pop(key, None)
            continue
        used = sum(HEAD + len(each) for each in model.values())
        if used + HEAD + len(value) > 300:  # the old one is there until the new one is whole
            with pytest.raises(SwapError):
                swap.put(key, [value])
        else:
            swap.put(key, [value])
            model[key] = value
        assert {key: bytes(swap.get(key)) for key in swap.sizes()} == model
        swap.check_integrity()


def test_a_folder_that_is_named_like_an_unfinished_file_keeps_nothing_from_being_kept(tmp_path: Path) -> None:
    opened(tmp_path).put("a", [b"one"])
    (tmp_path / "swap" / "of-one" / "b.part").mkdir()
    assert bytes(opened(tmp_path).get("a")) == b"one"

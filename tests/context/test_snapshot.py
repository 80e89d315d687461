"""What holds of every form of a snapshot, and what becomes of bytes that are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.kernel.context import Snapshot, SnapshotError
from aios.kernel.context.base import About
from aios.kernel.context.logits import LogitsSnapshot, read
from aios.kernel.context.text import TextSnapshot

ABOUT = About("call_1", "nano", "0123", "4567")
STATE = '{"said": "grüß"}'.encode()


def arrays(dtype: str = "<f4") -> list[Any]:
    return [np.arange(24, dtype=dtype).reshape(2, 3, 4), np.ones((1, 0, 5), dtype)]


FORMS: list[Callable[[], Snapshot]] = [
    lambda: LogitsSnapshot(ABOUT, STATE, arrays()),
    lambda: LogitsSnapshot(ABOUT, STATE, arrays("<u2")),
    lambda: LogitsSnapshot(ABOUT, STATE, [array[:, ::2] for array in arrays("<f2")]),
    lambda: LogitsSnapshot(ABOUT, STATE, []),
    lambda: TextSnapshot(ABOUT, STATE),
]
each_form = pytest.mark.parametrize("make", FORMS, ids=["f32", "bf16 as u16", "f16 in strides", "no lines", "text"])


def data_of(snapshot: Snapshot) -> bytes:
    return b"".join(snapshot.parts())


@each_form
def test_what_comes_back_of_its_bytes_is_the_same(make: Callable[[], Snapshot]) -> None:
    snapshot = make()
    again = read(data_of(snapshot))
    assert (again.form, again.about, again.state) == (snapshot.form, snapshot.about, snapshot.state)
    if snapshot.arrays is None:
        assert again.arrays is None
    else:
        assert again.arrays is not None
        for old, new in zip(snapshot.arrays, again.arrays, strict=True):
            assert old.dtype == new.dtype
            np.testing.assert_array_equal(old, new)


@each_form
def test_its_text_is_its_state_without_arrays(make: Callable[[], Snapshot]) -> None:
    text = make().as_text()
    assert (text.form, text.about, text.state, text.arrays) == ("text", ABOUT, STATE, None)
    assert text.as_text() == text
    assert data_of(read(data_of(text))) == data_of(text)


@each_form
def test_it_says_about_how_large_it_is(make: Callable[[], Snapshot]) -> None:
    snapshot = make()
    assert 0 <= len(data_of(snapshot)) - snapshot.nbytes <= 4096


@each_form
@settings(max_examples=60, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_turned_bit_is_found_out_wherever_it_is(make: Callable[[], Snapshot], at: float, bit: int) -> None:
    data = bytearray(data_of(make()))
    data[int(at * len(data))] ^= 1 << bit
    with pytest.raises(SnapshotError) as caught:
        read(bytes(data))
    assert caught.value.rest is None or caught.value.rest.state == STATE


@each_form
@settings(max_examples=60, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True))
def test_one_that_is_cut_off_is_found_out_wherever_it_ends(make: Callable[[], Snapshot], at: float) -> None:
    data = data_of(make())
    with pytest.raises(SnapshotError) as caught:
        read(data[: int(at * len(data))])
    assert caught.value.rest is None or caught.value.rest.state == STATE


def test_when_only_the_arrays_are_damaged_the_text_is_saved() -> None:
    data = data_of(LogitsSnapshot(ABOUT, STATE, arrays()))
    for bad in (data[:-1], data[:-40] + b"\xff" + data[-39:], data + b"more"):
        with pytest.raises(SnapshotError) as caught:
            read(bad)
        assert caught.value.rest == TextSnapshot(ABOUT, STATE)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda tail: b"AIOSCTX1" + tail)))
def test_bytes_of_any_kind_are_refused_with_a_snapshot_error(data: bytes) -> None:
    with pytest.raises(SnapshotError):
        read(data)


@pytest.mark.parametrize("form", ['"other"', "7"])
def test_a_header_of_another_kind_is_refused_though_its_checksum_is_right(form: str) -> None:
    import hashlib
    import struct

    header = b'{"form": %s, "about": {}, "arrays": [], "state": {}}' % form.encode()
    data = b"AIOSCTX1" + struct.pack("<Q", len(header)) + header + hashlib.sha256(header).digest()
    with pytest.raises(SnapshotError, match="of another kind"):
        read(data)

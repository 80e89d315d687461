"""Long contents are cut where their bytes say so, however they come."""

from __future__ import annotations

import random
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.kernel.storage.chunker import RANGES, Cutter, Ranges, Sizes, sizes_at

SMALL = ((0, Sizes(64, 192, 1024)), (8192, Sizes(256, 512, 2048)))


def chunks_of(data: bytes, *sizes: int, ranges: Ranges = SMALL) -> list[bytes]:
    """What `data` is cut into when it comes in pieces of `sizes`, then the rest."""
    cutter, chunks = Cutter(ranges), []
    for size in sizes:
        piece, data = data[:size], data[size:]
        cutter.feed(piece)
        chunks += [b"".join(chunk) for chunk in cutter.cut()]
    cutter.feed(data)
    return chunks + [b"".join(chunk) for chunk in cutter.cut(is_last=True)]


CONTENTS = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda seed, n: random.Random(seed).randbytes(n), st.integers(0, 9), st.integers(0, 30_000)),
    st.builds(lambda b, n: b * n, st.binary(min_size=1, max_size=5), st.integers(0, 9000)),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(CONTENTS, st.lists(st.integers(0, 5000), max_size=5))
def test_chunks_join_to_what_came_within_their_bounds_and_do_not_depend_on_how_it_came(
    data: bytes, sizes: list[int]
) -> None:
    chunks = chunks_of(data)
    assert b"".join(chunks) == data
    assert chunks_of(data, *sizes) == chunks
    at = 0
    for chunk in chunks:
        assert 0 < len(chunk) <= sizes_at(at, SMALL).most
        at += len(chunk)
        assert len(chunk) >= sizes_at(at - len(chunk), SMALL).least or at == len(data)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["bytes", "text", "four letters"])
def test_a_change_in_the_middle_moves_the_cuts_around_it_and_no_others(seed: int, kind: str) -> None:
    dice = random.Random(seed)
    if kind == "bytes":
        data = dice.randbytes(60_000)
    elif kind == "text":
        data = b" ".join(dice.choice(b"the quick brown fox jumps over a lazy dog".split()) for _ in range(12_000))
    else:
        data = bytes(dice.choices(b"ACGT", k=60_000))
    before = set(chunks_of(data))
    for begin, end, new in ((30_000, 30_000, b"inserted"), (30_000, 30_100, b""), (30_000, 30_008, b"replaced")):
        after = chunks_of(data[:begin] + new + data[end:])
        assert sum(len(chunk) for chunk in after if chunk not in before) <= 8 * SMALL[1][1].most


def test_what_was_shifted_from_one_range_into_another_finds_back_to_the_same_cuts() -> None:
    data = random.Random(1).randbytes(40_000)
    before = {cut for cut in _cuts(chunks_of(data)) if cut > 20_000}
    after = {cut - 5000 for cut in _cuts(chunks_of(random.Random(2).randbytes(5000) + data))}
    assert len(before & after) > len(before) * 0.6


def _cuts(chunks: list[bytes]) -> list[int]:
    cuts, at = [], 0
    for chunk in chunks:
        at += len(chunk)
        cuts.append(at)
    return cuts


def test_a_changed_line_in_ten_megabytes_costs_less_than_64_kilobytes_with_its_list_of_chunks() -> None:
    dice = random.Random(3)
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(2, 9))) for _ in range(3000)]
    lines = [" ".join(dice.choices(words, k=dice.randint(3, 14))) + "\n" for _ in range(190_000)]
    data = "".join(lines).encode()
    assert len(data) > 10_000_000
    before = {sha256(chunk).digest() for chunk in chunks_of(data, ranges=RANGES)}
    for _ in range(5):
        lines[dice.randrange(len(lines))] = " ".join(dice.choices(words, k=10)) + "\n"
        after = chunks_of("".join(lines).encode(), ranges=RANGES)
        new = [chunk for chunk in after if sha256(chunk).digest() not in before]
        assert sum(map(len, new)) + 8 * len(after) <= 64_000
        before |= {sha256(chunk).digest() for chunk in after}


def test_a_gigabyte_has_some_thousands_of_chunks() -> None:
    ends = [begin for begin, _ in RANGES[1:]] + [1 << 30]
    num = sum((end - begin) / sizes.mean for end, (begin, sizes) in zip(ends, RANGES, strict=True))
    assert 500 < num < 5000

"""Where a long content is cut, by what stands there: a change moves the cuts around it and no others. Knows no store.

A cut is a place whose last 16 bytes hash above a threshold, as in LBFS (Muthitacharoen et al., 2001). Towards the end
of a long content chunks grow, so that a gigabyte has some thousands. The thresholds are nested: a cut among larger
chunks is one among smaller, so what was shifted from one range into the other finds back to the same cuts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

WINDOW = 16
"""Bytes that decide whether there is a cut behind them."""
_SIEVE = 64
"""One place in so many passes the first look, at the last four bytes."""
_FIRST = np.uint32(0x9E3779B1)
_LEFT, _RIGHT = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_BAR = np.uint32((1 << 32) - (1 << 32) // _SIEVE)
_STEP = 128 << 10
"""Places that are looked at together: they stay in the cache."""


class Sizes(NamedTuple):
    """Bytes of chunks in a range of a content: none is smaller than `least` but the last, none larger than `most`, and
    `mean` is what they are on average, most of them being cut where the content says."""

    least: int
    mean: int
    most: int

    @property
    def bar(self) -> np.uint64:
        """Hashes of the second look above this are cuts."""
        one_in = (self.mean - self.least) // _SIEVE
        return np.uint64((1 << 64) - (1 << 64) // one_in)


Ranges = tuple[tuple[int, Sizes], ...]
RANGES: Ranges = (
    (0, Sizes(8 << 10, 16 << 10, 32 << 10)),
    (16 << 20, Sizes(64 << 10, 128 << 10, 256 << 10)),
    (64 << 20, Sizes(896 << 10, 1 << 20, 2 << 20)),
)
"""From which byte on chunks are so large."""


def sizes_at(position: int, ranges: Ranges) -> Sizes:
    return next(sizes for begin, sizes in reversed(ranges) if position >= begin)


class Cutter:
    """One content as it comes: `feed` it, then `cut` what can be cut, and `cut(is_last=True)` at the end. The chunks do
    not depend on how it came."""

    def __init__(self, ranges: Ranges | None = None) -> None:
        self._ranges = ranges or RANGES
        self._waiting: list[bytes] = []
        self._position = 0
        """Of the first byte that waits, in the content."""
        self.num_waiting = 0
        self._scratch = Scratch()

    def feed(self, data: bytes) -> None:
        self._waiting.append(data)
        self.num_waiting += len(data)

    def cut(self, *, is_last: bool = False) -> list[memoryview]:
        """The next chunks. What may still be longer waits for the rest, unless this is the last of it."""
        data = memoryview(self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting))
        chunks = []
        begin = 0
        while begin < len(data):
            sizes = sizes_at(self._position, self._ranges)
            if len(data) - begin < sizes.most and not is_last:
                break
            chunk = data[begin : begin + first_cut(data[begin : begin + sizes.most], sizes, self._scratch)]
            chunks.append(chunk)
            begin += len(chunk)
            self._position += len(chunk)
        self._waiting = [bytes(data[begin:])]
        self.num_waiting = len(data) - begin
        return chunks


class Scratch:
    """Room for a look at `_STEP` places, used again and again."""

    def __init__(self) -> None:
        self.hashes = np.empty(_STEP // 4 + 1, np.uint32)
        self.is_above = np.empty(_STEP // 4 + 1, np.bool_)


def first_cut(data: memoryview, sizes: Sizes, scratch: Scratch) -> int:
    """The length of the chunk that `data`, of at most `sizes.most` bytes, begins with."""
    for begin in range(sizes.least, len(data), _STEP):
        places = _places(data, begin, min(begin + _STEP, len(data)), sizes.bar, scratch)
        if len(places):
            return int(places.min())
    return len(data)


def _places(
    data: memoryview, begin: int, end: int, bar: np.uint64, scratch: Scratch
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """All cuts from `begin` on and before `end`."""
    found = []
    for first in range(begin, min(begin + 4, end)):
        words = np.frombuffer(data, "<u4", (end - first + 3) // 4, first - 4)
        hashes, is_above = scratch.hashes[: len(words)], scratch.is_above[: len(words)]
        np.multiply(words, _FIRST, out=hashes)
        np.greater(hashes, _BAR, out=is_above)
        found.append(np.flatnonzero(is_above) * 4 + first)
    places = np.concatenate(found)
    windows = np.ndarray((len(data) - WINDOW + 1,), f"V{WINDOW}", data, strides=(1,))  # one begins at every byte
    halves = windows[places - WINDOW].view("<u8")
    return places[halves[0::2] * _LEFT + halves[1::2] * _RIGHT > bar]

"""Where a long content is cut, by what stands there: a change moves the cuts around it and no others. Knows no store.

A cut is a place whose last 16 bytes hash above a threshold, as in LBFS (Muthitacharoen et al., 2001). Towards the end
of a long content chunks grow, so that a gigabyte has some thousands. The thresholds are nested: a cut among larger
chunks is one among smaller, so what was shifted from one range into the other finds back to the same cuts.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

WINDOW = 16
"""Bytes that decide whether there is a cut behind them."""
_SIEVE = 64
"""One place in so many passes the first look, at the last four bytes."""
_FIRST = np.uint32(0x9E3779B1)
_LEFT, _RIGHT = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_BAR = np.uint32((1 << 32) - (1 << 32) // _SIEVE)
_STEP = 64 << 10
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
    (64 << 20, Sizes(7 << 18, 2 << 20, 3 << 20)),
)
"""From which byte on chunks are so large."""


def sizes_at(position: int, ranges: Ranges) -> Sizes:
    return next(sizes for begin, sizes in reversed(ranges) if position >= begin)


Chunk = list[memoryview]
"""Its bytes, in the pieces in which they came: nothing is copied."""


class Cutter:
    """One content as it comes: `feed` it, then `cut` what can be cut, and `cut(is_last=True)` at the end. The chunks do
    not depend on how it came."""

    def __init__(self, ranges: Ranges | None = None) -> None:
        self._ranges = ranges or RANGES
        self._waiting: deque[memoryview] = deque()
        self._position = 0
        """Of the first byte that waits, in the content."""
        self.num_waiting = 0
        self._hashes = np.empty(_STEP // 4 + 1, np.uint32)
        self._is_above = np.empty(_STEP // 4 + 1, np.bool_)

    def feed(self, data: bytes) -> None:
        if data:
            self._waiting.append(memoryview(data))
            self.num_waiting += len(data)

    def cut(self, *, is_last: bool = False) -> list[Chunk]:
        """The next chunks. What may still be longer waits for the rest, unless this is the last of it."""
        chunks = []
        while self.num_waiting:
            sizes = sizes_at(self._position, self._ranges)
            if self.num_waiting < sizes.most and not is_last:
                break
            chunks.append(self._take(self._first_cut(sizes)))
        return chunks

    def _take(self, length: int) -> Chunk:
        self._position += length
        self.num_waiting -= length
        chunk = []
        while length:
            piece = self._waiting.popleft()
            if len(piece) > length:
                self._waiting.appendleft(piece[length:])
                piece = piece[:length]
            chunk.append(piece)
            length -= len(piece)
        return chunk

    def _first_cut(self, sizes: Sizes) -> int:
        """The length of the next chunk."""
        end = min(self.num_waiting, sizes.most)
        for begin in range(sizes.least, end, _STEP):
            places = self._places(self._span(begin - WINDOW, min(begin + _STEP, end)), sizes.bar)
            if len(places):
                return begin - WINDOW + int(places.min())
        return end

    def _span(self, begin: int, end: int) -> memoryview:
        """Bytes that wait, in one piece: where they came in several, a copy."""
        pieces = []
        at = 0
        for piece in self._waiting:
            if at + len(piece) > begin:
                pieces.append(piece[max(0, begin - at) : end - at])
            at += len(piece)
            if at >= end:
                break
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))

    def _places(self, data: memoryview, bar: np.uint64) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """All cuts in `data` that have a window before them."""
        found = []
        for first in range(WINDOW, min(WINDOW + 4, len(data))):
            words = np.frombuffer(data, "<u4", (len(data) - first + 3) // 4, first - 4)
            hashes, is_above = self._hashes[: len(words)], self._is_above[: len(words)]
            np.multiply(words, _FIRST, out=hashes)
            np.greater(hashes, _BAR, out=is_above)
            found.append(is_above.nonzero()[0] * 4 + first)
        places = np.concatenate(found)
        windows = np.ndarray((len(data) - WINDOW + 1,), f"V{WINDOW}", data, strides=(1,))  # one begins at every byte
        halves = windows[places - WINDOW].view("<u8")
        return places[halves[0::2] * _LEFT + halves[1::2] * _RIGHT > bar]

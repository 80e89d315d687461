"""Matrix products on NumPy whose rows do not depend on each other, bit for bit. Knows no models and no sequences.

A product `x @ w` of plain NumPy gives a row other bits when the number of rows changes, since the library picks another
kernel. Two things make it exact here. The weights are cut into tiles so small that one kernel serves every row count up
to `MAX_ROWS` (it is also the fastest one: nothing is packed); deep ones are cut in depth too, and the pieces' products
added up in order. And the row counts that are used are only those which `proven_rows` has seen to give equal bits, on
this machine, with these very weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

MAX_ROWS = 32
LANES = 16
"""Tiles of so many columns, or a multiple, fill whole vectors."""
CANDIDATE_ROWS = (2, 4, 6, 8, 12, 16, 20, 24, 28, 32)
_SMALL_PRODUCT = 1_000_000  # rows x depth x columns up to which OpenBLAS uses its kernels without packing


def aligned(shape: Sequence[int]) -> F32:
    """Zeros that start on a cache line, so that no kernel sees two different alignments of the same data."""
    size = int(np.prod(shape)) * 4
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(np.float32).reshape(shape)


def tiled(weight: F32) -> F32:
    """`weight` (depth, columns) as (pieces, tiles, depth of a piece, columns of a tile)."""
    pieces = _pieces(weight.shape[0])
    depth, columns = weight.shape[0] // pieces, weight.shape[1]
    tile = _tile_columns(depth, columns)
    out = aligned((pieces, columns // tile, depth, tile))
    out[...] = weight.reshape(pieces, depth, columns // tile, tile).transpose(0, 2, 1, 3)
    return out


def _pieces(depth: int) -> int:
    """In how many parts a depth is cut so that a tile of LANES columns is a small product; 1 where none fits."""
    most = _SMALL_PRODUCT // (MAX_ROWS * LANES)
    if depth <= most:
        return 1
    return next((n for n in range(2, depth // LANES + 1) if depth % (n * LANES) == 0 and depth // n <= most), 1)


def _tile_columns(depth: int, columns: int) -> int:
    limit = max(LANES, _SMALL_PRODUCT // (MAX_ROWS * depth))
    fitting = [n for n in range(1, min(columns, limit) + 1) if columns % n == 0]
    whole_lanes = [n for n in fitting if n % LANES == 0]
    return max(whole_lanes or fitting)


def blocks_in(x: F32, rows: int) -> F32:
    """`x` (n * rows, depth) as the left operand (n, 1, rows, depth) of a product with tiles."""
    return x.reshape(-1, 1, rows, x.shape[1])


def blocks_out(y: F32, rows: int, tiles: int) -> F32:
    """`y` (n * rows, columns) as the result (n, tiles, rows, columns of a tile) of a product with tiles."""
    return y.reshape(-1, rows, tiles, y.shape[1] // tiles).transpose(0, 2, 1, 3)


class Spare:
    """Room for the products of further pieces; it grows to what the largest weight needs."""

    def __init__(self) -> None:
        self._data = aligned((0,))

    def like(self, out: F32) -> F32:
        if self._data.size < out.size:
            self._data = aligned((out.size,))
        return self._data[: out.size].reshape(out.shape)


def product(x_in: F32, tiles: F32, rows: int, out: F32, spare: Spare) -> None:
    """Into `out`: what `x_in` (from `blocks_in`) gives times the untiled weight."""
    pieces, count, depth, _ = tiles.shape
    if pieces == 1:
        np.matmul(x_in, tiles[0], out=blocks_out(out, rows, count))
        return
    np.matmul(x_in[..., :depth], tiles[0], out=blocks_out(out, rows, count))
    more = spare.like(out)
    for piece in range(1, pieces):
        part = x_in[..., piece * depth : (piece + 1) * depth]
        np.matmul(part, tiles[piece], out=blocks_out(more, rows, count))
        np.add(out, more, out=out)


def multiply(x: F32, tiles: F32, rows: int) -> F32:
    """`x` times the untiled weight, computed in blocks of `rows` rows."""
    out = aligned((x.shape[0], tiles.shape[1] * tiles.shape[3]))
    product(blocks_in(x, rows), tiles, rows, out, Spare())
    return out


def proven_rows(weights: Sequence[F32], candidates: Sequence[int] = CANDIDATE_ROWS) -> tuple[int, ...]:
    """The row counts that give each row the same bits, wherever in its block it stands, for all tiled `weights`."""
    return agreeing(candidates, lambda rows, reference: all(_is_exact(w, rows, reference) for w in weights))


def agreeing(candidates: Sequence[int], is_exact: Callable[[int, int], bool]) -> tuple[int, ...]:
    """All candidates that agree with the largest, or else with the next one, as `is_exact(rows, reference)` says.

    Where none agrees even with itself (a row's bits depend on its place), single rows are left, which are exact by
    construction and slow.
    """
    for reference in sorted(candidates, reverse=True):
        exact = [n for n in candidates if is_exact(n, reference)]
        if reference in exact:
            return tuple(exact)
    return (1,)


def _is_exact(tiles: F32, rows: int, reference: int) -> bool:
    x = probe(tiles.shape[0] * tiles.shape[2], reference)
    want = multiply(x, tiles, reference).view(np.int32)
    for shift in (0, 1 + rows // 3):  # another place in the block, and other neighbours
        picked = (np.arange(-(-reference // rows) * rows) + shift) % reference
        got = multiply(np.ascontiguousarray(x[picked]), tiles, rows).view(np.int32)
        if not np.array_equal(got, want[picked]):
            return False
    return True


def probe(depth: int, rows: int) -> F32:
    """Numbers of mixed sizes and signs, so that another order of summing rounds differently."""
    rng = np.random.default_rng(depth)
    x = rng.standard_normal((rows, depth)) * np.exp(rng.standard_normal((rows, depth)))
    return x.astype(np.float32)

"""Several rankings made one. Knows no text and no vector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

STEADY = 60
"""k of reciprocal rank fusion: how little the very first ranks count more than those after them."""


def fused(rankings: Iterable[tuple[float, Mapping[int, float]]]) -> dict[int, float]:
    """Each row's score by weighted reciprocal ranks (Cormack, Clarke and Büttcher, SIGIR 2009): the sum of weight /
    (k + rank) over the rankings that have it, as a share of what being first in all of them would give.

    A ranking is a weight, and what each of its rows is worth; rows of the same worth have the same rank.
    """
    scores: dict[int, float] = {}
    most = 0.0
    for weight, worth in rankings:
        most += weight / (STEADY + 1)
        for row, rank in ranks(worth).items():
            scores[row] = scores.get(row, 0.0) + weight / (STEADY + rank)
    return {row: score / most for row, score in scores.items()} if most else scores


def ranks(worth: Mapping[int, float]) -> dict[int, int]:
    """1 for the most; as many behind as are worth more."""
    found: dict[int, int] = {}
    rank, last = 0, None
    for n, row in enumerate(best_first(worth), 1):
        if worth[row] != last:
            rank, last = n, worth[row]
        found[row] = rank
    return found


def best_first(worth: Mapping[int, float]) -> list[int]:
    """Of the same worth, the newer row first."""
    return sorted(worth, key=lambda row: (worth[row], row), reverse=True)

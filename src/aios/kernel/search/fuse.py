"""Several rankings made one. Knows no text and no vector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

STEADY = 60
"""k of reciprocal rank fusion: how little the very first ranks count more than those after them."""
ENOUGH = 0.75
"""Share of a query that a text must hold to be trusted fully."""
STRICT = 4
"""Power by which those that hold less are trusted less."""


class Ranking(NamedTuple):
    """What each row is worth, and how much that counts: `weight`, and of it the row's own share of `trust`."""

    weight: float
    worth: Mapping[int, float]
    trust: Mapping[int, float] | None = None


def fused(rankings: Iterable[Ranking]) -> dict[int, float]:
    """Each row's score by weighted reciprocal ranks (Cormack, Clarke and Büttcher, SIGIR 2009): the sum of weight /
    (k + rank) over the rankings that have it, as a share of what being first in all of them would give. Rows of the
    same worth have the same rank.
    """
    scores: dict[int, float] = {}
    most = 0.0
    for weight, worth, trust in rankings:
        most += weight / (STEADY + 1)
        for row, rank in ranks(worth).items():
            counts = weight if trust is None else weight * trust[row]
            scores[row] = scores.get(row, 0.0) + counts / (STEADY + rank)
    return {row: score / most for row, score in scores.items()} if most else scores


def trust_in(share: float) -> float:
    """In a text that holds `share` of a query's words, each as much as it is rare.

    Ranks alone do not tell a text with all words from one with a stray word of a question asked in other words, and
    such texts would bury what the vectors have found. ENOUGH and STRICT were chosen on one half of the corpus of `aios
    bench retrieval`, and are judged there on the other.
    """
    return min(1.0, share / ENOUGH) ** STRICT


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

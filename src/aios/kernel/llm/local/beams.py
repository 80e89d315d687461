"""Beam search: from the lines of one step to those of the next. Plain decisions; knows no KV, engine or request.

As in Graves, "Sequence transduction with recurrent neural networks" (2012), and the libraries since: of all lines that
are one token longer the likeliest go on. Ties go to the line that stood first, then to the smaller token id, always.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .branch import Branch
from .linear import F32
from .sampler import Sampler


def step(
    live: list[Branch], rows: Sequence[F32], width: int, sampler: Sampler
) -> tuple[list[int], list[Branch], list[Branch]]:
    """One token more: for each of the at most `width` lines that go on the index of its parent, these lines, and the
    lines that have ended. `rows` are the logits of `live`, in order."""
    parents: list[int] = []
    going: list[Branch] = []
    ended: list[Branch] = []
    for rank, (parent, token, score) in enumerate(_candidates(live, rows, width, sampler)):
        if len(going) == width:
            break
        child = live[parent].fork()
        child.note(sampler, rows[parent], token)
        child.accept(token)
        child.score = score
        if child.finish is None:
            parents.append(parent)
            going.append(child)
        elif rank < width:  # an end that is less likely than `width` ways to go on does not count
            ended.append(child)
    return parents, going, ended


def is_over(live: list[Branch], ended: list[Branch], width: int) -> bool:
    """Whether as many lines have ended as are looked for, and none that goes on is worth more as it is now.

    A longer line may still come to be worth more, but to wait for that is to go on to `max_tokens` every time.
    """
    if not live:
        return True
    return len(ended) >= width and max(branch.worth for branch in live) <= min(branch.worth for branch in ended)


def best(ended: list[Branch], width: int) -> list[Branch]:
    """The `width` worthiest, the best first; equal ones as they came."""
    return sorted(ended, key=lambda branch: -branch.worth)[:width]


def _candidates(live: list[Branch], rows: Sequence[F32], width: int, sampler: Sampler) -> list[tuple[int, int, float]]:
    """(parent, token, score), the likeliest first: enough of them that `width` go on though each line may end."""
    found: list[tuple[float, int, int]] = []
    for index, (branch, logits) in enumerate(zip(live, rows, strict=True)):
        scores = sampler.log_probabilities(logits, branch.allowed())
        order = np.argsort(-scores, kind="stable")[: 2 * width]
        found += [(-branch.score - scores[token], index, int(token)) for token in order if scores[token] > -np.inf]
    return [(index, token, float(-score)) for score, index, token in sorted(found)]

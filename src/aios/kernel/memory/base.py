"""The terms of a search, and how entries are ranked by them. Knows no table."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

MAX_METADATA = 64 << 10
"""Bytes of JSON in an entry's metadata."""
MAX_TERMS = 64
"""Words of a query that are looked for; the rest of a longer one is ignored."""

_WORD = re.compile(r"\w+")


def terms_of(query: str) -> list[str]:
    """The words of `query`, each once. Everything else in it (operators, quotes, stars) separates words, no more."""
    return list(dict.fromkeys(_WORD.findall(query.casefold())))[:MAX_TERMS]


def bm25(num_entries: int, tallies: Sequence[Sequence[int]]) -> list[float]:
    """Okapi BM25 of entries that hold a term, among `num_entries` of one agent.

    A tally is an entry's number of words and its count of each term. The rarity of a term is that among this agent's
    entries: the engine's own measure counts everybody's, and so would tell one agent what others write about.
    """
    if not tallies:
        return []
    mean = sum(size for size, *_ in tallies) / len(tallies) or 1.0
    holders = [sum(count > 0 for count in column) for column in zip(*(counts for _, *counts in tallies), strict=True)]
    rarity = [math.log(1 + (num_entries - n + 0.5) / (n + 0.5)) for n in holders]
    return [
        sum(
            weight * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * size / mean))
            for weight, count in zip(rarity, counts, strict=True)
        )
        for size, *counts in tallies
    ]

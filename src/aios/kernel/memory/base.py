"""Whose memory it is, and the terms of a search. Knows no table."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_METADATA = 64 << 10
"""Bytes of JSON in an entry's metadata."""
MAX_TERMS = 64
"""Words of a query that are looked for; the rest of a longer one is ignored."""

_WORD = re.compile(r"\w+")


class Place(NamedTuple):
    """An agent, which is an owner's agent: the only entries a call can reach are those of its own place."""

    owner: str
    agent: str


def terms_of(query: str) -> list[str]:
    """The words of `query`, each once. Everything else in it (operators, quotes, stars) separates words, no more."""
    return list(dict.fromkeys(_WORD.findall(query.casefold())))[:MAX_TERMS]

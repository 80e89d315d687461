"""Files as knowledge: read, split into passages, found again by their words and their meaning.

    files ──▶ formats ──▶ (a process that is shut in, for HTML and PDF) ──▶ split ──▶ readings: passages, and the index
      │                                                                                        │
    survey: which are asked about, as they are now, and which of them are read ──▶ knowledge ◀─┘

`reader` reads those of one scope that somebody asked about, and what is written there later. Whoever never asks pays
for nothing.
"""

from .knowledge import Knowledge
from .readings import source
from .survey import Part

__all__ = ["Knowledge", "Part", "source"]

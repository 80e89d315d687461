"""The text-based snapshot: what was asked and said, and nothing computed. Knows no array, engine or file.

A few kilobytes. To go on, the prompt is prefilled and what was said is computed again token by token, as it was the
first time: a step's bits depend on the tokens before it alone, so the rest is the same to the bit, and it takes as many
steps as were taken then. Prefilling what was said would be quicker, and other bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from .base import About, Buffer, Form
from .pack import pack


@dataclass(frozen=True, slots=True)
class TextSnapshot:
    """A `Snapshot`."""

    about: About
    state: bytes

    @property
    def form(self) -> Form:
        return "text"

    @property
    def arrays(self) -> None:
        return None

    @property
    def nbytes(self) -> int:
        return len(self.state)

    def parts(self) -> list[Buffer]:
        return pack("text", self.about, self.state, ())

    def as_text(self) -> TextSnapshot:
        return self

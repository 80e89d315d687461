"""What a model thinks aloud before it answers, told apart from the answer. Knows its marks, no tokens and no grammar.

A thought begins with an answer's first mark, which the template may have written already, and ends with the closing
one, at the end of the answer, or at its bound. Blanks around it belong to neither.
"""

from __future__ import annotations

from .dialect import Reasoning
from .text import TextStream


class Thought:
    """`may_begin` until something else was said; `is_inside` while what comes is thought."""

    __slots__ = ("_held", "_opening", "_stream", "is_inside", "may_begin", "strips", "text")

    def __init__(self, reasoning: Reasoning | None, *, is_open: bool) -> None:
        self._opening = reasoning.opening.encode() if reasoning is not None else b""
        self._stream = TextStream(opening=reasoning.closing if reasoning is not None else "")
        self._held = ""
        """Blanks that are part of it only if something follows them."""
        self.text = ""
        """All that is certain of it."""
        self.is_inside = reasoning is not None and is_open
        self.may_begin = reasoning is not None and not is_open
        self.strips = False
        """It is over, and blanks that come now are not yet the answer."""

    def fork(self) -> Thought:
        other: Thought = Thought.__new__(Thought)
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        other._stream = self._stream.fork()
        return other

    def begins(self, said: bytes) -> bool | None:
        """Whether `said`, all of an answer so far, begins a thought; None while that cannot be told."""
        text = said.lstrip()
        if text.startswith(self._opening):
            self.may_begin, self.is_inside = False, True
            return True
        if self._opening.startswith(text):
            return None
        self.may_begin = False
        return False

    def after_opening(self, said: bytes) -> bytes:
        """What `said`, which begins a thought, holds of it."""
        return said.lstrip()[len(self._opening) :]

    def feed(self, data: bytes) -> bytes | None:
        """More of it; when that ends it, what of `data` belongs to the answer."""
        self._add(self._stream.feed(data))
        if not self._stream.is_opened:
            return None
        self.is_inside, self.strips, self._held = False, True, ""
        return self.stripped(self._stream.rest)

    def stripped(self, data: bytes) -> bytes:
        """`data` of an answer without the blanks between the thought and it."""
        if self.strips:
            data = data.lstrip()
            self.strips = not data
        return data

    def finish(self) -> None:
        """Nothing comes any more: what was held back in case it was the closing mark is thought as well."""
        if self.is_inside:
            self._add(self._stream.finish())

    def _add(self, text: str) -> None:
        text = self._held + text
        if not self.text:
            text = text.lstrip()
        certain = text.rstrip()
        self._held = text[len(certain) :]
        self.text += certain

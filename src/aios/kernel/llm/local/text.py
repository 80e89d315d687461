"""The bytes of tokens as text: whole characters only, and up to the first stop string. Knows no tokens and no model."""

from __future__ import annotations

import codecs
import copy
from collections.abc import Sequence


class TextStream:
    """Takes bytes, gives the text that is certain: what may be the start of a stop string is held back.

    A stop string is matched character by character with a prefix table each, so the work is the same for hostile
    strings. The earliest match ends the text, the longest string of those that end there; it is left out.

    `opening` is what ends the text because something else begins with it: `rest` is what came of that already.
    """

    def __init__(self, stops: Sequence[str] = (), opening: str = "") -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._opening = opening
        self._stops = [(stop, _prefix_table(stop)) for stop in dict.fromkeys([*stops, opening]) if stop]
        self._matched = [0] * len(self._stops)
        self._held = ""
        self.text = ""
        """All text given so far."""
        self.is_stopped = False
        self.is_opened = False
        self.rest = b""

    def feed(self, data: bytes, *, may_stop: bool = True) -> str:
        """The text that became certain. With `may_stop` False a complete stop string is text like any other."""
        fresh = self._decoder.decode(data)
        return self._give(fresh if not self._stops else self._filter(fresh, may_stop))

    def fork(self) -> TextStream:
        """Another stream that has seen the same."""
        other = copy.copy(self)
        other._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        other._decoder.setstate(self._decoder.getstate())
        other._matched = self._matched[:]
        return other

    def finish(self) -> str:
        """The rest: what was held back, and a broken character as U+FFFD."""
        if self.is_stopped:
            return ""
        rest = self._held + self._decoder.decode(b"", final=True)
        self._held = ""
        return self._give(rest)

    def _give(self, text: str) -> str:
        self.text += text
        return text

    def _filter(self, fresh: str, may_stop: bool) -> str:
        self._held += fresh
        for offset, character in enumerate(fresh):
            longest, is_opened = self._advance(character)
            if is_opened:
                longest = len(self._opening)
            if is_opened or (longest and may_stop):
                self.is_opened, self.is_stopped = is_opened, not is_opened
                end = len(self._held) - len(fresh) + offset + 1
                certain, self.rest, self._held = self._held[: end - longest], self._held[end:].encode(), ""
                if is_opened:  # a character's first bytes may have come already
                    self.rest += self._decoder.getstate()[0]
                    self._decoder.reset()
                return certain
        keep = max(self._matched)
        cut = len(self._held) - keep
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain

    def _advance(self, character: str) -> tuple[int, bool]:
        """Move every string's match on by one character.

        The length of the longest that is complete, or 0, and whether the opening is."""
        longest, is_opened = 0, False
        for index, (stop, table) in enumerate(self._stops):
            matched = self._matched[index]
            while matched and stop[matched] != character:
                matched = table[matched - 1]
            matched += stop[matched] == character
            if matched == len(stop):
                longest = max(longest, matched)
                is_opened = is_opened or stop == self._opening
                matched = table[matched - 1]
            self._matched[index] = matched
        return longest, is_opened


def _prefix_table(pattern: str) -> list[int]:
    """For each prefix, the length of its longest proper prefix that is also its suffix (Knuth, Morris, Pratt)."""
    table = [0] * len(pattern)
    matched = 0
    for index in range(1, len(pattern)):
        while matched and pattern[matched] != pattern[index]:
            matched = table[matched - 1]
        matched += pattern[matched] == pattern[index]
        table[index] = matched
    return table

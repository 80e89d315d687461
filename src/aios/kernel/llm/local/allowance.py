"""What one rendering of a chat template may use up: steps, time, and what it builds. Knows no template and no Jinja.

Steps take no long time each, since no text and no list with all that is in it may grow past a limit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MAX_STEPS = 1_000_000
MAX_SIZE = 8_000_000
"""Characters of a text, or of all that is in a list; an item counts as some."""
MAX_BUILT = 128_000_000
"""Characters of all that one rendering builds, whether it keeps it or not."""
MAX_BITS = 64_000
"""Of a whole number."""
MAX_SECONDS = 3.0


class TemplateFault(ValueError):
    """The template is at fault: what it did, or where it cannot be read."""


class Allowance:
    """What one rendering has used up."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._until = now() + MAX_SECONDS
        self._steps = 0
        self._built = 0

    def step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise TemplateFault(f"it loops: more than {MAX_STEPS} steps")
        if self._now() > self._until:
            raise TemplateFault(f"it loops: more than {MAX_SECONDS:g} seconds")

    def check_size(self, size: int) -> None:
        if size > MAX_SIZE:
            raise TemplateFault(f"it makes a text or list of more than {MAX_SIZE} characters or items")

    def built(self, value: Any, *, is_all_new: bool = False) -> Any:
        """`value`, which is new, if there is room for it; what is in a list is mostly there already."""
        weight = self.weight(value)
        self._built += weight if is_all_new or isinstance(value, str) else 8 * _length(value)
        if self._built > MAX_BUILT:
            raise TemplateFault(f"it builds more than {MAX_BUILT} characters in all")
        return value

    def weight(self, value: Any) -> int:
        """Of a text or list with all that is in it, as often as that is there."""
        weight, rest = 0, [value]
        while rest:
            each = rest.pop()
            if isinstance(each, str):
                weight += len(each)
            elif isinstance(each, list | tuple | dict):
                weight += 32 + 8 * len(each)
                rest += [*each, *each.values()] if isinstance(each, dict) else each
            self.check_size(weight)
        return weight


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | tuple | dict) else 0

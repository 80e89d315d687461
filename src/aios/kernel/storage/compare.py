"""Two versions of a file side by side: a diff, or one sentence that says why there is none. Knows no store."""

from __future__ import annotations

from typing import NamedTuple

from .diff import unified

MAX_COMPARED = 4 << 20
"""Bytes of a version that is compared line by line."""
MAX_TEXT = 1 << 20
"""Characters of a diff."""


class Side(NamedTuple):
    """A version of the file `name`; its bytes, unless these are too many."""

    name: str
    version: int
    size: int
    data: bytes | None


def compared(old: Side, new: Side) -> str:
    """A unified diff, empty for two that are equal."""
    if old.data is None or new.data is None:
        return f"{_both(old, new)}: more than the {MAX_COMPARED:,} that are compared line by line\n"
    if old.data == new.data:
        return ""
    texts = _text(old.data), _text(new.data)
    if texts[0] is None or texts[1] is None:
        return f"{_both(old, new)}, and are not both text\n"
    text = unified(texts[0], texts[1], _named(old), _named(new))
    if len(text) > MAX_TEXT:
        return f"{text[:MAX_TEXT]}\n[cut: these are the first {MAX_TEXT:,} of {len(text):,} characters]\n"
    return text


def _both(old: Side, new: Side) -> str:
    return f"{_named(old)} and {_named(new)} differ, with {old.size:,} and {new.size:,} bytes"


def _named(side: Side) -> str:
    return f"{side.name} (version {side.version})" if side.version else "nothing"


def _text(data: bytes) -> str | None:
    """None for what is no text."""
    try:
        return None if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return None

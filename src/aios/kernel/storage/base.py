"""Paths, as agents write them. Knows no table and no disk.

A path is a name inside one agent's storage, never one of the machine's: it is looked up, not opened.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from difflib import SequenceMatcher

from aios.abi.errors import BadRequest

MAX_PATH = 1024
MAX_DEPTH = 32
MAX_COMPARED = 100
"""Characters of a name that are compared with others, to find the nearest."""
MAX_STEPS = 50_000
"""Pairs of characters that are compared for that, each about a microsecond."""


def clean_path(path: str, *, root: bool = False) -> str:
    """`path` in its one spelling: relative, parts joined by "/", Unicode NFC. With `root`, "" names the top.

    Raises BadRequest that says what is wrong. One trailing "/" is let pass.
    """
    path = path[:-1] if path.endswith("/") and len(path) > 1 else path
    if root and path in ("", "."):
        return ""
    path = unicodedata.normalize("NFC", path)
    why = _fault(path)
    if why:
        raise BadRequest(f"the path {path[:80]!r} {why}", code="bad_path", param="path")
    return path


def _fault(path: str) -> str | None:
    if not path:
        return "is empty"
    if len(path) > MAX_PATH:
        return f"is longer than {MAX_PATH} characters"
    if path.startswith(("/", "~")) or path[1:3] in (":/", ":\\"):
        return "is absolute: name it from the top of this agent's storage, such as 'notes/today.md'"
    if "\\" in path:
        return "holds a backslash: parts are joined by '/'"
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in path):
        return "holds a control character"
    parts = path.split("/")
    if "" in parts:
        return "holds an empty part ('//')"
    if ".." in parts or "." in parts:
        return "holds '.' or '..': name the file from the top, without steps up"
    if len(parts) > MAX_DEPTH:
        return f"is deeper than {MAX_DEPTH} folders"
    return None


def parent_of(path: str) -> str:
    """The folder that holds `path`; "" is the top."""
    return path.rpartition("/")[0]


def folders_of(path: str) -> list[str]:
    """Every folder above `path`, the top one first and "" left out."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, None when none is near. Takes no more than some hundredths of a second, for
    which only the beginnings of names are compared and, where many are much alike, not all of them."""
    name = name[:MAX_COMPARED]
    matcher = SequenceMatcher(b=name)
    best, nearest = 0.6, None
    left = MAX_STEPS
    for each in known:
        matcher.set_seq1(each[:MAX_COMPARED])
        if matcher.real_quick_ratio() < best or matcher.quick_ratio() < best:
            continue
        left -= min(len(each), MAX_COMPARED) * len(name)
        if left < 0:
            break
        if (ratio := matcher.ratio()) >= best:
            best, nearest = ratio, each
    return nearest

"""Which files a call asks about, and what was read of them. Jobs that read aside; knows no passage.

All that is answered comes from files that this finds: those which stand in their scope now, each in its newest version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import apsw

from aios.abi.calls import Where

from ...spaces import Scope
from ..tree import TOP, Tree
from .formats import suffix_of
from .readings import CURRENT

_LIVE = """
    WITH RECURSIVE live(id, kind, path) AS (
        SELECT id, kind, {path} FROM files WHERE {begin}
        UNION ALL
        SELECT files.id, files.kind, path || '/' || name
        FROM live JOIN files ON parent = live.id AND scope = :scope AND trashed IS NULL WHERE live.kind = 'folder')
    SELECT files.id, path, files.version, size, readings.id, why
    FROM live JOIN files USING (id)
        LEFT JOIN readings ON file = files.id AND readings.version = files.version AND state = :current
    WHERE live.kind = 'file'
"""
_TOP = _LIVE.format(path="name", begin=f"scope = :scope AND parent = {TOP} AND trashed IS NULL")
_AT = _LIVE.format(path=":path", begin="id = :top")

MAX_STALE = 10_000
"""Files that are to be read, of which more are only counted."""


class Part(NamedTuple):
    """What of a scope is asked about: all at `path` and below, "" being its top, but `hidden` names there, which stand
    for something else."""

    scope: Scope
    path: str = ""
    hidden: frozenset[str] = frozenset()


class File(NamedTuple):
    """`path` is that inside the scope."""

    id: int
    path: str
    version: int
    size: int


@dataclass
class Survey:
    """Of files that are asked about: what was read of them, the first of those whose newest version was not and how
    many these are, and by path why some cannot be, or not wholly. `scope` is None where nothing was ever written."""

    scope: int | None
    readings: set[int] = field(default_factory=set)
    stale: list[File] = field(default_factory=list)
    num_stale: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    def add_stale(self, file: File) -> None:
        self.num_stale += 1
        if len(self.stale) < MAX_STALE:
            self.stale.append(file)


def survey(connection: apsw.Connection, part: Part, where: Where | None = None) -> Survey:
    """Takes some microseconds for each file. Raises NotFound when nothing is at the path."""
    more, bindings = _conditions(where)
    tree = Tree(connection, part.scope)
    found = Survey(tree.id)
    fits = _always if where is None else fitting(part.scope, where.name, where.types)
    for id, path, version, size, reading, why in _live(tree, part, more, bindings):
        if (part.hidden and _is_hidden(part, path)) or not fits(path):
            continue
        if reading is None:
            found.add_stale(File(id, path, version, size))
            continue
        found.readings.add(reading)
        if why is not None:
            found.skipped[part.scope.shown(path)] = why
    return found


def stale(connection: apsw.Connection, part: Part, is_wanted: Callable[[str], bool]) -> Survey:
    """As `survey`, of files that are to be read only: those of them whose path `is_wanted`."""
    tree = Tree(connection, part.scope)
    found = Survey(tree.id)
    for id, path, version, size, _, _ in _live(tree, part, " AND readings.id IS NULL", {}):
        if not _is_hidden(part, path) and is_wanted(path):
            found.add_stale(File(id, path, version, size))
    return found


def _live(tree: Tree, part: Part, more: str, bindings: dict[str, Any]) -> Iterable[tuple[Any, ...]]:
    top = tree.need(part.path).id if part.path else TOP
    bindings |= {"scope": tree.id, "current": CURRENT, "path": part.path, "top": top}
    return tree.connection.execute((_AT if part.path else _TOP) + more, bindings)


def _is_hidden(part: Part, path: str) -> bool:
    return path.partition("/")[0] in part.hidden


def _conditions(where: Where | None) -> tuple[str, dict[str, Any]]:
    """Those on rows of `files`, and their bindings."""
    if where is None:
        return "", {}
    sql = "" if where.since is None else " AND modified >= :since"
    sql += "" if where.until is None else " AND modified < :until"
    if where.author is not None:
        sql += (
            " AND EXISTS (SELECT 1 FROM versions WHERE versions.file = files.id"
            " AND versions.version = files.version AND author = :author)"
        )
    return sql, {"since": where.since, "until": where.until, "author": where.author}


def fitting(scope: Scope, name: str | None, types: Sequence[str] | None) -> Callable[[str], bool]:
    """Whether a path of the scope is one of those asked about. A pattern with a "/" is one of paths as agents write
    them, any other one of names."""
    suffixes = None if types is None else {each.lower().removeprefix(".") for each in types}
    pattern = name or "*"

    def fits(path: str) -> bool:
        if suffixes is not None and suffix_of(path) not in suffixes:
            return False
        return fnmatchcase(scope.shown(path) if "/" in pattern else path.rpartition("/")[2], pattern)

    return fits


def _always(path: str) -> bool:
    return True

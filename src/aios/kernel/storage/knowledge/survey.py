"""Which files a call asks about, and what was read of them. Jobs that read aside; knows no passage.

All that is answered comes from files that this finds: those which stand in their scope now, each in its newest version.
"""

from __future__ import annotations

from collections.abc import Callable
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


class Survey(NamedTuple):
    """Of files that are asked about: what was read of them, those whose newest version was not, and by path why some
    cannot be, or not wholly. `scope` is None where nothing was ever written."""

    scope: int | None
    readings: set[int]
    stale: list[File]
    skipped: dict[str, str]


def survey(connection: apsw.Connection, part: Part, where: Where | None = None) -> Survey:
    """Takes some microseconds for each file. Raises NotFound when nothing is at the path."""
    tree = Tree(connection, part.scope)
    found = Survey(tree.id, set(), [], {})
    top = tree.need(part.path).id if part.path else TOP
    more, bindings = _conditions(where)
    bindings |= {"scope": tree.id, "current": CURRENT, "path": part.path, "top": top}
    fits = _fits(part.scope, where)
    for id, path, version, size, reading, why in connection.execute((_AT if part.path else _TOP) + more, bindings):
        if (part.hidden and path.partition("/")[0] in part.hidden) or not fits(path):
            continue
        if reading is None:
            found.stale.append(File(id, path, version, size))
            continue
        found.readings.add(reading)
        if why is not None:
            found.skipped[part.scope.shown(path)] = why
    return found


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


def _fits(scope: Scope, where: Where | None) -> Callable[[str], bool]:
    """Whether a path of the scope is one of those asked about. A pattern with a "/" is one of paths as agents write
    them, any other one of names."""
    if where is None or (where.name is None and where.types is None):
        return lambda path: True
    types = None if where.types is None else {each.lower().removeprefix(".") for each in where.types}
    pattern = where.name or "*"

    def fits(path: str) -> bool:
        if types is not None and suffix_of(path) not in types:
            return False
        return fnmatchcase(scope.shown(path) if "/" in pattern else path.rpartition("/")[2], pattern)

    return fits

"""Which files need what is damaged, in words for a person who checks a home. Knows no blob."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import apsw

from ..database import as_list, rows, value
from .tree import Tree

Bad = tuple[int, str]
"""An id, and what is wrong with it."""
PAGE = 200
"""Damaged things for which the files are looked up together: that reads all versions."""
SHOWN = 3
"""Files that are named for each."""
BY_CONTENT = "SELECT content, file, version FROM versions WHERE content IN (SELECT value FROM json_each(?))"
BY_CHUNK = """
    SELECT DISTINCT value, file, version
    FROM versions JOIN contents ON contents.id = content, json_each(iif(json_valid(chunks), chunks, '[]'))
    WHERE value IN (SELECT value FROM json_each(?))"""


def with_files(connection: apsw.Connection, found: Iterable[Bad], sql: str) -> Iterator[Bad]:
    """`found`, with the files that need each: `BY_CONTENT` or `BY_CHUNK` says what the ids are of."""
    left = iter(found)
    while page := list(islice(left, PAGE)):
        needing: dict[int, list[tuple[int, int]]] = {}
        for id, file, version in rows(connection, sql, (as_list([id for id, _ in page]),)):
            needing.setdefault(id, []).append((file, version))
        for id, why in page:
            yield id, why + _told(connection, needing.get(id, []))


def _told(connection: apsw.Connection, needing: list[tuple[int, int]]) -> str:
    names = [f"{_name(connection, file)} (version {version})" for file, version in sorted(needing)[:SHOWN]]
    if len(needing) > SHOWN:
        names.append(f"{len(needing) - SHOWN:,} more")
    return f"; needed by {', '.join(names)}" if names else ""


def _name(connection: apsw.Connection, file: int) -> str:
    """A file's path, and whose it is."""
    scope = value(connection, "SELECT scope FROM files WHERE id = ?", (file,))
    if scope is None:
        return f"file {file}"
    tree = Tree.of(connection, scope)
    owner, agent, _ = tree.scope
    path = tree.path_of(file)
    whose = f"{owner}:{agent}" if agent else "groups"
    return f"'{tree.scope.shown(path)}' of {whose}" if path is not None else f"a file in the trash of {whose}"

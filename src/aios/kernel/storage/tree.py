"""The folders of one scope, as jobs on the store: what stands where. Knows no content and no call.

Entries know the folder that holds them and their name there, so a folder moves, or leaves, as one row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import apsw

from aios.abi.calls import Listing, Stat
from aios.abi.errors import BadRequest, Conflict, NotFound

from ..database import row, rows, value
from ..spaces import Scope
from .base import MAX_DEPTH, folders_of, nearest_name
from .quota import Quota

TOP = 0
"""The parent of what stands at the top of a scope."""
MAX_SIBLINGS = 200
"""Names in a folder among which the nearest to a missing one is looked for."""
NODE = "id, parent, name, kind, size, version, modified"
NONE = Quota(0, 0)
"""For those who only look."""
_MAX_STEPS = 10 * MAX_DEPTH
"""Folders above one another, in tables that somebody has damaged."""
BELOW = """
    WITH RECURSIVE below(id, kind, depth, length) AS (
        SELECT id, kind, 0, 0 FROM files WHERE id = ?
        UNION ALL
        SELECT files.id, files.kind, depth + 1, below.length + length(name) + 1
        FROM below JOIN files ON parent = below.id AND scope = ? AND trashed IS NULL WHERE below.kind = 'folder')
"""
"""An entry and all below it, with how many folders deeper and how many characters longer a path is."""
LIVE = """
    WITH RECURSIVE live(id, kind, path) AS (
        SELECT id, kind, name FROM files WHERE scope = ?1 AND parent = 0 AND trashed IS NULL
        UNION ALL
        SELECT files.id, files.kind, path || '/' || name
        FROM live JOIN files ON parent = live.id AND scope = ?1 AND trashed IS NULL WHERE live.kind = 'folder')
"""
"""All entries of the scope `?1` that are not in the trash."""


class Node(NamedTuple):
    """An entry: a file, or a folder."""

    id: int
    parent: int
    name: str
    kind: Literal["file", "folder"]
    size: int
    version: int
    modified: float


class Tree:
    """One scope's entries through a connection, for as long as a job. Paths are clean, and as they are inside it."""

    def __init__(self, connection: apsw.Connection, scope: Scope, quota: Quota = NONE) -> None:
        self.connection = connection
        self.scope = scope
        self.quota = quota
        self.id: int | None = value(
            connection, "SELECT id FROM scopes WHERE owner = ? AND agent = ? AND mount = ?", scope
        )
        """None for a scope that nothing was ever written to."""

    @classmethod
    def of(cls, connection: apsw.Connection, id: int) -> Tree:
        """The scope of that id, which is there."""
        found = row(connection, "SELECT owner, agent, mount FROM scopes WHERE id = ?", (id,))
        return cls(connection, Scope(*found or ("", "")))

    # ── looking ──

    def find(self, path: str) -> Node | None:
        """What stands at `path`; None also for the top, which is no entry."""
        node, parent = None, TOP
        for name in path.split("/"):
            node = self.child(parent, name)
            if node is None:
                return None
            parent = node.id
        return node

    def child(self, parent: int, name: str) -> Node | None:
        sql = f"SELECT {NODE} FROM files WHERE scope = ? AND parent = ? AND name = ? AND trashed IS NULL"
        found = row(self.connection, sql, (self.id, parent, name))
        return None if found is None else Node(*found)

    def need(self, path: str) -> Node:
        """As `find`. Raises NotFound, with the nearest name in the last folder above `path` that is there."""
        node = self.find(path)
        if node is None:
            raise self._missing(path)
        return node

    def need_file(self, path: str) -> Node:
        """Raises NotFound, or BadRequest for a folder."""
        if path and (node := self.need(path)).kind == "file":
            return node
        shown = self.scope.shown(path)
        raise BadRequest(f"'{shown}' is a folder; sto_list shows what is in it", code="is_a_folder", param="path")

    def path_of(self, id: int) -> str | None:
        """Where the entry stands; None if it, or a folder above it, is in the trash or nowhere."""
        names: list[str] = []
        while id != TOP:
            found = row(self.connection, "SELECT parent, name, scope, trashed FROM files WHERE id = ?", (id,))
            if found is None or found[2] != self.id or found[3] is not None or len(names) > _MAX_STEPS:
                return None
            id = found[0]
            names.append(found[1])
        return "/".join(reversed(names))

    def children(self, parent: int, limit: int, after: str = "") -> list[Node]:
        """In the order of their names, those beyond `after`."""
        sql = (
            f"SELECT {NODE} FROM files WHERE scope = ? AND parent = ? AND name > ? AND trashed IS NULL"
            " ORDER BY name LIMIT ?"
        )
        return [Node(*found) for found in rows(self.connection, sql, (self.id, parent, after, limit))]

    def listed(self, path: str, limit: int, after: str) -> Listing:
        """What is in the folder, beyond the path `after`; of a file, itself. Raises NotFound."""
        node = self.need(path) if path else None
        if node is not None and node.kind == "file":
            return Listing(entries=[self.stat(node, path)])
        found = self.children(TOP if node is None else node.id, limit + 1, after.rpartition("/")[2])
        start = f"{path}/" if path else ""
        entries = [self.stat(node, start + node.name) for node in found[:limit]]
        return Listing(entries=entries, has_more=len(found) > limit)

    def stat(self, node: Node, path: str) -> Stat:
        """Of the entry that stands at `path`."""
        shown = self.scope.shown(path)
        return Stat(path=shown, kind=node.kind, size=node.size, version=node.version, modified=node.modified)

    def num_below(self, id: int) -> int:
        """Entries from `id` on downwards, itself among them. Takes about a microsecond for each."""
        return int(value(self.connection, f"{BELOW} SELECT count(*) FROM below", (id, self.id)))

    def extent(self, id: int) -> tuple[int, int]:
        """How many folders, and how many characters, the deepest and the longest path below `id` go on."""
        sql = f"{BELOW} SELECT max(depth), max(length) FROM below"
        depth, length = row(self.connection, sql, (id, self.id)) or (0, 0)
        return depth, length

    # ── changing ──

    def make_folder(self, path: str, now: float) -> int:
        """The folder at `path`, made with all above it where it is not there. Raises Conflict for a file."""
        parent = TOP
        for each in (*folders_of(path), path) if path else ():
            name = each.rpartition("/")[2]
            node = self.child(parent, name) if self.id is not None else None
            if node is not None and node.kind == "file":
                raise self._not_a_folder(each)
            parent = node.id if node is not None else self.add(parent, name, "folder", now)
        return parent

    def add(self, parent: int, name: str, kind: str, now: float) -> int:
        """A new entry. A folder has one version, a file none yet. Raises TooLarge."""
        self.quota.keep(self.connection, self.scope.payer, 1, 0)
        self.connection.execute(
            "INSERT INTO files(scope, parent, name, kind, size, version, oldest, modified)"
            " VALUES (?, ?, ?, ?, 0, ?, 1, ?)",
            (self.made(), parent, name, kind, int(kind == "folder"), now),
        )
        return self.connection.last_insert_rowid()

    def made(self) -> int:
        """The scope's id; it is made if nothing was ever written to it."""
        if self.id is None:
            self.connection.execute("INSERT INTO scopes(owner, agent, mount) VALUES (?, ?, ?)", self.scope)
            self.id = self.connection.last_insert_rowid()
        return self.id

    # ── refusing ──

    def taken(self, path: str, node: Node, param: str = "path") -> Conflict:
        shown = self.scope.shown(path)
        return Conflict(f"'{shown}' is there already: it is a {node.kind}", code="path_exists", param=param)

    def _not_a_folder(self, path: str) -> Conflict:
        shown = self.scope.shown(path)
        return Conflict(f"'{shown}' is a file, so nothing can be below it", code="not_a_folder", param="path")

    def _missing(self, path: str) -> NotFound:
        folder, parent = "", TOP
        for each in folders_of(path):
            node = self.child(parent, each.rpartition("/")[2])
            if node is None or node.kind != "folder":
                break
            folder, parent = each, node.id
        wanted = path[len(folder) + 1 :] if folder else path
        near = nearest_name(wanted.partition("/")[0], self._names(parent))
        near = self.scope.shown(f"{folder}/{near}" if folder else near) if near else None
        hint = f"did you mean '{near}'?" if near else "sto_list shows what is there"
        shown = self.scope.shown(path)[:200]
        return NotFound(f"this agent has no file or folder '{shown}'; {hint}", code="no_such_path", param="path")

    def _names(self, parent: int) -> Iterable[str]:
        return (node.name for node in self.children(parent, MAX_SIBLINGS))

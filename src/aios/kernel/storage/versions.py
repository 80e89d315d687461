"""Versions of files, as jobs on the store. Knows no call, and of a content no more than its id."""

from __future__ import annotations

from typing import NamedTuple

import apsw

from aios.abi.calls import History, Revision, Version
from aios.abi.errors import Conflict, NotFound

from ..database import row, rows
from . import contents
from .contents import Body
from .quota import VERSION_BYTES, forget
from .tree import Node, Tree

STEP = 200
"""Versions that leave together, so that no job holds up the writes of others for long."""


class Stamp(NamedTuple):
    """When, by which agent, and through which call something was written."""

    at: float
    author: str | None = None
    why: str | None = None


class Staged(NamedTuple):
    """A content that is in the store, and wants a name."""

    id: int
    size: int
    hash: bytes = b""


class Kept(NamedTuple):
    """A version: of which file, and what it is."""

    file: int
    version: int
    content: int
    size: int
    created: float


def write(tree: Tree, path: str, content: Body | Staged, stamp: Stamp, base: int | None = None) -> Version:
    """A new version of the file at `path`, which is made where it is not there, with the folders above it. With `base`
    only if that is its newest version. Raises Conflict, TooLarge."""
    node = writable(tree, path, base)
    if node is None:
        folder, _, name = path.rpartition("/")
        parent = tree.make_folder(folder, stamp.at)
        return add(tree, path, tree.add(parent, name, "file", stamp.at), 1, content, stamp)
    return add(tree, path, node.id, node.version + 1, content, stamp)


def writable(tree: Tree, path: str, base: int | None) -> Node | None:
    """The file at `path`, if there is one. Raises Conflict where none can be written upon version `base`."""
    node = tree.find(path)
    if node is not None and node.kind == "folder":
        shown = tree.scope.shown(path)
        raise Conflict(f"'{shown}' is a folder; a file needs another name", code="path_exists", param="path")
    check_base(tree, path, base)
    return node


def check_base(tree: Tree, path: str, base: int | None) -> None:
    """Raises Conflict unless the newest version of the file is `base`, 0 being that there is none."""
    if base is None:
        return
    node = tree.find(path)
    newest = 0 if node is None else node.version
    if base != newest:
        there = f"its newest version is {newest}" if newest else "there is no such file"
        raise Conflict(
            f"'{tree.scope.shown(path)}' is not at version {base}: {there}; read that, and write again upon it",
            code="version_conflict",
            param="base",
        )


def add(tree: Tree, path: str, file: int, number: int, content: Body | Staged, stamp: Stamp) -> Version:
    """Version `number` of the file of that id, its newest now."""
    connection = tree.connection
    size = len(content.data) if isinstance(content, Body) else content.size
    tree.quota.keep(connection, tree.scope.payer, 0, size + VERSION_BYTES)
    if isinstance(content, Body):
        id = contents.add_body(connection, content)
    else:
        id = content.id
        contents.name(connection, id)
    connection.execute("INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?)", (file, number, id, size, *stamp))
    connection.execute(
        "UPDATE files SET version = ?, size = ?, modified = ? WHERE id = ?", (number, size, stamp.at, file)
    )
    return Version(path=tree.scope.shown(path), version=number)


def find(tree: Tree, path: str, number: int | None) -> Kept:
    """A version, the newest unless one is named. Raises NotFound, BadRequest."""
    node = tree.need_file(path)
    kept = of(tree.connection, node.id, number or node.version)
    if kept is None:
        raise NotFound(
            f"'{tree.scope.shown(path)}' has no version {number}; the newest is {node.version}",
            code="no_such_version",
            param="version",
        )
    return kept


def of(connection: apsw.Connection, file: int, number: int) -> Kept | None:
    sql = "SELECT file, version, content, size, created FROM versions WHERE file = ? AND version = ?"
    found = row(connection, sql, (file, number))
    return None if found is None else Kept(*found)


def roll_back(tree: Tree, path: str, number: int, stamp: Stamp) -> Version:
    """The content of version `number` once more, as the newest."""
    kept = find(tree, path, number)
    node = tree.need_file(path)
    return add(tree, path, node.id, node.version + 1, Staged(kept.content, kept.size), stamp)


def history(tree: Tree, path: str, limit: int, before: int | None) -> History:
    """The newest first."""
    node = tree.need_file(path)
    found = rows(
        tree.connection,
        "SELECT version, size, created, author, why FROM versions WHERE file = ? AND version < ?"
        " ORDER BY version DESC LIMIT ?",
        (node.id, before or 2**62, limit + 1),
    )
    revisions = [Revision(version=n, size=s, created=c, author=a, why=w) for n, s, c, a, w in found[:limit]]
    return History(path=tree.scope.shown(path), revisions=revisions, has_more=len(found) > limit)


def drop_before(tree: Tree, file: int, number: int) -> int:
    """Take the file's versions below `number` out of the store, the oldest first and `STEP` at most: how many went.
    Their contents wait to be dropped if nobody else names them."""
    connection = tree.connection
    found = rows(
        connection,
        "SELECT version, content, size FROM versions WHERE file = ? AND version < ? ORDER BY version LIMIT ?",
        (file, number, STEP),
    )
    if not found:
        return 0
    last = found[-1][0]
    connection.execute("DELETE FROM versions WHERE file = ? AND version <= ?", (file, last))
    connection.execute("UPDATE files SET oldest = ? WHERE id = ?", (last + 1, file))
    for _, content, _ in found:
        contents.unname(connection, content)
    forget(connection, tree.scope.payer, 0, sum(size + VERSION_BYTES for _, _, size in found))
    return len(found)

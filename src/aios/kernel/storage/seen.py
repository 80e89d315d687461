"""What the store knows of files in a mounted folder: which version a file there is, and what it looked like then.

Jobs on the table `seen`, by the ids of files. Knows no folder and no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import apsw

from ..database import row, rows
from .beneath import Entry
from .staged import Signature
from .tree import BELOW, NODE, TOP, Node, Tree

UNSURE = 100_000_000
"""Nanoseconds. Clocks of file systems tick some milliseconds apart: a file that was changed so shortly before it was
compared may have been changed again, and look the same."""
_SEEN = "seen.size, seen.modified, seen.changed, seen.inode, seen.checked, seen.is_ours"


class Sight(NamedTuple):
    """What the newest version of a file looked like, and when (nanoseconds since 1970) it was compared with that.
    `is_ours`: it was written by us, and not just found."""

    signature: Signature
    checked: int
    is_ours: bool

    @property
    def is_sure(self) -> bool:
        return self.signature.changed + UNSURE < self.checked


class Known(NamedTuple):
    """An entry as the store has it; `sight` is None where its newest version was never seen in the folder."""

    node: Node
    sight: Sight | None

    def looks_like(self, entry: Entry) -> bool:
        """Whether what is in the folder is what the store has, as far as looking tells."""
        if entry.is_folder or self.node.kind == "folder":
            return entry.is_folder and self.node.kind == "folder"
        return self.sight is not None and self.sight.signature == entry.signature

    def is_surely(self, entry: Entry, *, thorough: bool = False) -> bool:
        """As `looks_like`, and nobody can have changed it so soon that it looks the same. What we wrote ourselves is
        taken for what it was, unless it is to be looked at thoroughly."""
        if not self.looks_like(entry) or self.sight is None:
            return entry.is_folder and self.looks_like(entry)
        return self.sight.is_sure or (self.sight.is_ours and not thorough)


def known(tree: Tree, path: str) -> Known | None:
    """What stands at `path`."""
    node = tree.find(path)
    return None if node is None else Known(node, sight(tree.connection, node.id))


def known_among(tree: Tree, folder: str, names: Iterable[str]) -> list[Known | None]:
    """What is called so in the folder."""
    parent = tree.find(folder) if folder else None
    if parent is None and folder:
        return [None for _ in names]
    found = (tree.child(parent.id if parent else TOP, name) for name in names)
    return [None if node is None else Known(node, sight(tree.connection, node.id)) for node in found]


def sight(connection: apsw.Connection, file: int) -> Sight | None:
    found = row(connection, f"SELECT {_SEEN} FROM seen WHERE file = ?", (file,))
    return None if found is None else _sight(*found)


def known_in(tree: Tree, folder: str) -> dict[str, Known]:
    """All that stands in the folder, by its path."""
    node = tree.find(folder) if folder else None
    if node is None and folder:
        return {}
    columns = ", ".join(f"files.{column}" for column in NODE.split(", "))
    found = rows(
        tree.connection,
        f"SELECT {columns}, {_SEEN} FROM files LEFT JOIN seen ON file = id"
        " WHERE scope = ? AND parent = ? AND trashed IS NULL",
        (tree.id, node.id if node else TOP),
    )
    start = f"{folder}/" if folder else ""
    entries = ((Node(*each[:-6]), each[-6:]) for each in found)
    return {start + node.name: Known(node, None if seen[0] is None else _sight(*seen)) for node, seen in entries}


def see(tree: Tree, file: int, signature: Signature, checked: int, *, is_ours: bool) -> None:
    """The file's newest version looks so now."""
    tree.connection.execute(
        "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?, ?, ?)", (file, *signature, checked, is_ours)
    )


def unsee_below(tree: Tree, id: int) -> None:
    """The entry and all below it are in the folder no more, by an agent's word: what comes to be there is new."""
    tree.connection.execute(f"{BELOW} DELETE FROM seen WHERE file IN (SELECT id FROM below)", (id, tree.id))


def _sight(size: int, modified: int, changed: int, inode: int, checked: int, is_ours: int) -> Sight:
    return Sight(Signature(size, modified, changed, inode), checked, bool(is_ours))

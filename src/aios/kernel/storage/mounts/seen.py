"""What the store knows of files in a mounted folder: which version a file there is, and what it looked like then.

Jobs on the table `seen`, by the ids of files. Knows no folder and no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ...database import row, value
from ..base import folders_of
from ..tree import BELOW, NODE, TOP, Node, Tree
from .beneath import Entry
from .staged import Signature

UNSURE = 100_000_000
"""Nanoseconds. Clocks of file systems tick some milliseconds apart: a file that was changed so shortly before it was
compared may have been changed again, and look the same."""
_NODE = ", ".join(f"files.{column}" for column in NODE.split(", "))
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
    folder, _, name = path.rpartition("/")
    return known_in(tree, folder, [name])[0]


def known_in(tree: Tree, folder: str, names: Iterable[str]) -> list[Known | None]:
    """What is called so in the folder."""
    parent = tree.find(folder) if folder else None
    if parent is None and folder:
        return [None for _ in names]
    id = TOP if parent is None else parent.id
    sql = (
        f"SELECT {_NODE}, {_SEEN} FROM files LEFT JOIN seen ON file = id"
        " WHERE scope = ? AND parent = ? AND files.name = ? AND trashed IS NULL"
    )
    return [_known(row(tree.connection, sql, (tree.id, id, name))) for name in names]


def num_in(tree: Tree, folder: str) -> int:
    """How many stand in the folder."""
    parent = tree.find(folder) if folder else None
    if parent is None and folder:
        return 0
    sql = "SELECT count(*) FROM files WHERE scope = ? AND parent = ? AND trashed IS NULL"
    return int(value(tree.connection, sql, (tree.id, TOP if parent is None else parent.id)))


def files_above(tree: Tree, path: str) -> list[str]:
    """What the store takes for a file and cannot be one, if there is something at `path`."""
    return [folder for folder in folders_of(path) if (node := tree.find(folder)) is not None and node.kind == "file"]


def was_seen(tree: Tree, file: int) -> bool:
    """Whether it is known what the file looked like."""
    return row(tree.connection, "SELECT 1 FROM seen WHERE file = ?", (file,)) is not None


def see(tree: Tree, file: int, signature: Signature, checked: int, *, is_ours: bool) -> None:
    """The file's newest version looks so now."""
    tree.connection.execute(
        "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?, ?, ?)", (file, *signature, checked, is_ours)
    )


def unsee_below(tree: Tree, id: int) -> None:
    """The entry and all below it are in the folder no more, by an agent's word: what comes to be there is new."""
    tree.connection.execute(f"{BELOW} DELETE FROM seen WHERE file IN (SELECT id FROM below)", (id, tree.id))


def _known(found: tuple[Any, ...] | None) -> Known | None:
    if found is None:
        return None
    node = Node(*found[:-6])
    if found[-6] is None:
        return Known(node, None)
    *signature, checked, is_ours = found[-6:]
    return Known(node, Sight(Signature(*signature), checked, bool(is_ours)))

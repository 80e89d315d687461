"""What was cleared, how it comes back, and how it leaves for good. Knows no call and no content.

A folder goes into the trash as one row, and what is below it goes along: nothing that is looked for from the top finds
it. What leaves for good is marked in one step, and taken out in small ones.
"""

from __future__ import annotations

import apsw

from aios.abi.calls import Listing
from aios.abi.errors import NotFound

from ..database import rows
from .base import folders_of, parent_of
from .quota import forget
from .tree import NODE, Node, Tree
from .versions import STEP, drop_before

LEAVING = -1.0
"""In the place of when it was cleared: it is to go for good, and waits for its turn."""
Order = tuple[float, int]
"""When an entry was cleared, and its id."""


def clear(tree: Tree, path: str, now: float) -> None:
    """Into the trash: the entry and all below it. Raises NotFound."""
    node = tree.need(path)
    tree.connection.execute("UPDATE files SET trashed = ?, was = ? WHERE id = ?", (now, path, node.id))


# ── looking, and back ──


def find(tree: Tree, path: str) -> Node | None:
    """What was cleared last at `path`, by itself or along with a folder above it."""
    found = _cleared(tree, path)
    return max(found)[1] if found else None


def need(tree: Tree, path: str) -> Node:
    """As `find`. Raises NotFound."""
    node = find(tree, path)
    if node is None:
        raise NotFound(
            f"nothing that was cleared is called '{tree.scope.shown(path)[:200]}'; sto_list with 'trash' shows what "
            "can be restored",
            code="not_in_trash",
            param="path",
        )
    return node


def _cleared(tree: Tree, path: str) -> list[tuple[Order, Node]]:
    """All that was ever called `path` and is in the trash."""
    return [each for top in (path, *folders_of(path)) for each in _below(tree, top, path)]


def _below(tree: Tree, top: str, path: str) -> list[tuple[Order, Node]]:
    """What is `path` in each of the entries that were cleared at `top`."""
    sql = f"SELECT trashed, {NODE} FROM files WHERE scope = ? AND was = ?"
    found = []
    for trashed, *entry in rows(tree.connection, sql, (tree.id, top)):
        node: Node | None = Node(*entry)
        for name in path[len(top) + 1 :].split("/") if path != top else ():
            node = tree.child(node.id, name) if node is not None else None
        if node is not None:
            found.append(((trashed, entry[0]), node))
    return found


def restore(tree: Tree, path: str, now: float) -> Node:
    """Back to where it was. Raises NotFound when nothing in the trash was called that, Conflict when something else is
    by now."""
    node = need(tree, path)
    if (there := tree.find(path)) is not None:
        raise tree.taken(path, there)
    parent = tree.make_folder(parent_of(path), now)
    tree.connection.execute("UPDATE files SET parent = ?, trashed = NULL, was = NULL WHERE id = ?", (parent, node.id))
    return node


def listed(tree: Tree, path: str, limit: int, after: str) -> Listing:
    """What can be restored at `path` and below, in the order of paths; of what was cleared twice the later one."""
    found = rows(
        tree.connection,
        f"SELECT was, max(trashed), {NODE} FROM files WHERE scope = ? AND {_AT} AND was > ?"
        " GROUP BY was ORDER BY was LIMIT ?",
        (tree.id, *_at(path), after, limit + 1),
    )
    entries = [(was, Node(*entry)) for was, _, *entry in found]
    if not entries and path and (node := find(tree, path)) is not None:
        entries = [(f"{path}/{n.name}", n) for n in tree.children(node.id, limit + 1, after[len(path) + 1 :])]
    return Listing(entries=[tree.stat(node, was) for was, node in entries[:limit]], has_more=len(entries) > limit)


_AT = "(was = ? OR was >= ? AND was < ?)"
"""Cleared at a path or below it."""


def _at(path: str) -> tuple[str, str, str]:
    # "0" is the character after "/": the range holds what is below the path.
    return (path, f"{path}/", f"{path}0") if path else ("", "", "\U0010ffff")


# ── leaving ──


def to_leave(tree: Tree, path: str) -> list[int]:
    """Entries that are the topmost of what is in the trash at `path` and below; "" is all of it."""
    found = rows(tree.connection, f"SELECT id FROM files WHERE scope = ? AND {_AT}", (tree.id, *_at(path)))
    inside = [each for top in folders_of(path) for each in _below(tree, top, path)]
    return [id for (id,) in found] + [node.id for _, node in inside]


def leave(tree: Tree, path: str) -> None:
    """What is in the trash at `path` and below is to go for good: nothing brings it back."""
    ids = [(LEAVING, id) for id in to_leave(tree, path)]
    tree.connection.executemany("UPDATE files SET trashed = ?, was = NULL WHERE id = ?", ids)


def drop_leaving(connection: apsw.Connection) -> bool:
    """Take some of what is to go out of the store, of whomever it was. True if there may be more."""
    found = rows(connection, "SELECT id, scope, kind FROM files WHERE trashed < 0 LIMIT ?", (STEP,))
    spent = 0
    for id, scope, kind in found:
        if spent >= STEP:
            return True
        spent += 1 + _drop(connection, id, scope, kind)
    return bool(found)


def _drop(connection: apsw.Connection, id: int, scope: int, kind: str) -> int:
    """Take an entry out, or the first of what it holds: how many went, or are to go now by themselves."""
    tree = Tree.of(connection, scope)
    if kind == "folder":
        inside = [(LEAVING, node.id) for node in tree.children(id, STEP)]
        connection.executemany("UPDATE files SET trashed = ? WHERE id = ?", inside)
        gone = len(inside)
    else:
        gone = drop_before(tree, id, 2**62)
    if gone < STEP:
        connection.execute("DELETE FROM files WHERE id = ?", (id,))
        connection.execute("DELETE FROM links WHERE file = ?", (id,))
        forget(connection, tree.scope.payer, 1, 0)
    return gone

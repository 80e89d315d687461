"""Moving a file or a folder to another name, with all its history. Knows no content and no call."""

from __future__ import annotations

from aios.abi.calls import Version
from aios.abi.errors import BadRequest

from .base import MAX_DEPTH, MAX_PATH, parent_of
from .tree import Tree


def move(tree: Tree, path: str, to: str, now: float) -> Version:
    """Raises NotFound, Conflict when something is called `to` already, BadRequest for a place below itself."""
    node = tree.need(path)
    if to == path or to.startswith(f"{path}/"):
        what = "itself" if to == path else f"'{tree.scope.shown(to)}', which is inside it"
        raise BadRequest(f"'{tree.scope.shown(path)}' cannot be moved to {what}", code="into_itself", param="to")
    if (there := tree.find(to)) is not None:
        raise tree.taken(to, there, "to")
    parent = tree.make_folder(parent_of(to), now)
    tree.connection.execute(
        "UPDATE files SET parent = ?, name = ? WHERE id = ?", (parent, to.rpartition("/")[2], node.id)
    )
    return Version(path=tree.scope.shown(to), version=node.version)


def check_extent(tree: Tree, path: str, to: str) -> None:
    """Raises BadRequest when something below `path` would get a path that no call can name. Looks at all of it."""
    node = tree.find(path)
    if node is None:
        return
    depth, length = tree.extent(node.id)
    if len(to) + length > MAX_PATH or len(to.split("/")) + depth > MAX_DEPTH:
        raise BadRequest(
            f"below '{tree.scope.shown(to)[:200]}' some paths would be longer than {MAX_PATH} characters or deeper "
            f"than {MAX_DEPTH} folders; choose a shorter name for it",
            code="bad_path",
            param="to",
        )

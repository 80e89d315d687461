"""Links that open a file for anybody who has one, as jobs on the store. Knows no wire.

The store has their hashes only. A link follows its file wherever that moves, and leads nowhere while that is in the
trash.
"""

from __future__ import annotations

import secrets
from hashlib import sha256
from hmac import compare_digest

import apsw

from aios.abi.calls import Link
from aios.abi.errors import NotFound, TooLarge

from ..database import row, value
from . import versions
from .tree import Tree
from .versions import Kept, Stamp

MAX_LINKS = 100
"""Of one file."""
STEP = 500
"""Links that are forgotten together."""
PLACE = "/aios/v1/shared/"


def share(tree: Tree, path: str, version: int | None, ttl: float, stamp: Stamp) -> Link:
    """A new link to the file, or to that version of it. Raises NotFound, BadRequest, TooLarge."""
    kept = versions.find(tree, path, version)
    connection = tree.connection
    if value(connection, "SELECT count(*) FROM links WHERE file = ?", (kept.file,)) >= MAX_LINKS:
        raise TooLarge(
            f"'{tree.scope.shown(path)}' has {MAX_LINKS} links already: a ttl of 0 ends them all", code="too_many_links"
        )
    token, expires = secrets.token_urlsafe(32), stamp.at + ttl
    connection.execute(
        "INSERT INTO links VALUES (?, ?, ?, ?, ?, ?)",
        (_hash(token), kept.file, version, stamp.at, expires, stamp.author or ""),
    )
    return Link(url=PLACE + token, expires=expires)


def end(tree: Tree, path: str) -> Link:
    """All links to the file lead nowhere any more."""
    node = tree.need_file(path)
    tree.connection.execute("DELETE FROM links WHERE file = ?", (node.id,))
    return Link(url=None, expires=None, ended=tree.connection.changes())


def follow(connection: apsw.Connection, token: str, now: float) -> tuple[str, Kept]:
    """The name of the file, and the version that the link opens now. Raises NotFound, which does not say why."""
    hash = _hash(token)
    found = row(connection, "SELECT hash, file, version FROM links WHERE hash = ? AND expires > ?", (hash, now))
    if found is not None and compare_digest(found[0], hash):
        file = row(connection, "SELECT scope, name, version FROM files WHERE id = ?", (found[1],))
        kept = versions.of(connection, found[1], found[2] or file[2]) if file is not None else None
        if file is not None and kept is not None and Tree.of(connection, file[0]).path_of(found[1]) is not None:
            return file[1], kept
    raise NotFound(
        "this link leads nowhere: it has expired or was ended, the file is gone, or it was never one",
        code="no_such_link",
    )


def forget_old(connection: apsw.Connection, now: float) -> int:
    """Some of those that have expired: how many went."""
    connection.execute(
        "DELETE FROM links WHERE hash IN (SELECT hash FROM links WHERE expires <= ? LIMIT ?)", (now, STEP)
    )
    return connection.changes()


def _hash(token: str) -> bytes:
    return sha256(token.encode()).digest()

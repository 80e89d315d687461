"""What one payer keeps in files, counted. Knows no call but the one that asks."""

from __future__ import annotations

from aios.abi.calls import StorageStat

from ..database import kept, row, value
from .quota import ROOM, VERSION_BYTES
from .tree import Tree

_SCOPES = "(SELECT id FROM scopes WHERE owner = ?1 AND agent = ?2 AND mount = ?3)"
_IN_TRASH = f"""
    WITH RECURSIVE trash(id) AS (
        SELECT id FROM files WHERE scope IN {_SCOPES} AND trashed IS NOT NULL
        UNION
        SELECT files.id FROM trash JOIN files ON parent = trash.id AND scope IN {_SCOPES})
    SELECT count(DISTINCT trash.id), coalesce(sum(versions.size + {VERSION_BYTES}), 0)
    FROM trash LEFT JOIN versions ON file = trash.id
"""
_CONTENTS = f"SELECT DISTINCT content FROM versions JOIN files ON file = id WHERE scope IN {_SCOPES}"
_STORED = f"""
    SELECT coalesce((SELECT sum(size) FROM contents WHERE chunks IS NULL AND id IN ({_CONTENTS})), 0)
        + coalesce((SELECT sum(size) FROM chunks WHERE id IN (
            SELECT value FROM contents, json_each(chunks)
            WHERE chunks IS NOT NULL AND contents.id IN ({_CONTENTS}))), 0)
"""


def stat(tree: Tree) -> StorageStat:
    """Of all that the scope's payer keeps. Looks at each entry and version."""
    connection, scope, quota = tree.connection, tree.scope, tree.quota
    there = kept(connection, ROOM, *scope.payer)
    trash = row(connection, _IN_TRASH, scope) or (0, 0)
    count = f"SELECT count(*) FROM versions JOIN files ON file = id WHERE scope IN {_SCOPES}"
    return StorageStat(
        entries=there.entries,
        max_entries=quota.max_entries,
        bytes=there.bytes,
        max_bytes=quota.max_bytes,
        versions=value(connection, count, scope),
        trash_entries=trash[0],
        trash_bytes=trash[1],
        stored=value(connection, _STORED, scope),
    )

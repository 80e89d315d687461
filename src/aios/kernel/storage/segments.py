"""Long contents as chains of blocks, so that what begins alike is on disk once. Knows no entry, no agent and no file.

A content is cut where nothing but the distance from its beginning says, and each block is known by the hash of its
scope, of the block before it, and of its bytes: contents of a scope that begin alike are the same rows up to where they
part. What is left behind the last whole block, the tail, is kept by whoever keeps the content. Scopes share nothing.

All of it runs inside jobs on the store, so a content and who names it are committed together.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import apsw

from aios.abi.errors import ModuleFault

from ..database import Fault, row, rows, value

SMALLEST = 1 << 10
"""Bytes of the first blocks. Later ones are up to a sixteenth of what is before them: a megabyte is 112 rows."""
SEAL = 8
"""Bytes of a tail's hash."""
_ROOT = bytes(32)

_CHAIN = """
    WITH RECURSIVE chain(id, parent, key, body) AS (
        SELECT id, parent, key, body FROM segments WHERE id = ?
        UNION ALL
        SELECT segments.id, segments.parent, segments.key, segments.body
            FROM chain JOIN segments ON segments.id = chain.parent AND segments.id < chain.id)
    SELECT parent, key, body FROM chain ORDER BY id"""

_WRONG_REFS = """
    SELECT id, refs, coalesce(times, 0) FROM segments LEFT JOIN (
        SELECT at, count(*) AS times FROM (SELECT parent AS at FROM segments UNION ALL {named}) GROUP BY at) ON at = id
    WHERE refs <> coalesce(times, 0)"""

Held = tuple[int | None, bytes, bytes | None]
"""Where a content is: its last block, its tail, and a hash of that (None where none was made)."""


class Segments:
    """The chains of a store. `scope` is whose they are; every method is part of a job."""

    def put(self, connection: apsw.Connection, scope: int, content: bytes) -> tuple[Held, int]:
        """Keep `content`; where it is, and how many bytes that took."""
        if len(content) < SMALLEST:
            return (None, content, _key(scope, _ROOT, content)[:SEAL]), len(content)
        blocks, end, last = _cut(scope, content)
        known, tip = _deepest(connection, blocks)
        if tip is not None:
            connection.execute("UPDATE segments SET refs = refs + 1 WHERE id = ?", (tip,))
        taken = len(content) - end
        for key, start, stop in blocks[known:]:
            connection.execute(
                "INSERT INTO segments(scope, key, parent, refs, body) VALUES (?, ?, ?, 1, ?)",
                (scope, key, tip, content[start:stop]),
            )
            tip = connection.last_insert_rowid()
            taken += stop - start
        tail = content[end:]
        return (tip, tail, _key(scope, last, tail)[:SEAL]), taken

    def get(self, connection: apsw.Connection, scope: int, held: Held) -> bytes:
        """The content. Raises ModuleFault when it is not what was put."""
        tip, tail, seal = held
        blocks = rows(connection, _CHAIN, (tip,)) if tip is not None else []
        if tip is not None and (not blocks or blocks[0][0] is not None):
            raise _damaged("a block of it is missing")
        key = _ROOT
        for _, known, body in blocks:
            key = _key(scope, key, body)
            if key != known:
                raise _damaged("a block of it is not what was written")
        if seal is not None and _key(scope, key, tail)[:SEAL] != seal:
            raise _damaged("its end is not what was written")
        return b"".join([*(body for *_, body in blocks), tail])

    def keep(self, connection: apsw.Connection, tip: int | None) -> None:
        """One more names the content that ends in `tip`."""
        connection.execute("UPDATE segments SET refs = refs + 1 WHERE id = ?", (tip,))

    def drop(self, connection: apsw.Connection, tip: int | None) -> int:
        """One fewer names the content that ends in `tip`; the bytes that it leaves behind for nobody are freed."""
        freed = 0
        while tip is not None:
            found = row(connection, "SELECT refs, parent, octet_length(body) FROM segments WHERE id = ?", (tip,))
            if found is None or found[0] > 1:
                connection.execute("UPDATE segments SET refs = refs - 1 WHERE id = ?", (tip,))
                break
            connection.execute("DELETE FROM segments WHERE id = ?", (tip,))
            _, tip, size = found
            freed += size
        return freed

    def check(self, connection: apsw.Connection, named: str) -> Iterator[Fault]:
        """What is wrong with the chains. `named` is a query for the tips that are named, each as often as it is."""
        sql = (
            "SELECT one.id, one.scope, one.parent, one.key, one.body, before.scope, before.key"
            " FROM segments AS one LEFT JOIN segments AS before ON before.id = one.parent"
        )
        for id, scope, parent, key, body, its_scope, its_key in connection.execute(sql):
            if parent is not None and (its_key is None or its_scope != scope or parent >= id):
                yield Fault(f"segment {id}", "what is before it is missing", "the contents that need it are forgotten")
            elif _key(scope, its_key or _ROOT, body) != key:
                yield Fault(f"segment {id}", "it is not what was written", "the contents that need it are forgotten")
        for id, refs, real in connection.execute(_WRONG_REFS.format(named=named)):
            yield Fault(f"segment {id}", f"{real} contents and segments name it, and {refs} are counted", "is counted")

    def repair(self, connection: apsw.Connection, named: str) -> None:
        """Count anew how often each segment is named, and drop those that nobody names. Contents that cannot be read
        are to be forgotten first."""
        while wrong := rows(connection, _WRONG_REFS.format(named=named)):
            connection.executemany("UPDATE segments SET refs = ? WHERE id = ?", [(real, id) for id, _, real in wrong])
            connection.execute("DELETE FROM segments WHERE refs = 0")


def _cut(scope: int, content: bytes) -> tuple[list[tuple[bytes, int, int]], int, bytes]:
    """The whole blocks of `content` by key, from where to where; where the tail begins, and the key before it."""
    blocks: list[tuple[bytes, int, int]] = []
    at, key = 0, _ROOT
    while (end := at + _step(at)) <= len(content):
        key = _key(scope, key, content[at:end])
        blocks.append((key, at, end))
        at = end
    return blocks, at, key


def _step(at: int) -> int:
    """Bytes of the block that begins at `at`: the power of two up to a sixteenth of that."""
    return max(SMALLEST, 1 << max(0, (at >> 4).bit_length() - 1))


def _key(scope: int, parent: bytes, body: bytes) -> bytes:
    return sha256(b"%d:%b%b" % (scope, parent, body)).digest()


def _deepest(connection: apsw.Connection, blocks: list[tuple[bytes, int, int]]) -> tuple[int, int | None]:
    """How many of `blocks` are there, and the row of the last of them. One that is there has all before it."""
    for known in range(len(blocks), 0, -1):
        found = value(connection, "SELECT id FROM segments WHERE key = ?", (blocks[known - 1][0],))
        if found is not None:
            return known, found
    return 0, None


def _damaged(what: str) -> ModuleFault:
    return ModuleFault(f"the content is damaged on disk: {what}; 'aios fs check' says more", code="content_damaged")

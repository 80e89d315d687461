"""Contents in the tables: bodies, or lists of chunks, and who names them. Knows no path and no file of the machine.

`refs` is `WRITING` while a content is being written, then how many name it; at 0 it waits to be dropped. So the tables
know what a crash leaves behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple

import apsw

from ..database import as_list, row, rows, value
from .blobs import File, damaged, lost

WRITING = -1
SMALL = 64 << 10
"""Bytes up to which a content is a body, and a chunk lives in the database."""


class Body(NamedTuple):
    """A content that is in one piece."""

    hash: bytes
    data: bytes


class Piece(NamedTuple):
    """A chunk to be named: `data`, or the token of its file; without both, one that the scope has already."""

    hash: bytes
    size: int
    data: bytes | None
    token: int | None


class Chunk(NamedTuple):
    """A chunk that is there. Without a token its bytes are in the database."""

    id: int
    hash: bytes
    size: int
    token: int | None


class Content(NamedTuple):
    """`chunks` is a JSON list of their ids, None for a body."""

    id: int
    hash: bytes
    size: int
    chunks: str | None


_IDS = "json_each(iif(json_valid(?1), ?1, '[]'))"
"""The ids in a list of chunks; none in one that is damaged."""


def body(data: bytes) -> Body:
    return Body(sha256(data).digest(), data)


def hash_of(hashes: Sequence[bytes]) -> bytes:
    """What a content of such chunks is known by. Where they are cut depends on nothing else than what is in them."""
    return hashes[0] if len(hashes) == 1 else sha256(b"".join(hashes)).digest()


# ── naming ──


def add_body(connection: apsw.Connection, content: Body) -> int:
    """A content with a name already: its id."""
    sql = "INSERT INTO contents(hash, size, refs, body) VALUES (?, ?, 1, ?)"
    connection.execute(sql, (content.hash, len(content.data), content.data))
    return connection.last_insert_rowid()


def name(connection: apsw.Connection, id: int) -> None:
    """One more names it."""
    connection.execute("UPDATE contents SET refs = max(refs, 0) + 1 WHERE id = ?", (id,))


def unname(connection: apsw.Connection, id: int, times: int = 1) -> None:
    """So many fewer do. The last one leaves it to be dropped."""
    connection.execute("UPDATE contents SET refs = refs - ? WHERE id = ?", (times, id))


def begin(connection: apsw.Connection) -> int:
    """A content without chunks, that is being written."""
    connection.execute("INSERT INTO contents(hash, size, refs, chunks) VALUES (x'', 0, ?, '[]')", (WRITING,))
    return connection.last_insert_rowid()


def add_chunk(connection: apsw.Connection, scope: int, piece: Piece) -> Chunk:
    """Name a piece once more in its scope. One that was there already stays what it was: the chunk has another token
    than the piece, whose file nobody names then."""
    sql = (
        "INSERT INTO chunks(scope, hash, size, refs, token, body) VALUES (?, ?, ?, 1, ?, ?)"
        " ON CONFLICT DO UPDATE SET refs = refs + 1 RETURNING id, hash, size, token"
    )
    return Chunk(*rows(connection, sql, (scope, piece.hash, piece.size, piece.token, piece.data))[0])


def grow(connection: apsw.Connection, id: int, chunks: Sequence[int], size: int) -> None:
    """`chunks` are the ids of all that the content has by now, `size` their bytes."""
    ids = as_list(chunks)
    connection.execute("UPDATE contents SET size = ?, chunks = ? WHERE id = ?", (size, ids, id))


def seal(connection: apsw.Connection, id: int, hash: bytes) -> None:
    """It is whole, and known by `hash`."""
    connection.execute("UPDATE contents SET hash = ? WHERE id = ?", (hash, id))


# ── looking ──


def known(connection: apsw.Connection, scope: int | None, hashes: Sequence[bytes]) -> set[bytes]:
    """Those of `hashes` that the scope has a chunk for."""
    sql = "SELECT 1 FROM chunks WHERE scope = ? AND hash = ?"
    return {hash for hash in hashes if row(connection, sql, (scope, hash)) is not None}


def named_files(connection: apsw.Connection, files: Iterable[File]) -> set[File]:
    """Those of `files` that are a chunk's."""
    sql = "SELECT 1 FROM chunks WHERE hash = ? AND token = ?"
    return {file for file in files if row(connection, sql, file) is not None}


def find(connection: apsw.Connection, id: int) -> Content:
    """Raises ModuleFault for one that is not there."""
    found = row(connection, "SELECT id, hash, size, chunks FROM contents WHERE id = ?", (id,))
    if found is None:
        raise lost(b"", "is not in the store")
    return Content(*found)


def body_of(connection: apsw.Connection, content: Content) -> bytes:
    """Of a content that is in one piece. Raises ModuleFault when it is not what was written."""
    data: bytes | None = value(connection, "SELECT body FROM contents WHERE id = ?", (content.id,))
    return _whole(content.hash, data)


def chunks_of(connection: apsw.Connection, content: Content) -> list[Chunk]:
    """In their order. Raises ModuleFault when one is missing."""
    sql = f"SELECT chunks.id, hash, size, token FROM {_IDS} JOIN chunks ON chunks.id = value ORDER BY key"
    chunks = [Chunk(*found) for found in rows(connection, sql, (content.chunks,))]
    if sum(chunk.size for chunk in chunks) != content.size:
        raise lost(content.hash, "is not in the store")
    return chunks


def data_of(connection: apsw.Connection, chunk: Chunk) -> bytes:
    """Of a chunk that lives in the database. Raises ModuleFault when it is not what was written."""
    return _whole(chunk.hash, value(connection, "SELECT body FROM chunks WHERE id = ?", (chunk.id,)))


def _whole(hash: bytes, data: bytes | None) -> bytes:
    if data is None:
        raise lost(hash, "is not in the store")
    if not isinstance(data, bytes) or sha256(data).digest() != hash:
        raise damaged(hash)
    return data


# ── dropping ──


def unnamed(connection: apsw.Connection, limit: int) -> list[int]:
    """Contents that nobody names any more, though some may still be read."""
    return [id for (id,) in rows(connection, "SELECT id FROM contents WHERE refs = 0 LIMIT ?", (limit,))]


def is_unfinished(connection: apsw.Connection, id: int) -> bool:
    return bool(value(connection, "SELECT refs = ? FROM contents WHERE id = ?", (WRITING, id)))


def give_up_unfinished(connection: apsw.Connection) -> None:
    """What an earlier kernel was writing when it ended will get no name."""
    connection.execute("UPDATE contents SET refs = 0 WHERE refs < 0")


def drop(connection: apsw.Connection, id: int) -> list[File]:
    """Take a content that nobody names out of the store: files that no chunk is any more."""
    sql = "DELETE FROM contents WHERE id = ? AND refs <= 0 RETURNING chunks"
    found = row(connection, sql, (id,))
    if found is None or found[0] is None:
        return []
    connection.execute(
        "UPDATE chunks SET refs = refs - times FROM"
        f" (SELECT value, count(*) AS times FROM {_IDS} GROUP BY value) WHERE id = value",
        found,
    )
    gone = rows(
        connection,
        f"DELETE FROM chunks WHERE refs <= 0 AND id IN (SELECT value FROM {_IDS}) RETURNING hash, token",
        found,
    )
    return [(bytes(hash), token) for hash, token in gone if token is not None]

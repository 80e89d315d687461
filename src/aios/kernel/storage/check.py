"""Whether files are on disk as they should be: every content, count, version, name and link. For a command.

Reads page by page, so that it holds up nobody and needs no memory for what it reads. Changes nothing; `mend` does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import apsw

from aios.abi.errors import ModuleFault

from ..database import Fault, row, rows
from .blobs import Blobs, file_of
from .contents import hash_of, named_files
from .needed import BY_CHUNK, BY_CONTENT, Bad, with_files
from .quota import ROOM, VERSION_BYTES

SETTLED_SECONDS = 3600.0
"""While a kernel runs, a file that nothing names may be one that is just being written; not when it is so old."""
PAGE = 200
BACK = "is taken from an equal one, where there is one; else what needs it stays and says so when it is read"
_NAMES = "SELECT content FROM versions UNION ALL SELECT content FROM uploads"
REFS = f"""
    WITH named(id, times) AS (SELECT content, count(*) FROM ({_NAMES}) GROUP BY content)
    SELECT contents.id, coalesce(times, 0) FROM contents LEFT JOIN named USING (id)
    WHERE refs >= 0 AND refs <> coalesce(times, 0)"""
CHUNK_REFS = """
    WITH named(id, times) AS (
        SELECT value, count(*) FROM contents, json_each(iif(json_valid(chunks), chunks, '[]'))
        WHERE chunks IS NOT NULL GROUP BY value)
    SELECT chunks.id, coalesce(times, 0) FROM chunks LEFT JOIN named USING (id) WHERE refs <> coalesce(times, 0)"""
_NO_CONTENT = "SELECT file, version FROM versions WHERE content NOT IN (SELECT id FROM contents)"
NO_FILE = "SELECT file, version, content FROM versions WHERE file NOT IN (SELECT id FROM files)"
NO_VERSION = """
    SELECT id, name FROM files WHERE kind = 'file' AND NOT EXISTS (SELECT 1 FROM versions WHERE file = files.id)"""
NO_PLACE = """
    WITH RECURSIVE placed(id, scope, kind) AS (
        SELECT id, scope, kind FROM files WHERE parent = 0 OR trashed IS NOT NULL
        UNION
        SELECT files.id, files.scope, files.kind FROM placed JOIN files
        ON files.scope = placed.scope AND files.parent = placed.id AND files.trashed IS NULL
        WHERE placed.kind = 'folder')
    SELECT id, scope, parent, name FROM files WHERE id NOT IN (SELECT id FROM placed)"""
"""Entries that no way leads to: a folder above them is missing, or is below itself."""
WRONG_NEWEST = """
    SELECT files.id, last, first, versions.size
    FROM files JOIN (SELECT file, max(version) AS last, min(version) AS first FROM versions GROUP BY file) AS has
    ON has.file = files.id JOIN versions ON versions.file = files.id AND versions.version = last
    WHERE (files.version, files.oldest, files.size) <> (last, first, versions.size)"""
NO_UPLOAD = "SELECT owner, agent, name FROM uploads WHERE content NOT IN (SELECT id FROM contents)"
NO_TARGET = "SELECT hash FROM links WHERE file NOT IN (SELECT id FROM files)"
KEPT = f"""
    WITH paid AS (
        SELECT id, owner, iif(mount = '', agent, agent || char(10) || mount) AS agent FROM scopes),
    entries AS (SELECT owner, agent, count(*) AS number FROM files JOIN paid ON scope = paid.id GROUP BY 1, 2),
    sizes AS (
        SELECT owner, agent, sum(versions.size + {VERSION_BYTES}) AS number
        FROM versions JOIN files ON file = files.id JOIN paid ON scope = paid.id GROUP BY 1, 2),
    real AS (
        SELECT DISTINCT owner, agent, coalesce(entries.number, 0) AS entries, coalesce(sizes.number, 0) AS bytes
        FROM (SELECT owner, agent FROM paid UNION SELECT owner, agent FROM kept WHERE room = '{ROOM}')
        LEFT JOIN entries USING (owner, agent) LEFT JOIN sizes USING (owner, agent))
    SELECT real.owner, real.agent, real.entries, real.bytes
    FROM real LEFT JOIN kept ON room = '{ROOM}' AND kept.owner = real.owner AND kept.agent = real.agent
    WHERE (coalesce(kept.entries, 0), coalesce(kept.bytes, 0)) <> (real.entries, real.bytes)"""
_TABLES = (
    (REFS, "content {0}", "how many name it is miscounted", "is counted"),
    (CHUNK_REFS, "chunk {0}", "how many name it is miscounted", "is counted"),
    (_NO_CONTENT, "file {0}, version {1}", "its content is missing", "stays, unreadable"),
    (NO_FILE, "file {0}, version {1}", "it belongs to no file", "goes to the folder 'lost' of the home"),
    (NO_VERSION, "file {0}, '{1}'", "it has no version", "goes: there is nothing in it"),
    (NO_PLACE, "file {0}, '{3}'", "no folder leads to it", "goes to the top, with all below it"),
    (WRONG_NEWEST, "file {0}", "its newest version is not what it says", "is corrected"),
    (NO_UPLOAD, "an upload of {1}", "its content is missing", "is forgotten"),
    (NO_TARGET, "a link", "the file that it leads to is missing", "is forgotten"),
    (KEPT, "files of {1}", "what they take is miscounted", "is counted"),
)


def check(connection: apsw.Connection, blobs: Blobs, *, is_served: bool) -> Iterator[Fault]:
    """What is wrong. `is_served`: a kernel works on it meanwhile."""
    for id, why in with_files(connection, bad_bodies(connection), BY_CONTENT):
        yield Fault(f"content {id}", why, BACK)
    for id, why in with_files(connection, bad_chunks(connection, blobs), BY_CHUNK):
        yield Fault(f"chunk {id}", why, BACK)
    for id, why in with_files(connection, bad_lists(connection), BY_CONTENT):
        yield Fault(f"content {id}", why, "stays, unreadable")
    for sql, where, what, mend in _TABLES:
        for found in rows(connection, sql):
            yield Fault(where.format(*found), what, mend)
    for path in nobodys(connection, blobs, is_served=is_served):
        yield Fault(f"blobs/{path.parent.name}/{path.name}", "nothing names it", "is removed")


# ── contents ──


def bad_bodies(connection: apsw.Connection) -> Iterator[Bad]:
    sql = "SELECT id, hash, body FROM contents WHERE chunks IS NULL AND id > ? ORDER BY id LIMIT ?"
    for id, hash, body in _paged(connection, sql):
        if not is_of(hash, body):
            yield id, "it is not what was written"


def bad_chunks(connection: apsw.Connection, blobs: Blobs) -> Iterator[Bad]:
    sql = "SELECT id, hash, token, body FROM chunks WHERE id > ? ORDER BY id LIMIT ?"
    for id, hash, token, body in _paged(connection, sql):
        if (why := _why_not(blobs, hash, token, body)) is None:
            continue
        # It may have left since its page was read.
        if row(connection, "SELECT 1 FROM chunks WHERE id = ? AND token IS ?", (id, token)) is not None:
            yield id, why


def bad_lists(connection: apsw.Connection) -> Iterator[Bad]:
    """Contents whose chunks are not all there, or not those that were written."""
    sql = (
        "SELECT id, hash, size, chunks FROM contents WHERE chunks IS NOT NULL AND refs > 0 AND id > ?"
        " ORDER BY id LIMIT ?"
    )
    parts = "SELECT hash, size FROM json_each(?) JOIN chunks ON chunks.id = value ORDER BY key"
    for id, hash, size, chunks in _paged(connection, sql):
        try:
            found = rows(connection, parts, (chunks,))
        except apsw.SQLError:  # it is no list
            found = []
        hashes = [bytes(each) for each, _ in found]
        if sum(each for _, each in found) != size or hash_of(hashes) != hash:
            if row(connection, "SELECT 1 FROM contents WHERE id = ? AND refs > 0", (id,)) is not None:
                yield id, "the list of its chunks is not what was written"


def _paged(connection: apsw.Connection, sql: str) -> Iterator[tuple[Any, ...]]:
    """All rows of a query that takes the id to go on from, and how many: no page is open while they are looked at."""
    after = 0
    while found := rows(connection, sql, (after, PAGE)):
        yield from found
        after = found[-1][0]


def _why_not(blobs: Blobs, hash: bytes, token: int | None, body: bytes | None) -> str | None:
    """What is wrong with a chunk."""
    if token is None:
        return None if is_of(hash, body) else "it is not what was written"
    try:
        blobs.get(hash, token)
    except ModuleFault as fault:
        return fault.message.partition(";")[0]
    return None


def is_of(hash: bytes, body: Any) -> bool:
    return isinstance(body, bytes) and sha256(body).digest() == hash


# ── files ──


def nobodys(connection: apsw.Connection, blobs: Blobs, *, is_served: bool) -> Iterator[Path]:
    """Files that no chunk is."""
    latest = time.time() - SETTLED_SECONDS if is_served else float("inf")
    for folder in sorted(entries_of(blobs.folder)):
        found = {path: file_of(path.name) for path in entries_of(folder)}
        named = named_files(connection, [file for file in found.values() if file is not None])
        for path in sorted(found):
            if found[path] not in named and _written(path) < latest:
                yield path


def entries_of(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder)]
    except OSError:
        return []


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it has left
        return float("inf")

"""Whether files are on disk as they should be, and the mending of what can be. For a command; no agent calls it.

A repair drops nothing that can be read, and no version: one that has lost a part says so when it is read, and is whole
again should the part come back.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import apsw

from aios.abi.errors import ModuleFault

from ..database import Fault, row, rows
from .blobs import OLD, Blobs, file_of
from .contents import hash_of, named_files
from .quota import ROOM, VERSION_BYTES

SETTLED_SECONDS = 3600.0
"""While a kernel runs, a file that nothing names may be one that is just being written; not when it is so old."""
BACK = "is taken from an equal one, where there is one"
_NAMES = "SELECT content FROM versions UNION ALL SELECT content FROM uploads"
_REFS = f"""
    WITH named(id, times) AS (SELECT content, count(*) FROM ({_NAMES}) GROUP BY content)
    SELECT contents.id, coalesce(times, 0) FROM contents LEFT JOIN named USING (id)
    WHERE refs >= 0 AND refs <> coalesce(times, 0)"""
_CHUNK_REFS = """
    WITH named(id, times) AS (
        SELECT value, count(*) FROM contents, json_each(chunks) WHERE chunks IS NOT NULL GROUP BY value)
    SELECT chunks.id, coalesce(times, 0) FROM chunks LEFT JOIN named USING (id) WHERE refs <> coalesce(times, 0)"""
_NO_CONTENT = """
    SELECT file, version FROM versions WHERE content NOT IN (SELECT id FROM contents)"""
_NO_FILE = "SELECT DISTINCT file FROM versions WHERE file NOT IN (SELECT id FROM files)"
_NO_FOLDER = """
    SELECT id, scope, name FROM files AS child
    WHERE parent <> 0 AND NOT EXISTS (
        SELECT 1 FROM files WHERE id = child.parent AND scope = child.scope AND kind = 'folder')"""
_WRONG_NEWEST = """
    SELECT files.id, max(versions.version), min(versions.version) FROM files JOIN versions ON file = id
    WHERE kind = 'file' GROUP BY files.id
    HAVING files.version <> max(versions.version) OR files.oldest <> min(versions.version)"""
_KEPT = f"""
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


def check(connection: apsw.Connection, blobs: Blobs, *, is_served: bool) -> Iterator[Fault]:
    """What is wrong. `is_served`: a kernel works on it meanwhile."""
    yield from _bodies(connection)
    yield from _chunks(connection, blobs)
    yield from _lists(connection)
    yield from _table(connection, _REFS, "content {0}", "how many name it is miscounted", "is counted")
    yield from _table(connection, _CHUNK_REFS, "chunk {0}", "how many name it is miscounted", "is counted")
    yield from _table(connection, _NO_CONTENT, "file {0}, version {1}", "its content is missing", "stays, unreadable")
    yield from _table(connection, _NO_FILE, "file {0}", "it has versions and is in no folder", "its versions go")
    yield from _table(connection, _NO_FOLDER, "file {0}, '{2}'", "its folder is missing", "goes to the top")
    yield from _table(connection, _WRONG_NEWEST, "file {0}", "its newest version is not what it says", "is corrected")
    yield from _table(connection, _KEPT, "files of {1!r}", "what they take is miscounted", "is counted")
    for path in _nobodys(connection, blobs, is_served=is_served):
        yield Fault(f"blobs/{path.parent.name}/{path.name}", "nothing names it", "is removed")


def repair(connection: apsw.Connection, blobs: Blobs) -> None:
    """Mend what can be. A job that may take long, while nobody else is at work."""
    _bring_back(connection, blobs)
    for id, times in rows(connection, _REFS):
        connection.execute("UPDATE contents SET refs = ? WHERE id = ?", (times, id))
    for id, times in rows(connection, _CHUNK_REFS):
        connection.execute("UPDATE chunks SET refs = ? WHERE id = ?", (times, id))
    connection.execute(f"DELETE FROM versions WHERE file IN ({_NO_FILE})")
    for id, scope, name in rows(connection, _NO_FOLDER):
        taken = row(connection, "SELECT 1 FROM files WHERE scope = ? AND parent = 0 AND name = ?", (scope, name))
        new = f"found-{id}-{name}" if taken else name
        connection.execute("UPDATE files SET parent = 0, name = ? WHERE id = ?", (new, id))
    for id, newest, oldest in rows(connection, _WRONG_NEWEST):
        connection.execute("UPDATE files SET version = ?, oldest = ? WHERE id = ?", (newest, oldest, id))
    for owner, agent, entries, size in rows(connection, _KEPT):
        connection.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?)", (ROOM, owner, agent, entries, size))
    for path in _nobodys(connection, blobs, is_served=False):
        with contextlib.suppress(OSError):
            path.unlink()


def _table(connection: apsw.Connection, sql: str, where: str, what: str, mend: str) -> Iterator[Fault]:
    for found in connection.execute(sql):
        yield Fault(where.format(*found), what, mend)


def _bodies(connection: apsw.Connection) -> Iterator[Fault]:
    for id, hash, body in connection.execute("SELECT id, hash, body FROM contents WHERE chunks IS NULL"):
        if not _is(hash, body):
            yield Fault(f"content {id}", "it is not what was written", BACK)


def _chunks(connection: apsw.Connection, blobs: Blobs) -> Iterator[Fault]:
    for id, hash, token, body in connection.execute("SELECT id, hash, token, body FROM chunks"):
        if (why := _why_not(blobs, hash, token, body)) is None:
            continue
        # It may have left while others were read.
        if row(connection, "SELECT 1 FROM chunks WHERE id = ? AND token IS ?", (id, token)) is not None:
            yield Fault(f"chunk {id}", why, BACK)


def _why_not(blobs: Blobs, hash: bytes, token: int | None, body: bytes | None) -> str | None:
    """What is wrong with a chunk."""
    if token is None:
        return None if _is(hash, body) else "it is not what was written"
    try:
        blobs.get(hash, token)
    except ModuleFault as fault:
        return fault.message.partition(";")[0]
    return None


def _is(hash: bytes, body: bytes | None) -> bool:
    return isinstance(body, bytes) and sha256(body).digest() == hash


def _lists(connection: apsw.Connection) -> Iterator[Fault]:
    """Contents whose chunks are not all there, or not those that were written."""
    sql = "SELECT id, hash, size, chunks FROM contents WHERE chunks IS NOT NULL AND refs > 0"
    parts = "SELECT hash, size FROM json_each(?) JOIN chunks ON chunks.id = value ORDER BY key"
    for id, hash, size, chunks in connection.execute(sql):
        found = rows(connection, parts, (chunks,))
        hashes = [bytes(each) for each, _ in found]
        is_old = len(hashes) == 1 and hash == hashes[0]
        if sum(each for _, each in found) != size or not (is_old or hash_of(hashes) == hash):
            yield Fault(f"content {id}", "the list of its chunks is not what was written", "stays, unreadable")


def _nobodys(connection: apsw.Connection, blobs: Blobs, *, is_served: bool) -> Iterator[Path]:
    """Files that no chunk is."""
    latest = time.time() - SETTLED_SECONDS if is_served else float("inf")
    for folder in sorted(_entries(blobs.folder)):
        for name in sorted(_entries(folder)):
            if not _is_named(connection, name.name) and _written(name) < latest:
                yield name


def _entries(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder)]
    except OSError:
        return []


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it has left
        return float("inf")


def _is_named(connection: apsw.Connection, name: str) -> bool:
    return (file := file_of(name)) is not None and bool(named_files(connection, [file]))


def _bring_back(connection: apsw.Connection, blobs: Blobs) -> None:
    """Parts that are damaged or gone, from equal ones: another scope's, or a file that nobody names."""
    for id, hash, token, body in rows(connection, "SELECT id, hash, token, body FROM chunks"):
        if _why_not(blobs, hash, token, body) is not None and (data := _equal(connection, blobs, hash)) is not None:
            if token is None:
                connection.execute("UPDATE chunks SET body = ? WHERE id = ?", (data, id))
            else:
                connection.execute(
                    "UPDATE chunks SET token = ? WHERE id = ?", (blobs.put(hash, [memoryview(data)]), id)
                )
    for id, hash, body in rows(connection, "SELECT id, hash, body FROM contents WHERE chunks IS NULL"):
        if not _is(hash, body) and (data := _equal(connection, blobs, hash)) is not None:
            connection.execute("UPDATE contents SET body = ? WHERE id = ?", (data, id))


def _equal(connection: apsw.Connection, blobs: Blobs, hash: bytes) -> bytes | None:
    """Bytes of that hash, wherever they are."""
    bodies = [body for (body,) in rows(connection, "SELECT body FROM chunks WHERE hash = ?", (hash,))]
    bodies += [body for (body,) in rows(connection, "SELECT body FROM contents WHERE hash = ?", (hash,))]
    files = [path for path in _entries(blobs.path(hash, OLD).parent) if path.name.startswith(hash.hex())]
    for path in files:
        with contextlib.suppress(OSError):
            bodies.append(path.read_bytes())
    return next((bytes(body) for body in bodies if _is(hash, body)), None)

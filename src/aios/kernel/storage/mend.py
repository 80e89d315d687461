"""Mending what `check` finds in files. For a command, while no kernel works on the home.

Nothing is dropped that can be read, and no version of a file: one that has lost a part says so when it is read, and is
whole again should the part come back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import apsw

from aios.abi.errors import ModuleFault

from ..database import row, rows
from . import contents
from .blobs import OLD, Blobs
from .check import (
    CHUNK_REFS,
    KEPT,
    NO_FILE,
    NO_PLACE,
    NO_TARGET,
    NO_UPLOAD,
    NO_VERSION,
    REFS,
    WRONG_NEWEST,
    bad_bodies,
    bad_chunks,
    bad_lists,
    entries_of,
    is_of,
    nobodys,
)
from .quota import ROOM

LOST = "lost"
"""The folder of a home for contents that nobody can be said to own."""


def repair(connection: apsw.Connection, blobs: Blobs) -> None:
    """A job that may take long. What it does is in an order: contents are whole before they are counted, entries have
    their place and versions before their owners pay for them."""
    _bring_back(connection, blobs)
    _save_versions(connection, blobs)
    connection.execute(f"DELETE FROM files WHERE id IN (SELECT id FROM ({NO_VERSION}))")
    _give_place(connection)
    for id, newest, oldest, size in rows(connection, WRONG_NEWEST):
        connection.execute(
            "UPDATE files SET version = ?, oldest = ?, size = ? WHERE id = ?", (newest, oldest, size, id)
        )
    connection.execute(f"DELETE FROM uploads WHERE (owner, agent, name) IN ({NO_UPLOAD})")
    connection.execute(f"DELETE FROM links WHERE hash IN ({NO_TARGET})")
    for id, times in rows(connection, REFS):
        connection.execute("UPDATE contents SET refs = ? WHERE id = ?", (times, id))
    if not list(bad_lists(connection)):  # what a list named that cannot be read any more, nobody knows
        for id, times in rows(connection, CHUNK_REFS):
            connection.execute("UPDATE chunks SET refs = ? WHERE id = ?", (times, id))
        connection.execute("DELETE FROM chunks WHERE refs = 0")
    for owner, agent, entries, size in rows(connection, KEPT):
        connection.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?)", (ROOM, owner, agent, entries, size))


def remove_nobodys(connection: apsw.Connection, blobs: Blobs) -> None:
    """Files that no chunk is. After the repair is committed: what it dropped may still be named until then."""
    for path in list(nobodys(connection, blobs, is_served=False)):
        with contextlib.suppress(OSError):
            path.unlink()


# ── contents ──


def _bring_back(connection: apsw.Connection, blobs: Blobs) -> None:
    """Parts that are damaged or gone, from equal ones: another scope's, or a file that nobody names."""
    for id, _ in list(bad_chunks(connection, blobs)):
        hash, token = _one(connection, "SELECT hash, token FROM chunks WHERE id = ?", id)
        data = _equal(connection, blobs, hash)
        if data is not None and token is None:
            connection.execute("UPDATE chunks SET body = ? WHERE id = ?", (data, id))
        elif data is not None:
            connection.execute("UPDATE chunks SET token = ? WHERE id = ?", (blobs.put(hash, [memoryview(data)]), id))
    for id, _ in list(bad_bodies(connection)):
        (hash,) = _one(connection, "SELECT hash FROM contents WHERE id = ?", id)
        if (data := _equal(connection, blobs, hash)) is not None:
            connection.execute("UPDATE contents SET body = ? WHERE id = ?", (data, id))


def _one(connection: apsw.Connection, sql: str, id: int) -> tuple[bytes, ...]:
    found = row(connection, sql, (id,))
    assert found is not None
    return found


def _equal(connection: apsw.Connection, blobs: Blobs, hash: bytes) -> bytes | None:
    """Bytes of that hash, wherever they are."""
    for table in ("chunks", "contents"):
        for (body,) in rows(connection, f"SELECT body FROM {table} WHERE hash = ? AND body IS NOT NULL", (hash,)):
            if is_of(hash, body):
                return bytes(body)
    for path in entries_of(blobs.path(hash, OLD).parent):
        if path.name.startswith(hash.hex()):
            with contextlib.suppress(OSError):
                if is_of(hash, data := path.read_bytes()):
                    return data
    return None


def _save_versions(connection: apsw.Connection, blobs: Blobs) -> None:
    """Versions whose file is missing: nobody can be said to own them, so whoever keeps the home may look at them."""
    for file, version, content in rows(connection, NO_FILE):
        with contextlib.suppress(ModuleFault):
            _save(connection, blobs, content, blobs.folder.parent / LOST / f"file-{file}-version-{version}")
        connection.execute("DELETE FROM versions WHERE file = ? AND version = ?", (file, version))


def _save(connection: apsw.Connection, blobs: Blobs, id: int, path: Path) -> None:
    """Raises ModuleFault for a content that is not whole."""
    content = contents.find(connection, id)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            for piece in _pieces(connection, blobs, content):
                file.write(piece)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _pieces(connection: apsw.Connection, blobs: Blobs, content: contents.Content) -> Iterator[bytes]:
    if content.chunks is None:
        yield contents.body_of(connection, content)
        return
    for chunk in contents.chunks_of(connection, content):
        yield contents.data_of(connection, chunk) if chunk.token is None else blobs.get(chunk.hash, chunk.token)


# ── entries ──


def _give_place(connection: apsw.Connection) -> None:
    """Entries that no way leads to go to the top: the topmost ones, since what is below them goes along."""
    lost = {id: (scope, parent, name) for id, scope, parent, name in rows(connection, NO_PLACE)}
    while lost:
        tops = [id for id, (_, parent, _) in lost.items() if parent not in lost] or [min(lost)]
        for id in tops:
            scope, _, name = lost[id]
            taken = "SELECT 1 FROM files WHERE scope = ? AND parent = 0 AND name = ? AND trashed IS NULL"
            new = name if row(connection, taken, (scope, name)) is None else f"found-{id}-{name}"
            connection.execute("UPDATE files SET parent = 0, name = ? WHERE id = ?", (new, id))
        lost = {id: (scope, parent, name) for id, scope, parent, name in rows(connection, NO_PLACE)}

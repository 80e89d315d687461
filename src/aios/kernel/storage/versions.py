"""Paths, versions and trash of one agent, as jobs on the store. Knows no call, and no content but by its hash."""

from __future__ import annotations

import apsw

from aios.abi.calls import Count, Listing, Stat, Version
from aios.abi.errors import BadRequest, Conflict, NotFound, TooLarge

from ..database import add_kept, kept, row, rows, value
from ..process import Place
from .base import folders_of, nearest_name, parent_of
from .files import Content, add, remove

MAX_ENTRIES = 100_000
"""Files and folders of one agent, its trash among them."""
MAX_BYTES = 1 << 30
"""Bytes of all versions of one agent's files, its trash among them. A bound, so that no agent fills everybody's disk.
At it writes are refused: nothing leaves the trash before somebody says so."""
TRASH_STEP = 100
"""Entries that leave the trash together, so that no job holds up the writes of others for long."""
LEAVING = -1.0
"""In the place of when it was cleared: it is to go for good, and waits for its turn."""
VERSION_BYTES = 100
"""What a version counts beside its content, so that empty ones are not free."""
HOW_TO_MAKE_ROOM = (
    "clear some first, files that are not needed or were written often: sto_clear moves them to the trash, and "
    "sto_clear with 'trash' empties it for good, which takes a key that is no process's ('aios keys new')"
)
MAX_SIBLINGS = 200
"""Names in a folder among which the nearest to a missing one is looked for."""
MINE = "owner = ? AND agent = ? AND trashed IS NULL"
_STAT = "path, kind, size, version, modified"


def kind_of(connection: apsw.Connection, place: Place, path: str) -> str | None:
    """ "file", "folder", or None when nothing is there."""
    if not path:
        return "folder"
    kind: str | None = value(connection, f"SELECT kind FROM files WHERE {MINE} AND path = ?", (*place, path))
    return kind


def make_folders(connection: apsw.Connection, place: Place, paths: list[str], now: float) -> None:
    for path in paths:
        there = kind_of(connection, place, path)
        if there == "file":
            raise Conflict(f"'{path}' is a file, so nothing can be below it", code="not_a_folder", param="path")
        if there is None:
            _insert(connection, place, path, "folder", now)


def _insert(connection: apsw.Connection, place: Place, path: str, kind: str, now: float) -> int:
    _keep_one_more(connection, place, 1, 0)
    connection.execute(
        "INSERT INTO files(owner, agent, path, parent, kind, size, version, modified) VALUES (?, ?, ?, ?, ?, 0, ?, ?)",
        (*place, path, parent_of(path), kind, int(kind == "folder"), now),
    )
    return connection.last_insert_rowid()


def _keep_one_more(connection: apsw.Connection, place: Place, entries: int, size: int) -> None:
    """Count a new entry or version. Raises TooLarge."""
    there = kept(connection, "storage", *place)
    if there.entries + entries > MAX_ENTRIES:
        raise TooLarge(
            f"an agent may keep {MAX_ENTRIES:,} files and folders, its trash among them; {HOW_TO_MAKE_ROOM}",
            code="too_many_files",
        )
    if there.bytes + size > MAX_BYTES:
        raise TooLarge(
            f"an agent may keep {MAX_BYTES:,} bytes of files, older versions and its trash among them, and this would "
            f"be {there.bytes + size:,}; {HOW_TO_MAKE_ROOM}",
            code="storage_of_agent_full",
        )
    add_kept(connection, "storage", *place, entries, size)


def leave_trash(connection: apsw.Connection, place: Place, path: str) -> Count:
    """What is in the trash at `path` and below, "" being all of it, is to go for good: nothing brings it back."""
    below, bindings = _below(path)
    connection.execute(
        f"UPDATE files SET trashed = ? WHERE owner = ? AND agent = ? AND trashed > ? AND {below}",
        (LEAVING, *place, LEAVING, *bindings),
    )
    return Count(count=connection.changes())


def places_with_leaving(connection: apsw.Connection) -> list[Place]:
    """Whose trash holds something that is to go for good."""
    found = rows(connection, "SELECT DISTINCT owner, agent FROM files WHERE trashed = ?", (LEAVING,))
    return [Place(*place) for place in found]


def drop_leaving(connection: apsw.Connection, place: Place) -> tuple[int, set[bytes]]:
    """Take some of what is to go out of the store: how many, and contents that are files which nothing names now."""
    sql = "SELECT id FROM files WHERE owner = ? AND agent = ? AND trashed = ? LIMIT ?"
    ids = [id for (id,) in rows(connection, sql, (*place, LEAVING, TRASH_STEP))]
    return len(ids), set().union(*(_forget(connection, place, id) for id in ids))


def _forget(connection: apsw.Connection, place: Place, id: int) -> set[bytes]:
    """Take a file and its versions out of the store; contents that are now files without a name."""
    found = rows(connection, "DELETE FROM versions WHERE file = ? RETURNING hash, size", (id,))
    connection.execute("DELETE FROM files WHERE id = ?", (id,))
    add_kept(connection, "storage", *place, -1, -sum(size + VERSION_BYTES for _, size in found))
    return {hash for hash in {bytes(hash) for hash, _ in found} if remove(connection, hash)}


def add_version(connection: apsw.Connection, place: Place, path: str, content: Content, now: float) -> Version:
    found = row(connection, f"SELECT id, version FROM files WHERE {MINE} AND path = ?", (*place, path))
    id, newest = found or (_insert(connection, place, path, "file", now), 0)
    _keep_one_more(connection, place, 0, content.size + VERSION_BYTES)
    add(connection, content)
    connection.execute("INSERT INTO versions VALUES (?, ?, ?, ?, ?)", (id, newest + 1, content.hash, content.size, now))
    connection.execute(
        "UPDATE files SET version = ?, size = ?, modified = ? WHERE id = ?", (newest + 1, content.size, now, id)
    )
    return Version(path=path, version=newest + 1)


def find_version(connection: apsw.Connection, place: Place, path: str, version: int | None) -> tuple[bytes, int]:
    """Hash and number of a version, the newest unless one is named."""
    found = row(connection, f"SELECT id, kind, version FROM files WHERE {MINE} AND path = ?", (*place, path))
    if found is None:
        raise _no_path(connection, place, path)
    id, kind, newest = found
    if kind == "folder":
        raise BadRequest(f"'{path}' is a folder; sto_list shows what is in it", code="is_a_folder", param="path")
    hash = value(connection, "SELECT hash FROM versions WHERE file = ? AND version = ?", (id, version or newest))
    if hash is None:
        raise NotFound(
            f"'{path}' has no version {version}; the newest is {newest}", code="no_such_version", param="version"
        )
    return bytes(hash), version or newest


def list_below(connection: apsw.Connection, place: Place, path: str) -> Listing:
    there = kind_of(connection, place, path)
    if there is None:
        raise _no_path(connection, place, path)
    where = "path" if there == "file" else "parent"
    found = rows(connection, f"SELECT {_STAT} FROM files WHERE {MINE} AND {where} = ? ORDER BY path", (*place, path))
    return Listing(
        entries=[Stat(path=p, kind=k, size=s, version=v, modified=m) for p, k, s, v, m in found],
    )


def clear(connection: apsw.Connection, place: Place, path: str, now: float) -> Count:
    """Into the trash: the path and all below it."""
    if kind_of(connection, place, path) is None:
        raise _no_path(connection, place, path)
    below, bindings = _below(path)
    connection.execute(f"UPDATE files SET trashed = ? WHERE {MINE} AND {below}", (now, *place, *bindings))
    return Count(count=connection.changes())


def _below(path: str) -> tuple[str, tuple[str, ...]]:
    """A condition that holds of `path` and all below it, and what it binds."""
    if not path:
        return "TRUE", ()
    # "0" is the character after "/": the range holds what is below the path, and is served by the index.
    return "(path = ? OR (path >= ? AND path < ?))", (path, f"{path}/", f"{path}0")


def _no_path(connection: apsw.Connection, place: Place, path: str) -> NotFound:
    """With the nearest name in the last folder above `path` that is there."""
    above = ["", *folders_of(path)]
    folder = next(each for each in reversed(above) if kind_of(connection, place, each) == "folder")
    start = f"{folder}/" if folder else ""
    sql = f"SELECT path FROM files WHERE {MINE} AND parent = ? LIMIT ?"
    names = [known[len(start) :] for (known,) in rows(connection, sql, (*place, folder, MAX_SIBLINGS))]
    near = nearest_name(path[len(start) :].partition("/")[0], names)
    hint = f"did you mean '{start}{near}'?" if near else "sto_list shows what is there"
    return NotFound(f"this agent has no file or folder '{path[:200]}'; {hint}", code="no_such_path", param="path")

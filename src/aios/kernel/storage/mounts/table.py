"""The mounts of a home, as jobs on the store, and which folders of the machine may be one. Knows no call and no file.

Mounts are an agent's (owner and agent), or shared (both "").
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import apsw

from aios.abi.errors import BadRequest, Conflict, Denied, NotFound

from ...database import row, rows
from ...spaces import Scope
from . import intents
from .beneath import Identity

SYSTEM = ("/proc", "/sys", "/dev")
"""Folders of things that look like files and are none."""
_COLUMNS = "owner, agent, name, folder, device, inode, is_read_only, is_configured, created"


class MountRow(NamedTuple):
    """`folder` is absolute, or for one of the kernel's own from its home on. `identity` is of the folder as it was last
    seen, None before that."""

    scope: Scope
    folder: str
    identity: Identity | None
    is_read_only: bool
    is_configured: bool
    created: float


def all_rows(connection: apsw.Connection) -> list[MountRow]:
    return [_row(*found) for found in rows(connection, f"SELECT {_COLUMNS} FROM mounts ORDER BY name, owner, agent")]


def find(connection: apsw.Connection, scope: Scope) -> MountRow | None:
    found = row(connection, f"SELECT {_COLUMNS} FROM mounts WHERE owner = ? AND agent = ? AND name = ?", scope)
    return None if found is None else _row(*found)


def put(connection: apsw.Connection, mount: MountRow) -> None:
    connection.execute(
        f"INSERT OR REPLACE INTO mounts({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *mount.scope,
            mount.folder,
            *(mount.identity or (None, None)),
            mount.is_read_only,
            mount.is_configured,
            mount.created,
        ),
    )


def remove(connection: apsw.Connection, scope: Scope) -> None:
    """Raises NotFound."""
    connection.execute("DELETE FROM mounts WHERE owner = ? AND agent = ? AND name = ?", scope)
    if not connection.changes():
        raise no_such_mount(scope)
    intents.drop_all(connection, scope)


def check_free(connection: apsw.Connection, scope: Scope) -> None:
    """Raises Conflict when the name is that of a mount, or of something at the top of an agent's files, which would not
    be seen any more."""
    if find(connection, scope) is not None:
        raise Conflict(
            f"{_whose(scope)} a mount '{scope.mount}' already: choose another name, or unmount that one "
            f"('aios fs unmount {scope.mount}')",
            code="mount_exists",
            param="name",
        )
    hidden = row(
        connection,
        "SELECT scopes.agent, kind FROM scopes JOIN files ON scope = scopes.id"
        " WHERE mount = '' AND (?1 = '' OR (owner = ?1 AND agent = ?2))"
        " AND parent = 0 AND files.name = ?3 AND trashed IS NULL LIMIT 1",
        scope,
    )
    if hidden is not None:
        raise Conflict(
            f"agent '{hidden[0][:80]}' has a {hidden[1]} '{scope.mount}' among its own files, which the mount would "
            "hide: choose another name, or move that",
            code="mount_would_hide",
            param="name",
        )


def no_such_mount(scope: Scope) -> NotFound:
    return NotFound(
        f"{_whose(scope)} no mount '{scope.mount[:80]}'; 'aios fs mounts' lists them, and whose they are",
        code="no_such_mount",
        param="name",
    )


def is_used(connection: apsw.Connection, scope: Scope) -> bool:
    """Whether the store has files of that mount."""
    sql = (
        "SELECT 1 FROM scopes JOIN files ON scope = scopes.id"
        " WHERE owner = ? AND agent = ? AND mount = ? AND parent = 0 AND trashed IS NULL LIMIT 1"
    )
    return row(connection, sql, scope) is not None


def _row(
    owner: str, agent: str, name: str, folder: str, device: int | None, inode: int | None, *rest: float
) -> MountRow:
    identity = None if device is None or inode is None else Identity(device, inode)
    is_read_only, is_configured, created = rest
    return MountRow(Scope(owner, agent, name), folder, identity, bool(is_read_only), bool(is_configured), created)


def _whose(scope: Scope) -> str:
    return f"agent '{scope.agent[:80]}' has" if scope.owner else "groups have"


# ── folders ──


def real_folder(folder: str, home: Path, *, must_be_there: bool = True) -> str:
    """`folder` without links, if it may be mounted. Blocks. Raises BadRequest, Denied, NotFound."""
    if not folder.startswith("/") or "\0" in folder:
        raise BadRequest(
            f"the folder {folder[:200]!r} is not absolute: write the whole path, from '/' on",
            code="bad_folder",
            param="folder",
        )
    real = os.path.realpath(folder)
    _check_place(real, home)
    try:
        os.scandir(real).close()
    except FileNotFoundError:
        if must_be_there:
            raise NotFound(f"there is no folder '{folder[:200]}'", code="no_such_folder", param="folder") from None
    except NotADirectoryError:
        raise BadRequest(f"'{folder[:200]}' is not a folder", code="bad_folder", param="folder") from None
    except OSError as error:
        raise Denied(
            f"the kernel's user cannot read '{folder[:200]}' ({error.strerror}): its owner can allow it (chmod)",
            code="folder_denied",
            param="folder",
        ) from None
    return real


def _check_place(real: str, home: Path) -> None:
    """Raises Denied for what no agent may be shown."""
    kernel = os.path.realpath(home)
    if real == "/":
        why = "it is the whole machine"
    elif _overlap(real, kernel):
        why = "it is, holds or lies in the kernel's home"
    elif any(_overlap(real, system) for system in SYSTEM):
        why = "what looks like files there is the system itself"
    else:
        return
    raise Denied(f"'{real[:200]}' cannot be mounted: {why}", code="folder_denied", param="folder")


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")

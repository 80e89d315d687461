"""A home's memory and files, copied while a kernel works on it, and put back. Knows the store's files, and no room.

What is copied: the database, as it is at one moment, every large chunk that it names, the configuration, and the
folders that the kernel made for mounts, as their files are when they are come to. Not the keys in files (`admin.key`: a
home makes itself another), nor suspended generations, which are computed again, nor mounted folders of the machine.

Chunks are never changed and each has a name of its own, so they are copied first, then the database, then those that it
names and that came between; one that left between is no longer named by a copy that is made once more.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from aios.abi.errors import BadRequest

from .check import check_home
from .database import HomeError, HomeLock, rows
from .storage.blobs import Blobs

NAME, CONFIG = "aios.db", "aios.toml"
MOUNTS = "mounts"
MARK = "backup.json"
"""Says in a backup what it is, and is written last: without it a backup was cut off."""
RESTORING = "restoring"
"""In a home: a restore has begun to put files in place."""
TRIES = 5
FORMAT = 1
Tell = Callable[[int, int], None]
"""Told how many chunks are copied, of how many."""


class Backup(NamedTuple):
    """What a backup holds."""

    taken: float
    chunks: int
    bytes: int


def take_backup(home: Path, target: Path, *, tell: Tell = lambda done, total: None) -> Backup:
    """Copy what `home` holds to `target`, a folder that is not there yet or empty. Raises BadRequest, HomeError."""
    if not (home / NAME).is_file():
        raise HomeError(f"{home} holds nothing to back up: there is no {NAME} in it")
    _make_empty(target)
    try:
        named = _copied(home, target, tell)
        with contextlib.suppress(FileNotFoundError):
            _copy(home / CONFIG, target / CONFIG)
        _copy_tree(home / MOUNTS, target / MOUNTS)
        total = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        taken = Backup(time.time(), len(named), total)
        os.sync()  # the mark is to mean that all else is on the disk
        (target / MARK).write_text(json.dumps({"format": FORMAT, **taken._asdict()}))
    except OSError as error:
        raise HomeError(f"the backup is not whole: {error.filename or target}: {error.strerror or error}") from None
    return taken


def _make_empty(target: Path) -> None:
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_empty = not any(target.iterdir())
    except OSError as error:
        raise BadRequest(f"{target} cannot be written: {error.strerror}", param="target") from None
    if not is_empty:
        raise BadRequest(f"{target} is not empty: name a folder that is, or a new one", param="target")


def _copied(home: Path, target: Path, tell: Tell) -> list[Path]:
    """The database and all that it names; paths of chunks below the folder of chunks."""
    for _ in range(TRIES):
        _copy_chunks(home, target, _all_chunks(home / "blobs"), tell)
        snapshot(home / NAME, target / NAME)
        named = chunks_named(target / NAME)
        if _copy_chunks(home, target, named, tell):
            _drop_others(target / "blobs", set(named))
            return named
    raise HomeError(
        "the backup is not whole: files that the store names are missing, or come and go faster than they can be "
        "copied; 'aios fs check' says which is the case"
    )


def snapshot(source: Path, target: Path) -> None:
    """The database as it is at one moment, in one file."""
    target.unlink(missing_ok=True)
    connection = apsw.Connection(os.fspath(source), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.set_busy_timeout(60_000)
        connection.execute("VACUUM INTO ?", (os.fspath(target),))
    except apsw.Error as error:
        raise HomeError(f"{source} cannot be copied: {error}") from None
    finally:
        connection.close()
    target.chmod(0o600)


def chunks_named(database: Path) -> list[Path]:
    connection = apsw.Connection(os.fspath(database), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        found: list[tuple[Any, Any]] = rows(connection, "SELECT hash, token FROM chunks WHERE token IS NOT NULL")
    finally:
        connection.close()
    blobs = Blobs(Path(), durable=False)
    return [blobs.path(hash, token) for hash, token in found]


def _all_chunks(folder: Path) -> list[Path]:
    return [path.relative_to(folder) for path in sorted(folder.glob("??/*")) if path.is_file()]


def _copy_chunks(home: Path, target: Path, chunks: list[Path], tell: Tell) -> bool:
    """Whether all of them are there now."""
    are_all = True
    for n, chunk in enumerate(chunks):
        to = target / "blobs" / chunk
        if not to.exists():
            to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                _copy(home / "blobs" / chunk, to)
            except FileNotFoundError:
                are_all = False
        tell(n + 1, len(chunks))
    return are_all


def _copy(source: Path, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    shutil.copyfile(source, part)
    part.chmod(0o600)
    part.replace(target)


def _copy_tree(source: Path, target: Path) -> None:
    """Plain files and folders, as they are; what comes and goes meanwhile may be there or not."""
    for folder, _, names in os.walk(source):
        to = target / Path(folder).relative_to(source)
        to.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in names:
            path = Path(folder) / name
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and not path.is_symlink():
                    shutil.copyfile(path, to / name)


def _drop_others(folder: Path, named: set[Path]) -> None:
    for chunk in _all_chunks(folder):
        if chunk not in named:
            (folder / chunk).unlink()


# ── back ──


class Restored(NamedTuple):
    """`before` is where what the home held is now, None if it held nothing."""

    backup: Backup
    before: Path | None


def restore_backup(
    source: Path, home: Path, *, ask: Callable[[], None] = lambda: None, tell: Tell = lambda done, total: None
) -> Restored:
    """Put a backup in place of what `home` holds, which stays beside it. No kernel may run there. The copy is checked
    whole before anything is replaced; `ask` is called before that, and may raise to leave all as it is. Raises
    BadRequest, HomeError."""
    taken = _read_mark(source)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(home):
        ask()
        fresh = home / "restore.part"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        try:
            shutil.copyfile(source / NAME, fresh / NAME)
            (fresh / NAME).chmod(0o600)
            if not _copy_chunks(source, fresh, chunks_named(fresh / NAME), tell):
                raise BadRequest(f"{source} is not whole: chunks of files are missing in it", param="source")
            _copy_tree(source / MOUNTS, fresh / MOUNTS)
            with contextlib.suppress(FileNotFoundError):
                _copy(source / CONFIG, fresh / CONFIG)
        except (OSError, apsw.Error) as error:
            raise BadRequest(f"{source} cannot be restored: {error}", param="source") from None
        if found := check_home(fresh):
            shutil.rmtree(fresh)
            raise BadRequest(
                f"{source} is damaged ({found[0].where}: {found[0].what}); nothing was replaced", param="source"
            )
        _keep_mounts(fresh)
        return Restored(taken, _put_in_place(fresh, home))


def _read_mark(source: Path) -> Backup:
    try:
        told = json.loads((source / MARK).read_text())
        if told.pop("format") != FORMAT:
            raise BadRequest(f"{source} was made by a newer kernel: restore it with that one", param="source")
        return Backup(**told)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BadRequest(f"{source} is no whole backup: there is no readable {MARK} in it", param="source") from None


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    lock = HomeLock.take(home)
    try:
        yield
    finally:
        lock.free()


def _keep_mounts(fresh: Path) -> None:
    """Folders that the kernel made for mounts are in this home now, wherever it was before, and are other ones."""
    connection = apsw.Connection(os.fspath(fresh / NAME))
    try:
        for *which, folder in rows(connection, "SELECT owner, agent, name, folder FROM mounts"):
            own = Path(folder).name
            if Path(folder).parent.name == MOUNTS and (fresh / MOUNTS / own).is_dir():
                sql = "UPDATE mounts SET folder = ?, device = NULL, inode = NULL WHERE (owner, agent, name) = (?, ?, ?)"
                connection.execute(sql, (f"{MOUNTS}/{own}", *which))
    finally:
        connection.close()


def _put_in_place(fresh: Path, home: Path) -> Path | None:
    """A kernel that finds `RESTORING` does not begin: this was cut off between two moves, and is to be done again."""
    (home / RESTORING).write_text("'aios fs restore' was cut off\n")
    old = [
        home / name for name in (NAME, f"{NAME}-wal", f"{NAME}-shm", "blobs", MOUNTS, "swap") if (home / name).exists()
    ]
    before = home / time.strftime("before-restore-%Y%m%d-%H%M%S") if old else None
    if before is not None:
        before.mkdir(mode=0o700, exist_ok=True)
        for path in old:
            path.rename(before / path.name)
    for path in sorted(fresh.iterdir(), reverse=True):  # the chunks before what names them
        if path.name in (NAME, "blobs", MOUNTS) or (path.name == CONFIG and not (home / CONFIG).exists()):
            path.rename(home / path.name)
    os.sync()  # the mark may go when what it stands for is on the disk
    (home / RESTORING).unlink()
    shutil.rmtree(fresh, ignore_errors=True)
    return before

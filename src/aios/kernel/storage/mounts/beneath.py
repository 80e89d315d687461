"""Files and folders beneath one folder of the machine, and nothing else of it. Knows no agent, no table, no version.

Every step from the folder down is one `openat` of one name in a folder that is open, never a path that is put together
and looked up: `..` is no name, a link is not followed, and a folder that is swapped for a link on the way is a link.
The folder itself is found again in the same way for each operation, so that no disk is kept busy by us.
All methods block; those of one object may be called from several threads. Paths are clean ones (`base.py`), and ""
is the folder itself.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import secrets
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import NamedTuple

from aios.abi.errors import AiosError, Conflict, NotFound

from ..base import MAX_DEPTH
from .exchange import rename_new
from .faults import Gone, is_a_folder, is_folder, is_there, told
from .naming import LIST, OURS, check_names, find_name, fits, is_nameable, listed_as, normal, path_name, readable
from .staged import MAX_INTEGER, Signature, Staged

_THROUGH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
"""A folder on the way: it need not be readable, only entered."""
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | getattr(os, "O_NOFOLLOW", 0)
LEFT = 3600.0
"""Seconds after which what has a name of ours was left by a crash. Another kernel may be at the same folder."""
SPARE = 100
"""Names that are read with a page, since some may be of what is not shown."""
STEP = 500
"""Entries that a walk yields together."""


class Identity(NamedTuple):
    """Which folder it is, whatever it is called."""

    device: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> Identity:
        return cls(found.st_dev & MAX_INTEGER, found.st_ino & MAX_INTEGER)


class Entry(NamedTuple):
    """A file or a folder."""

    path: str
    is_folder: bool
    signature: Signature


class Batch(NamedTuple):
    """Some of what is in a folder; `is_last` when that was all, None when the rest cannot be read."""

    folder: str
    entries: list[Entry]
    is_last: bool | None


class Beneath:
    """What lies beneath `folder`, an absolute path without links. Agents call it `name`."""

    def __init__(self, folder: str, name: str = "", *, durable: bool = False) -> None:
        self.folder = folder
        self._name = name
        self.identity: Identity | None = None
        """Of the folder that is meant; until it is set, any that is there."""
        self._durable = durable

    def look(self) -> Identity:
        """Which folder is there now, the one that is meant or another. Raises Gone."""
        with self._root(meant=False) as root:
            found = os.fstat(root)
            return Identity.of(found)

    def is_empty(self) -> bool:
        """Whether nothing at all is in it, whichever folder it is."""
        with self._root(meant=False) as root, readable(root) as opened:
            return not os.listdir(opened)

    def odd(self, path: str) -> str | None:
        """Something at or below the folder `path` that no path can name, or that is neither file nor folder; None when
        all of it can be listed."""
        with self._folder(path) as folder, readable(folder) as opened, os.scandir(opened) as found:
            folders = []
            for each in found:
                if OURS.fullmatch(each.name):
                    continue  # of a write that has not come to its place, or was cut short: it is no loss
                name = path_name(each)
                inner = f"{path}/{name}"
                if not name or not fits(inner):
                    return f"{path}/{each.name}"
                if each.is_dir(follow_symlinks=False):
                    folders.append(inner)
        if folders and not _has_room(path):
            return folders[0]
        return next((odd for inner in folders if (odd := self.odd(inner)) is not None), None)

    # ── looking ──

    def stat(self, path: str) -> Entry:
        """Raises NotFound; Denied for a link, BadRequest for what is neither file nor folder."""
        if not path:
            with self._root() as root:
                return Entry("", True, Signature.of(os.fstat(root)))
        with self._above(path) as (folder, name):
            found = os.stat(listed_as(folder, name), dir_fd=folder, follow_symlinks=False)
            return Entry(path, is_folder(self._shown(path), found), Signature.of(found))

    def find(self, path: str) -> Entry | None:
        """As `stat`; None when nothing is there."""
        try:
            return self.stat(path)
        except NotFound:
            return None

    def open(self, path: str) -> tuple[int, Signature]:
        """A descriptor of the regular file, to be closed by the caller, and what the file looks like."""
        shown = self._shown(path)
        if not path:
            raise is_a_folder(shown)
        with self._above(path) as (folder, name):
            name = listed_as(folder, name)
            if is_folder(shown, os.stat(name, dir_fd=folder, follow_symlinks=False)):
                raise is_a_folder(shown)
            descriptor = os.open(name, _READ, dir_fd=folder)
            try:
                found = os.fstat(descriptor)
                if is_folder(shown, found):  # it was swapped in this moment
                    raise is_a_folder(shown)
            except BaseException:
                os.close(descriptor)
                raise
            return descriptor, Signature.of(found)

    def list(self, path: str, *, after: str = "", limit: int = 1000) -> tuple[list[Entry], bool]:
        """Up to `limit` entries of the folder whose names come after `after`, in order, and whether there are more.
        Links, and what is neither file nor folder or has a name that no path can hold, are left out."""
        start = f"{path}/" if path else ""
        with self._folder(path) as folder, readable(folder) as opened:
            entries: list[Entry] = []
            while names := _first_names(opened, after, limit + 1 - len(entries) + SPARE):
                entries += [e for name in names if (e := _entry(opened, start, name)) is not None]
                if len(entries) > limit:
                    return entries[:limit], True
                after = names[-1]
            return entries, False

    def walk(self, path: str = "", enter: Callable[[str, int], None] | None = None) -> Generator[Batch, None, None]:
        """All that `list` would show, folder by folder, some entries at a time, from `path` down as far as paths reach.
        A folder that cannot be read, or is gone when its turn comes, has one batch that says so. `enter` is told each
        folder, and a descriptor of it, before it is read."""
        waiting = [path]
        while waiting:
            folder = waiting.pop()
            below: list[str] = []
            for batch in self._batches(folder, enter):
                below += [each.path for each in batch.entries if each.is_folder and _has_room(each.path)]
                yield batch
            waiting += reversed(below)

    def _batches(self, path: str, enter: Callable[[str, int], None] | None) -> Iterator[Batch]:
        start = f"{path}/" if path else ""
        try:
            with self._folder(path) as folder, readable(folder) as opened, os.scandir(opened) as found:
                if enter is not None:
                    enter(path, opened)
                entries: list[Entry] = []
                for each in found:
                    name = path_name(each)
                    if name and fits(start + name) and (entry := _entry(opened, start, name)) is not None:
                        entries.append(entry)
                    if len(entries) == STEP:
                        yield Batch(path, entries, False)
                        entries = []
                yield Batch(path, entries, True)
        except Gone:
            raise
        except AiosError:
            yield Batch(path, [], None)

    # ── changing ──

    def make_folder(self, path: str) -> None:
        """With those above it. Raises Conflict when something is there."""
        if not path:
            raise is_there(self._shown(path))
        with self._above(path, make=True) as (folder, name):
            if find_name(folder, name) is not None:
                raise is_there(self._shown(path))
            os.mkdir(name, dir_fd=folder)
            self._sync(folder)

    def stage(self, path: str) -> Staged:
        """A new content for the file `path`, which is there once it is committed. Makes the folders above."""
        if not path:
            raise Conflict("the mount itself is a folder; a file needs a name", code="path_exists", param="path")
        with self._above(path, make=True) as (folder, _):
            above = partial(self._above, path)
            return Staged(self._shown(path), os.dup(folder), above, durable=self._durable)

    def move(self, path: str, to: str) -> None:
        """Raises Conflict when something is at `to`."""
        with self._above(path) as (source, name), self._above(to, make=True) as (target, new):
            name = listed_as(source, name)
            is_folder(self._shown(path), os.stat(name, dir_fd=source, follow_symlinks=False))
            if find_name(target, new) is not None:
                raise is_there(self._shown(to), "to")
            rename_new(name, new, source, target)
            self._sync(target)
            self._sync(source)

    def set_aside(self, path: str, aside: str = "") -> str:
        """Give the file or folder a name of ours, in the folder that it is in, `aside` or a new one; the path of
        that."""
        with self._above(path) as (folder, name):
            name = listed_as(folder, name)
            is_folder(self._shown(path), os.stat(name, dir_fd=folder, follow_symlinks=False))
            aside = aside or fresh_aside()
            os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
            self._sync(folder)
        return f"{path[: path.rfind('/') + 1]}{aside}"

    def put_back(self, aside: str, path: str) -> None:
        """Undo `set_aside`, or give it its place. Raises Conflict when something else is at `path` by now."""
        new = path.rpartition("/")[2]
        with self._above(aside) as (folder, name):
            if find_name(folder, new) is not None:
                raise is_there(self._shown(path))
            rename_new(name, new, folder, folder)
            self._sync(folder)

    def remove(self, path: str) -> None:
        """A file, or a folder and all below it; links among that as what they are. What is gone is no fault."""
        with self._above(path) as (folder, name):
            _remove(folder, name)
            self._sync(folder)

    def sweep(self, folder: int) -> None:
        """Remove what a crash has left in the folder of that descriptor: nothing of it was ever acknowledged, or all of
        it is in the store."""
        for name in filter(OURS.fullmatch, os.listdir(folder)):
            with contextlib.suppress(OSError):
                if time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_ctime > LEFT:
                    _remove(folder, name)

    # ── one step at a time ──

    @contextlib.contextmanager
    def _root(self, *, meant: bool = True) -> Iterator[int]:
        """The folder itself, from the top of the machine down, so that no link leads there either. With `meant` only
        if it is the folder that is meant."""
        try:
            opened = os.open("/", _THROUGH)
            for name in self.folder.split("/"):
                opened = _enter(opened, name) if name else opened
        except OSError as error:
            raise Gone.because(error.strerror or str(error)) from None
        try:
            found = os.fstat(opened)
            if meant and self.identity not in (None, Identity.of(found)):
                raise Gone.because("another folder is in its place")
            yield opened
        finally:
            os.close(opened)

    @contextlib.contextmanager
    def _folder(self, path: str, *, make: bool = False) -> Iterator[int]:
        """The folder `path`, for use by its descriptor."""
        check_names(path)
        with self._root() as root, told(self._shown(path)):
            opened = os.dup(root)
            for name in path.split("/") if path else ():
                opened = _go_on(opened, name, make=make)
            try:
                yield opened
            finally:
                os.close(opened)

    @contextlib.contextmanager
    def _above(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The folder that holds `path`, and the name in it."""
        above, _, name = path.rpartition("/")
        check_names(path)
        with self._folder(above, make=make) as folder, told(self._shown(path)):
            yield folder, name

    def _shown(self, path: str) -> str:
        """As agents write it. What has a name of ours stands for what it will be, or was."""
        parts = [self._name, *path.split("/")]
        return "/".join(part for part in parts if part and not OURS.fullmatch(part))

    def _sync(self, folder: int) -> None:
        if self._durable:
            with readable(folder) as opened:
                os.fsync(opened)


def fresh_aside() -> str:
    return f".aios-{secrets.token_hex(8)}.gone"


def _enter(folder: int, name: str) -> int:
    """The folder `name` in `folder`, which is closed in any case."""
    try:
        return os.open(name, _THROUGH, dir_fd=folder)
    finally:
        os.close(folder)


def _go_on(folder: int, name: str, *, make: bool) -> int:
    """As `_enter`, by what `name` is called there. With `make` it is made if nothing is there."""
    try:
        there = _way(folder, name, make=make)
    except BaseException:
        os.close(folder)
        raise
    return _enter(folder, there)


def _way(folder: int, name: str, *, make: bool) -> str:
    there = find_name(folder, name) if make else listed_as(folder, name)
    if there is None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
        return name
    if not is_folder(name, os.stat(there, dir_fd=folder, follow_symlinks=False)):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return there


def _first_names(folder: int, after: str, count: int) -> list[str]:
    """The first names of the folder that come after `after`, in order, whatever has them."""
    os.lseek(folder, 0, os.SEEK_SET)
    with os.scandir(folder) as found:
        names = (name if name.isascii() else normal(name) for each in found if (name := each.name))
        return list(dict.fromkeys(heapq.nsmallest(count, (name for name in names if name > after))))


def _entry(folder: int, start: str, name: str) -> Entry | None:
    """What is called `name`; None when it has just gone, or is nothing that is shown."""
    if not is_nameable(name):
        return None
    try:
        found = os.stat(listed_as(folder, name), dir_fd=folder, follow_symlinks=False)
        return Entry(start + name, is_folder(name, found), Signature.of(found))
    except (OSError, AiosError):
        return None


def _has_room(folder: str) -> bool:
    """Whether a path can name what is in the folder: the mount's name and one more come with it."""
    return folder.count("/") + 3 <= MAX_DEPTH


def _remove(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):  # a folder: Linux says the one, others the other
        inner = os.open(name, LIST, dir_fd=folder)
        try:
            for each in os.listdir(inner):
                _remove(inner, each)
        finally:
            os.close(inner)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(name, dir_fd=folder)

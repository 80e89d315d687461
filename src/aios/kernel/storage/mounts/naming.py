"""Names in mounted folders: what a name of a path is called there, and which names there a path can hold.

A file system may fold names: capital and small letters, normal forms of Unicode, characters that nobody sees. A file
then answers to many names, and is meant by the one that its folder lists only. Knows no path and no mount.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import unicodedata
from collections.abc import Iterator

from aios.abi.errors import BadRequest, Conflict

from ..base import MAX_PATH

OURS = re.compile(r"\.aios-[0-9a-f]{16}\.(part|gone)")
"""What is written and not in its place yet, and what is about to leave."""
MAX_NAME = 255
"""Bytes of one name: what file systems take."""
MAX_MOUNT_NAME = 64
LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)


def check_names(path: str) -> None:
    """Raises BadRequest for a path that no mounted folder can have. It may be "", the top."""
    for name in path.split("/") if path else ():
        if name in ("", ".", "..") or not _is_plain(name):
            why = "holds an empty name, '.', '..', a backslash, or what is no character to be read"
        elif len(name.encode()) > MAX_NAME:
            why = f"holds a name of more than {MAX_NAME} bytes"
        else:
            continue
        raise BadRequest(f"the path {path[:80]!r} {why}", code="bad_path", param="path")


def is_ours(path: str) -> bool:
    """Whether some name of `path` is one that the kernel keeps for itself."""
    return any(OURS.fullmatch(name) for name in path.split("/"))


def path_name(found: os.DirEntry[str]) -> str:
    """The entry's name as paths have it; "" for links, for what is neither file nor folder, and for names that no path
    can hold."""
    name = normal(found.name)
    if not is_nameable(name):
        return ""
    try:
        is_meant = found.is_file(follow_symlinks=False) or found.is_dir(follow_symlinks=False)
    except OSError:
        return ""
    return name if is_meant else ""


def normal(path: str) -> str:
    """In the normal form that paths have."""
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def is_nameable(name: str) -> bool:
    return _is_plain(name) and OURS.fullmatch(name) is None


def _is_plain(name: str) -> bool:
    if name.isascii():
        return name.isprintable() and "\\" not in name
    return "\\" not in name and not any(unicodedata.category(c) in ("Cc", "Cs") for c in name)


def fits(path: str) -> bool:
    """Whether an agent can name what is at `path` of a mount, whatever the mount is called."""
    return len(path) < MAX_PATH - MAX_MOUNT_NAME


def listed_as(folder: int, name: str) -> str:
    """As `find_name`. Raises FileNotFoundError."""
    found = find_name(folder, name)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return found


def find_name(folder: int, name: str) -> str | None:
    """What the file system calls `name`; None when nothing is there. Raises Conflict when it is another spelling of
    what is there, in a folder that does not tell them apart."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None if name.isascii() else _same_name(folder, name)
    if (twin := _twin(name)) is not None:
        try:
            other = os.stat(twin, dir_fd=folder, follow_symlinks=False)
        except OSError:
            return name
        if (other.st_dev, other.st_ino) == (found.st_dev, found.st_ino):
            return _exact_name(folder, name)
    return name


def _twin(name: str) -> str | None:
    """Another name, which is the same only where names are folded. Nothing is asked of the disk as a whole: folding is
    a property of each folder, and other disks may be mounted within."""
    twin = name.swapcase()
    if twin != name:
        return twin
    return None if name.isascii() else f"{name}\u200d"


def _exact_name(folder: int, name: str) -> str:
    there = _same_name(folder, name)
    if there is None:
        like = [each for each in _names(folder) if each.casefold() == name.casefold()]
        raise Conflict(
            f"'{name}' is called {repr(like[0]) if like else 'otherwise'} there, in a folder that does not tell such "
            "names apart: write it so",
            code="name_differs",
            param="path",
        )
    return there


def _same_name(folder: int, name: str) -> str | None:
    """The name that is listed and is `name`, perhaps in another normal form of Unicode."""
    names = _names(folder)
    if name in names:
        return name
    return next((each for each in names if not each.isascii() and unicodedata.normalize("NFC", each) == name), None)


def _names(folder: int) -> list[str]:
    with readable(folder) as opened:
        return os.listdir(opened)


@contextlib.contextmanager
def readable(folder: int) -> Iterator[int]:
    """`folder`, which may be open as a way only, open for reading."""
    opened = os.open(".", LIST, dir_fd=folder)
    try:
        yield opened
    finally:
        os.close(opened)

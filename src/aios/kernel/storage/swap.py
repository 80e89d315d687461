"""Bytes by key in a folder, within a budget: what need not stay in memory. Knows neither what they mean nor whose.

A file is there whole or not at all, and has a checksum; only the user may read it. It outlives the process, but need
not outlive the machine's power: nothing is synced, and what a crash has torn is found out by its checksum.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path

MAGIC = b"AIOSSWP1"
_HEAD = struct.Struct("<8sQI")
"""Magic, length of what follows, its CRC-32."""
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,199}")
_SUFFIX = ".swap"
_UNFINISHED = ".part"
_UNFINISHED_NAME = re.compile(r"(.+)\.swap\.[0-9]+\.part")

Buffer = bytes | memoryview


class SwapError(OSError):
    """What was to be kept cannot be, or is not there as it was put: which key, and why. `rest` is what could be read
    of a damaged one; `cause` is the operating system's word, if it said one."""

    def __init__(self, message: str, rest: Buffer = b"", cause: OSError | None = None) -> None:
        super().__init__(message)
        self.rest = rest
        self.cause = cause


class Swap:
    """One user's folder of at most `budget` bytes, file headers included. Methods block; any thread may call them.

    `open` comes first: it takes up what an earlier process left, and sweeps away what it had not finished.
    """

    def __init__(self, folder: Path, budget: int) -> None:
        self.folder = folder
        self.budget = budget
        self._sizes: dict[str, int] = {}
        self._bytes = 0
        """Of the files, and of those being written."""
        self._lock = threading.Lock()
        self._names = count()

    def open(self, is_own: Callable[[str], bool] = lambda key: True) -> list[str]:
        """Take up the files whose keys `is_own` knows, and remove those that were not finished. Returns the names of
        all else that is there, which is left alone and not counted. Raises OSError when the folder cannot be used."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sizes, foreign = dict[str, int](), list[str]()
        with os.scandir(self.folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                key, is_finished = _key_of(entry.name)
                if not (_KEY.fullmatch(key) and is_own(key) and entry.is_file(follow_symlinks=False)):
                    foreign.append(entry.name)
                elif is_finished:
                    sizes[key] = entry.stat(follow_symlinks=False).st_size
                else:
                    with contextlib.suppress(OSError):  # it is tried again at the next start
                        os.unlink(entry.path)
        with self._lock:
            self._sizes, self._bytes = sizes, sum(sizes.values())
        return foreign

    def sizes(self) -> dict[str, int]:
        """Bytes on disk by key."""
        with self._lock:
            return dict(self._sizes)

    def put(self, key: str, parts: Iterable[Buffer]) -> int:
        """Keep `parts`, one after the other, in place of what was under `key`; returns the bytes that takes.

        Raises SwapError when the budget or the disk has no room: all is as before then.
        """
        path, parts = self._path(key), list(parts)
        length = sum(map(len, parts))
        size = _HEAD.size + length
        self._reserve(key, size)
        try:
            self._write(path, _head(parts, length), parts)
        except OSError as error:
            self._account(-size)
            raise SwapError(f"'{key}' cannot be kept on disk: {error.strerror}", cause=error) from None
        with self._lock:
            self._bytes -= self._sizes.get(key, 0)
            self._sizes[key] = size
        return size

    def get(self, key: str) -> memoryview:
        """What was put. Raises KeyError; SwapError when it is damaged or cannot be read, with what could be."""
        path = self._path(key)
        if key not in self._sizes:
            raise KeyError(key)
        try:
            data = memoryview(path.read_bytes())
        except OSError as error:
            raise SwapError(f"'{key}' cannot be read back: {error.strerror}", cause=error) from None
        body = data[_HEAD.size :]
        if len(data) < _HEAD.size or _HEAD.unpack_from(data) != (MAGIC, len(body), zlib.crc32(body)):
            raise SwapError(f"'{key}' is damaged on disk", body)
        return body

    def drop(self, key: str) -> None:
        """Forget `key`, which need not be there."""
        path = self._path(key)
        with self._lock:
            self._bytes -= self._sizes.pop(key, 0)
        with contextlib.suppress(OSError):  # what cannot be removed now is found at the next start
            path.unlink(missing_ok=True)

    def check_integrity(self) -> None:
        """Raises AssertionError when the folder, the sizes and the count of bytes do not agree. When idle."""
        found = {entry.name.removesuffix(_SUFFIX): entry.stat().st_size for entry in os.scandir(self.folder)}
        assert found == self._sizes, f"the folder holds {found}, and {self._sizes} is known"
        assert self._bytes == sum(found.values()) <= self.budget

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key[:80]!r} is no key: letters, digits and ._@- only, at most 200")
        return self.folder / (key + _SUFFIX)

    def _reserve(self, key: str, size: int) -> None:
        with self._lock:
            if self._bytes + size > self.budget:
                left = max(0, self.budget - self._bytes)
                raise SwapError(f"'{key}' takes {size} bytes, and {left} of {self.budget} are left")
            self._bytes += size

    def _account(self, change: int) -> None:
        with self._lock:
            self._bytes += change

    def _write(self, path: Path, head: bytes, parts: list[Buffer]) -> None:
        """Under another name first: what stands under `path` is always whole."""
        unfinished = path.with_name(f"{path.name}.{next(self._names)}{_UNFINISHED}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with open(os.open(unfinished, flags, 0o600), "wb", buffering=0) as file:
                for part in (head, *parts):
                    _write_all(file.fileno(), part)
            os.replace(unfinished, path)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise


def _key_of(name: str) -> tuple[str, bool]:
    """The key that a file of this name is of, and whether it is finished; "" for a name that is none of ours."""
    if unfinished := _UNFINISHED_NAME.fullmatch(name):
        return unfinished[1], False
    key = name.removesuffix(_SUFFIX)
    return key if key != name else "", True


def _head(parts: list[Buffer], length: int) -> bytes:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return _HEAD.pack(MAGIC, length, checksum)


def _write_all(descriptor: int, part: Buffer) -> None:
    rest = memoryview(part)
    while len(rest):
        rest = rest[os.write(descriptor, rest) :]

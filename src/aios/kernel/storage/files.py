"""Contents by their hash: small ones in the store, large ones as files that are renamed into place. Knows no paths.

A content is written before anything names it and never changed, so a crash leaves at worst one that nobody names.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections import Counter
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import apsw

from aios.abi.errors import ModuleFault, Stopping

from ..database import row

SMALL = 64 << 10
"""Bytes up to which a content lives in the database."""


class Content(NamedTuple):
    """`body` is None when the content is a file of its own."""

    hash: bytes
    size: int
    body: bytes | None


class Blobs:
    """The folder of large contents. Methods block: call them from a thread."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._folder = folder
        self._durable = durable
        self._lock = Lock()
        self._held: Counter[bytes] = Counter()
        self._spared: set[bytes] = set()
        """Somebody wanted to drop them while they were held."""

    def put(self, data: bytes) -> Content:
        """Keep `data`; what is returned may then be named in the store, and is held until `let_go`. Raises Stopping
        when the disk is full."""
        hash = sha256(data).digest()
        if len(data) <= SMALL:
            return Content(hash, len(data), data)
        content = Content(hash, len(data), None)
        with self._lock:
            self._held[hash] += 1
        path = self._path(hash)
        if not _is_whole(path, len(data)):
            try:
                self._write(path, data)
            except OSError as error:
                self.let_go(content)
                raise Stopping(
                    f"a file of {len(data):,} bytes cannot be kept in {self._folder} ({error.strerror}): nothing was "
                    "written; free some space there, or clear what is not needed (mem_clear, and sto_clear with "
                    "'trash'), and try again",
                    code="storage_full",
                    retry_after=5.0,
                ) from None
        return content

    def let_go(self, content: Content) -> bool:
        """It is named in the store now, or never will be. Whether somebody wanted to `drop` it meanwhile, so that
        this is to be done now."""
        hash = content.hash
        if content.body is not None:
            return False
        with self._lock:
            self._held[hash] -= 1
            if self._held[hash] > 0:
                return False
            del self._held[hash]
            was_spared = hash in self._spared
            self._spared.discard(hash)
            return was_spared

    def drop(self, hash: bytes, connection: apsw.Connection) -> None:
        """Remove a content that nothing in the store names, unless it is held: somebody is about to name it."""
        with self._lock:
            if hash in self._held:
                self._spared.add(hash)
            elif not is_named(connection, hash):
                self._path(hash).unlink(missing_ok=True)

    def get(self, hash: bytes) -> bytes:
        """The content of that hash. Raises ModuleFault when it is gone or is not what was written."""
        try:
            data = self._path(hash).read_bytes()
        except OSError as error:
            raise ModuleFault(f"content {hash.hex()[:16]} cannot be read: {error.strerror}", code="blob_lost") from None
        if sha256(data).digest() != hash:
            raise ModuleFault(f"content {hash.hex()[:16]} is damaged on the disk", code="blob_damaged")
        return data

    def _path(self, hash: bytes) -> Path:
        name = hash.hex()
        return self._folder / name[:2] / name

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                if self._durable:
                    file.flush()
                    os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        if self._durable:
            for folder in (path.parent, self._folder, self._folder.parent):
                _sync_folder(folder)


def _is_whole(path: Path, size: int) -> bool:
    """Whether a content of that size is there. One that nobody has named may have been cut off by a power failure."""
    with contextlib.suppress(OSError):
        return path.stat().st_size == size
    return False


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def add(connection: apsw.Connection, content: Content) -> None:
    """Name `content` in the store, once."""
    connection.execute("INSERT INTO contents VALUES (?, ?, ?) ON CONFLICT DO NOTHING", content)


def is_named(connection: apsw.Connection, hash: bytes) -> bool:
    return row(connection, "SELECT 1 FROM contents WHERE hash = ?", (hash,)) is not None


def body_of(connection: apsw.Connection, hash: bytes) -> bytes | None:
    """The content if it lives in the store, None if it is a file. Raises ModuleFault for one that is not known."""
    found = row(connection, "SELECT body FROM contents WHERE hash = ?", (hash,))
    if found is None:
        raise ModuleFault(f"content {hash.hex()[:16]} is not in the store", code="blob_lost")
    body: bytes | None = found[0]
    return body


def remove(connection: apsw.Connection, hash: bytes) -> bool:
    """Take a content out of the store if no version is it. True if that leaves a file to `drop`."""
    if row(connection, "SELECT 1 FROM versions WHERE hash = ? LIMIT 1", (hash,)) is not None:
        return False
    found = row(connection, "DELETE FROM contents WHERE hash = ? RETURNING body IS NULL", (hash,))
    return found is not None and bool(found[0])

"""Large chunks as files, named by their hash and a token that no other file ever has. Knows no table and no content.

A file is whole before anything names it, and never changed, so a crash leaves at worst one that nobody names. Since its
name is its own, whoever drops it drops nobody else's. A token says which `Blobs` wrote the file: so what an earlier one
left behind is told from what is just being written.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import count
from pathlib import Path

from aios.abi.errors import ModuleFault, Stopping

MAX_PIECES = 512
"""Pieces that are written at once: a system takes 1024."""
File = tuple[bytes, int]
"""Hash and token."""
OLD = 0
"""The token of files that an older kernel named by their hash alone."""
COUNT_BITS = 32
"""Of a token, which count the files of one `Blobs`; those above are drawn for it."""


class Blobs:
    """The folder of large chunks. Methods block: call them from a thread."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self.folder = folder
        self._durable = durable
        self._own = secrets.randbits(30) + 1
        self._count = count()

    def put(self, hash: bytes, pieces: Sequence[memoryview]) -> int:
        """Keep `pieces`, whose hash that is, one after the other: the token that they are found by. Raises Stopping
        when the disk is full."""
        token = self._own << COUNT_BITS | next(self._count)
        path = self.path(hash, token)
        try:
            _write(path, pieces, durable=self._durable)
        except OSError as error:
            self.drop(hash, token)
            raise self._not_kept(error) from None
        return token

    def sync(self, hashes: Iterable[bytes]) -> None:
        """In durable mode, until the names of these are on the disk too. Raises Stopping when they cannot be."""
        folders = {self.path(hash, OLD).parent for hash in hashes} if self._durable else set()
        try:
            for folder in (*folders, self.folder, self.folder.parent) if folders else ():
                _sync_folder(folder)
        except OSError as error:
            raise self._not_kept(error) from None

    def _not_kept(self, error: OSError) -> Stopping:
        return Stopping(
            f"a file's content cannot be kept in {self.folder} ({error.strerror}): nothing was written; free some "
            "space there, or clear what is not needed (mem_clear, and sto_clear with 'trash'), and try again",
            code="storage_full",
            retry_after=5.0,
        )

    def get(self, hash: bytes, token: int) -> bytes:
        """What was put. Raises ModuleFault when it is gone or is not what was written."""
        try:
            data = self.path(hash, token).read_bytes()
        except OSError as error:
            raise lost(hash, f"cannot be read: {error.strerror}") from None
        if sha256(data).digest() != hash:
            raise damaged(hash)
        return data

    def drop(self, hash: bytes, token: int) -> None:
        """What cannot be removed is found by 'aios fs check'."""
        with contextlib.suppress(OSError):
            self.path(hash, token).unlink()

    def drop_all(self, files: Iterable[File]) -> None:
        for file in files:
            self.drop(*file)

    def others(self) -> Iterator[set[File]]:
        """All files that this one has not written, some at a time."""
        for folder in _names(self.folder):
            files = {file for name in _names(self.folder / folder) if (file := file_of(name)) is not None}
            yield {(hash, token) for hash, token in files if token >> COUNT_BITS != self._own}

    def path(self, hash: bytes, token: int) -> Path:
        name = hash.hex()
        return self.folder / name[:2] / (name if token == OLD else f"{name}.{token:x}")


def file_of(name: str) -> File | None:
    """Which file is called so; None where none is."""
    hash, _, token = name.partition(".")
    try:
        return bytes.fromhex(hash), int(token, 16) if token else OLD
    except ValueError:
        return None


def lost(hash: bytes, why: str) -> ModuleFault:
    return ModuleFault(
        f"a part of this file ({hash.hex()[:16]}) {why}; 'aios fs check' says what else is hit, and what can be mended",
        code="blob_lost",
    )


def damaged(hash: bytes) -> ModuleFault:
    return ModuleFault(
        f"a part of this file ({hash.hex()[:16]}) is damaged on the disk; 'aios fs check' says what else is hit, and "
        "what can be mended",
        code="blob_damaged",
    )


def _write(path: Path, pieces: Sequence[memoryview], *, durable: bool) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        for begin in range(0, len(pieces), MAX_PIECES):
            _write_all(descriptor, list(pieces[begin : begin + MAX_PIECES]))
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, pieces: list[memoryview]) -> None:
    while pieces:
        written = os.writev(descriptor, pieces)
        while pieces and written >= len(pieces[0]):
            written -= len(pieces.pop(0))
        if pieces:
            pieces[0] = pieces[0][written:]


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

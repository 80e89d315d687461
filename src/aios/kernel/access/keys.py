"""API keys: 256 random bits, kept as SHA-256, shown once. Knows who a key stands for, not what it may do."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import apsw
from msgspec import Struct

from aios.abi.errors import AiosError, NotFound, Unauthorized

from ..database import Database, rows
from ..process import Principal

PREFIX = "sk-aios-"
_COLUMNS = "hash, id, owner, agent, pid, is_admin, name, created"


class KeyInfo(Struct, frozen=True, kw_only=True):
    """A key without its text. `created` is seconds since 1970."""

    id: str
    owner: str
    agent: str
    pid: int | None
    is_admin: bool
    name: str
    created: float


class Keys:
    """All keys that are valid now. The table is in memory; changes are written behind it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_hash: dict[bytes, tuple[Principal, KeyInfo]] = {}
        self._by_id: dict[str, bytes] = {}
        self._by_pid: dict[int, list[str]] = {}
        self._unwritten: dict[bytes, tuple[str, tuple[Any, ...]]] = {}
        """The last change of each key that is not known to be on disk."""
        for hash, *fields in database.read(lambda c: rows(c, f"SELECT {_COLUMNS} FROM keys ORDER BY created")):
            self._remember(bytes(hash), _info(fields))

    def mint(self, *, owner: str, agent: str, pid: int | None, is_admin: bool, name: str) -> tuple[str, str]:
        """A new key: its id and its text, which is nowhere kept. Valid at once; on disk with the next commit."""
        text = PREFIX + secrets.token_urlsafe(32)
        info = KeyInfo(
            id=f"key_{secrets.token_hex(8)}", owner=owner, agent=agent, pid=pid, is_admin=is_admin, name=name,
            created=time.time(),
        )  # fmt: skip
        hash = _hash(text)
        self._remember(hash, info)
        row = (hash, info.id, owner, agent, pid, int(is_admin), name, info.created)
        self._submit(f"INSERT OR REPLACE INTO keys({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        return info.id, text

    def authenticate(self, text: str | None) -> Principal:
        """Who `text` stands for. Raises Unauthorized. One hash and one look-up, whatever the text."""
        if not text:
            raise Unauthorized(
                "no API key was sent: send 'Authorization: Bearer sk-aios-…'; 'aios keys new NAME' prints a key",
                code="missing_api_key",
            )
        found = self._by_hash.get(_hash(text))
        if found is None:
            raise Unauthorized(_why_unknown(text))
        return found[0]

    def revoke(self, key_id: str) -> None:
        """The key is worth nothing from now on. Raises NotFound."""
        hash = self._by_id.pop(key_id, None)
        if hash is None:
            raise NotFound(
                f"there is no key '{key_id[:80]}'; 'aios keys list' shows them", code="no_such_key", param="id"
            )
        _, info = self._by_hash.pop(hash)
        if info.pid is not None:
            self._by_pid[info.pid].remove(key_id)
        self._submit("DELETE FROM keys WHERE hash = ?", (hash,))

    def revoke_process(self, pid: int) -> None:
        """All keys of the process `pid`."""
        for key_id in list(self._by_pid.get(pid, ())):
            self.revoke(key_id)
        self._by_pid.pop(pid, None)

    def purge(self, before: float, alive: Collection[int]) -> None:
        """Drop keys minted before `before` for processes that are not among the living and never said that they ended:
        a kernel died under them and they never called again."""
        for pid, key_ids in list(self._by_pid.items()):
            if pid not in alive:
                for key_id in [k for k in key_ids if self._by_hash[self._by_id[k]][1].created < before]:
                    self.revoke(key_id)

    def infos(self) -> list[KeyInfo]:
        """Oldest first."""
        return [info for _, info in self._by_hash.values()]

    async def settled(self) -> None:
        """Wait until all that was minted or revoked is on disk."""
        await self._database.run(self._write_rest, frees=True)

    def settle(self) -> None:
        """As `settled`, for boot: blocks."""
        self._database.run_now(self._write_rest)

    def _remember(self, hash: bytes, info: KeyInfo) -> None:
        principal = Principal(info.owner, info.agent, info.pid, info.is_admin, info.id)
        self._by_hash[hash] = (principal, info)
        self._by_id[info.id] = hash
        if info.pid is not None:
            self._by_pid.setdefault(info.pid, []).append(info.id)

    def _submit(self, sql: str, row: tuple[Any, ...]) -> None:
        """Write a change. On a full disk too: a key that was revoked must not come back with the next kernel, and who
        wants to make room may need a key for it."""
        hash, change = row[0], (sql, row)
        self._unwritten[hash] = change

        def job(connection: apsw.Connection) -> None:
            connection.execute(sql, row)

        def then(_: None, error: AiosError | None) -> None:
            if error is None and self._unwritten.get(hash) is change:
                del self._unwritten[hash]

        self._database.submit(job, then, frees=True)

    def _write_rest(self, connection: apsw.Connection) -> None:
        """What was refused, once more, and what is on its way: each change may be made twice."""
        for sql, row in list(self._unwritten.values()):
            connection.execute(sql, row)


def write_key(path: Path, text: str) -> None:
    """Put `text` into `path`, readable by its owner alone; there is never half a file."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _why_unknown(text: str) -> str:
    if not text.startswith(PREFIX):
        return f"this API key is not one of this kernel's, which start with '{PREFIX}'; 'aios keys new NAME' prints one"
    return "this API key is not known (any more): it was revoked, or its process ended; 'aios keys new NAME' prints one"


def _info(fields: list[Any]) -> KeyInfo:
    id, owner, agent, pid, is_admin, name, created = fields
    return KeyInfo(id=id, owner=owner, agent=agent, pid=pid, is_admin=bool(is_admin), name=name, created=created)

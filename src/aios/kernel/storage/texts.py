"""What tools ask of an agent's own files: their paths, and their texts, the newest first. Knows no call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import apsw

from aios.abi.errors import ModuleFault

from ..database import Database, rows
from ..spaces import Scope
from . import contents
from .blobs import Blobs
from .contents import Content
from .tree import LIVE, Tree

MAX_READ = 4 << 20
"""Bytes of an agent's files that are read for a tool which looks through all of them."""
MAX_READ_FILES = 10_000
T = TypeVar("T")


class Texts:
    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    async def paths(self, scope: Scope, limit: int) -> list[str]:
        """Of the newest `limit` files, in order."""
        sql = (
            f"{LIVE} SELECT live.path FROM live JOIN files USING (id) WHERE live.kind = 'file'"
            " ORDER BY modified DESC, id DESC LIMIT ?2"
        )
        found = await self._database.read_async(lambda c: rows(c, sql, (Tree(c, scope).id, limit)), scope)
        return sorted(path for (path,) in found)

    async def over(self, scope: Scope, use: Callable[[Mapping[str, str], bool], T]) -> T:
        """What `use` makes, in a thread, of the newest versions by path, the newest file first, and of whether these
        are all: at most `MAX_READ_FILES` are read, of these as many as fit into `MAX_READ` bytes, and only text."""
        return await self._database.read_async(lambda c: use(*self._texts(c, scope)), scope)

    def _texts(self, connection: apsw.Connection, scope: Scope) -> tuple[dict[str, str], bool]:
        sql = (
            f"{LIVE} SELECT live.path, contents.id, hash, contents.size, chunks FROM live JOIN files USING (id)"
            " JOIN versions ON file = files.id AND versions.version = files.version"
            " JOIN contents ON contents.id = content WHERE live.kind = 'file'"
            " ORDER BY modified DESC, files.id DESC LIMIT ?2"
        )
        found = rows(connection, sql, (Tree(connection, scope).id, MAX_READ_FILES + 1))
        texts: dict[str, str] = {}
        left = MAX_READ
        for path, *content in found[:MAX_READ_FILES]:
            text = self._text(connection, Content(*content)) if content[2] <= left else None
            if text is not None:
                texts[path] = text
                left -= content[2]
        return texts, len(texts) == len(found)

    def _text(self, connection: apsw.Connection, content: Content) -> str | None:
        """None for what is no text, or has gone or is damaged: whoever reads that file itself hears of it."""
        try:
            if content.chunks is None:
                return contents.body_of(connection, content).decode()
            chunks = contents.chunks_of(connection, content)
            return b"".join(
                contents.data_of(connection, chunk) if chunk.token is None else self._blobs.get(chunk.hash, chunk.token)
                for chunk in chunks
            ).decode()
        except (ModuleFault, UnicodeDecodeError):
            return None

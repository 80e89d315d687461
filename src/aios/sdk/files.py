"""An agent's files as paths: `files / "notes" / "today.md"`. Knows the calls only, no kernel and no transport.

`AsyncFilePath` is for those who await, `FilePath` for those who do not. Nothing is asked before a method is called.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

from aios.abi.calls import Listing, Passages, Revision, Where
from aios.abi.errors import NotFound
from aios.abi.memory import SearchMode

from .calls import AsyncCalls, Calls

PAGE = 1000


class _Path:
    """A place inside an agent's storage, "" being its top. Two are equal when they name the same."""

    def __init__(self, path: str = "") -> None:
        self.path = path

    def _at(self, path: str) -> Self:
        raise NotImplementedError

    def __truediv__(self, name: str) -> Self:
        return self._at(f"{self.path}/{name}" if self.path else name)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0] or self.name

    @property
    def suffix(self) -> str:
        return self.name[len(self.stem) :]

    @property
    def parent(self) -> Self:
        return self._at(self.path.rpartition("/")[0])

    def __str__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Path) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)


class AsyncFilePath(_Path):
    """`await (files / "a.md").write_text("…")`, `async for each in files.iterdir()`."""

    def __init__(self, client: AsyncCalls, path: str = "") -> None:
        super().__init__(path)
        self._client = client

    def _at(self, path: str) -> AsyncFilePath:
        return AsyncFilePath(self._client, path)

    async def read_text(self, version: int | None = None) -> str:
        """Raises NotFound, BadRequest for what is no text."""
        return (await self._client.sto_read(self.path, version=version)).content

    async def read_bytes(self, version: int | None = None) -> bytes:
        return base64.b64decode((await self._client.sto_read(self.path, version=version, encoding="base64")).content)

    async def write_text(self, content: str, *, base: int | None = None) -> int:
        """The version that it is now. With `base`, only if that is the newest so far; Conflict if not."""
        return (await self._client.sto_write(self.path, content, base=base)).version

    async def write_bytes(self, content: bytes, *, base: int | None = None) -> int:
        text = base64.b64encode(content).decode()
        return (await self._client.sto_write(self.path, text, encoding="base64", base=base)).version

    async def exists(self) -> bool:
        return await self._kind() is not None

    async def is_file(self) -> bool:
        return await self._kind() == "file"

    async def is_dir(self) -> bool:
        return await self._kind() == "folder"

    async def _kind(self) -> str | None:
        try:
            return _kind_of(self.path, (await self._client.sto_list(path=self.path, limit=1)))
        except NotFound:
            return None

    async def mkdir(self) -> None:
        await self._client.sto_create(self.path, kind="folder")

    async def iterdir(self) -> AsyncIterator[AsyncFilePath]:
        """What is in the folder, in order of names."""
        after: str | None = None
        while True:
            page = await self._client.sto_list(path=self.path, limit=PAGE, after=after)
            for entry in page.entries:
                yield self._at(entry.path)
            if not page.has_more:
                return
            after = page.entries[-1].path

    async def rename(self, to: str | _Path) -> AsyncFilePath:
        """Move it, with its history; where it is now."""
        await self._client.sto_move(self.path, str(to))
        return self._at(str(to))

    async def unlink(self) -> None:
        """Into the trash: `restore` brings it back."""
        await self._client.sto_clear(self.path)

    async def restore(self) -> None:
        await self._client.sto_restore(self.path)

    async def history(self) -> list[Revision]:
        """All of it, the newest first."""
        found = await self._client.sto_history(self.path, limit=PAGE)
        revisions = list(found.revisions)
        while found.has_more:
            found = await self._client.sto_history(self.path, limit=PAGE, before=revisions[-1].version)
            revisions += found.revisions
        return revisions

    async def diff(self, since: int | None = None, to: int | None = None) -> str:
        return (await self._client.sto_diff(self.path, since=since, to=to)).text

    async def rollback(self, version: int) -> int:
        """Make `version` the newest again; the number that it has now."""
        return (await self._client.sto_rollback(self.path, version)).version

    async def share(self, ttl: float = 86_400.0, version: int | None = None) -> str:
        """A link that opens it for anybody, for `ttl` seconds: a path below the kernel's address."""
        return (await self._client.sto_share(self.path, ttl=ttl, version=version)).url or ""

    async def search(self, query: str, k: int = 5, *, mode: SearchMode | None = None, **where: Any) -> Passages:
        """Passages of files here and below that answer `query`, best first, and which files were not read. `where` is
        what narrows them: name, types, since, until, author. Raises NotFound when nothing is here."""
        return await self._client.sto_retrieve(query, k=k, where=_where(self.path, where), mode=mode)


class FilePath(_Path):
    """`(files / "a.md").write_text("…")`, `for each in files.iterdir()`."""

    def __init__(self, client: Calls, path: str = "") -> None:
        super().__init__(path)
        self._client = client

    def _at(self, path: str) -> FilePath:
        return FilePath(self._client, path)

    def read_text(self, version: int | None = None) -> str:
        """Raises NotFound, BadRequest for what is no text."""
        return self._client.sto_read(self.path, version=version).content

    def read_bytes(self, version: int | None = None) -> bytes:
        return base64.b64decode(self._client.sto_read(self.path, version=version, encoding="base64").content)

    def write_text(self, content: str, *, base: int | None = None) -> int:
        """The version that it is now. With `base`, only if that is the newest so far; Conflict if not."""
        return self._client.sto_write(self.path, content, base=base).version

    def write_bytes(self, content: bytes, *, base: int | None = None) -> int:
        text = base64.b64encode(content).decode()
        return self._client.sto_write(self.path, text, encoding="base64", base=base).version

    def exists(self) -> bool:
        return self._kind() is not None

    def is_file(self) -> bool:
        return self._kind() == "file"

    def is_dir(self) -> bool:
        return self._kind() == "folder"

    def _kind(self) -> str | None:
        try:
            return _kind_of(self.path, self._client.sto_list(path=self.path, limit=1))
        except NotFound:
            return None

    def mkdir(self) -> None:
        self._client.sto_create(self.path, kind="folder")

    def iterdir(self) -> Iterator[FilePath]:
        """What is in the folder, in order of names."""
        after: str | None = None
        while True:
            page = self._client.sto_list(path=self.path, limit=PAGE, after=after)
            yield from (self._at(entry.path) for entry in page.entries)
            if not page.has_more:
                return
            after = page.entries[-1].path

    def rename(self, to: str | _Path) -> FilePath:
        """Move it, with its history; where it is now."""
        self._client.sto_move(self.path, str(to))
        return self._at(str(to))

    def unlink(self) -> None:
        """Into the trash: `restore` brings it back."""
        self._client.sto_clear(self.path)

    def restore(self) -> None:
        self._client.sto_restore(self.path)

    def history(self) -> list[Revision]:
        """All of it, the newest first."""
        found = self._client.sto_history(self.path, limit=PAGE)
        revisions = list(found.revisions)
        while found.has_more:
            found = self._client.sto_history(self.path, limit=PAGE, before=revisions[-1].version)
            revisions += found.revisions
        return revisions

    def diff(self, since: int | None = None, to: int | None = None) -> str:
        return self._client.sto_diff(self.path, since=since, to=to).text

    def rollback(self, version: int) -> int:
        """Make `version` the newest again; the number that it has now."""
        return self._client.sto_rollback(self.path, version).version

    def share(self, ttl: float = 86_400.0, version: int | None = None) -> str:
        """A link that opens it for anybody, for `ttl` seconds: a path below the kernel's address."""
        return self._client.sto_share(self.path, ttl=ttl, version=version).url or ""

    def search(self, query: str, k: int = 5, *, mode: SearchMode | None = None, **where: Any) -> Passages:
        """Passages of files here and below that answer `query`, best first, and which files were not read. `where` is
        what narrows them: name, types, since, until, author. Raises NotFound when nothing is here."""
        return self._client.sto_retrieve(query, k=k, where=_where(self.path, where), mode=mode)


def _kind_of(path: str, listing: Listing) -> str:
    """A file lists itself, a folder what is in it."""
    return "file" if [entry.path for entry in listing.entries] == [path] else "folder"


def _where(path: str, more: dict[str, Any]) -> Where | None:
    return Where(path=path or None, **more) if path or more else None

"""What an agent remembers, as a mapping from ids to entries. Knows the calls only, no kernel and no transport.

`AsyncMemory` is for those who await, `Memory` for those who do not: the same words, and a dictionary's own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

from aios.abi.calls import BlockStat, Entries, Entry, Written
from aios.abi.errors import NotFound

from .calls import AsyncCalls, Calls

PAGE = 1000


class AsyncMemory:
    """`await memory.add("the door code is 4711", kind="fact")`, `await memory[id]`, `async for entry in memory`.

    It is that of the agent whose key the client has. With `block` it is a part of it by that name, or, if a group has
    one of that name, what the group's agents share.
    """

    def __init__(self, client: AsyncCalls, block: str | None = None) -> None:
        self._client = client
        self._block = block

    def block(self, name: str) -> AsyncMemory:
        """The block `name`, with all that this has."""
        return AsyncMemory(self._client, name)

    async def alloc(self, limit: int | None = None, **more: Any) -> BlockStat:
        """Make this block, if it is new, and say what it may take. `more` is what `mem_alloc` takes: watermark, k."""
        return await self._client.mem_alloc(limit=limit, block=self._block, **more)

    async def add(self, content: str, **more: Any) -> str:
        """Remember `content`; its id. `more` is what `mem_write` takes: kind, metadata, source, importance, …"""
        return (await self._client.mem_write(content, block=self._block, **more)).id

    def __getitem__(self, id: str) -> Awaitable[Entry]:
        """To be awaited. Raises NotFound."""
        return self._client.mem_read(id, block=self._block)

    async def get(self, id: str, default: Entry | None = None) -> Entry | None:
        try:
            return await self[id]
        except NotFound:
            return default

    async def update(self, id: str, content: str | None = None, **more: Any) -> Written:
        """Change an entry: what is not given stays. How it was is in its `history`."""
        return await self._client.mem_update(id, content=content, block=self._block, **more)

    async def history(self, id: str) -> list[Entry]:
        """What an entry was before its changes, the newest first."""
        return (await self._client.mem_history(id, block=self._block)).entries

    async def remove(self, id: str) -> None:
        """Forget an entry, for good. Raises NotFound."""
        await self._client.mem_clear(id=id, block=self._block)

    async def clear(self) -> int:
        """Forget everything of this block; how many entries that were."""
        return (await self._client.mem_clear(all=True, block=self._block)).count

    async def search(self, query: str, k: int = 5, **more: Any) -> list[Entry]:
        """What fits `query` best, best first. `more` is what `mem_search` takes: kinds, since, metadata, recency, …"""
        return (await self._client.mem_search(query, k=k, block=self._block, **more)).entries

    async def __aiter__(self) -> AsyncIterator[Entry]:
        """All entries, newest first."""
        after: str | None = None
        while True:
            page = await self._client.mem_list(limit=PAGE, after=after, block=self._block)
            for entry in page.entries:
                yield entry
            if _is_last(page):
                return
            after = page.entries[-1].id

    async def stat(self) -> BlockStat:
        """What the block takes, and where."""
        return await self._client.mem_stat(block=self._block)


class Memory:
    """`memory[id]`, `memory[id] = "text"`, `del memory[id]`, `id in memory`, `len(memory)`, `for id in memory`."""

    def __init__(self, client: Calls, block: str | None = None) -> None:
        self._client = client
        self._block = block

    def block(self, name: str) -> Memory:
        """The block `name`, with all that this has."""
        return Memory(self._client, name)

    def alloc(self, limit: int | None = None, **more: Any) -> BlockStat:
        """Make this block, if it is new, and say what it may take. `more` is what `mem_alloc` takes: watermark, k."""
        return self._client.mem_alloc(limit=limit, block=self._block, **more)

    def add(self, content: str, **more: Any) -> str:
        """Remember `content`; its id. `more` is what `mem_write` takes: kind, metadata, source, importance, …"""
        return self._client.mem_write(content, block=self._block, **more).id

    def __getitem__(self, id: str) -> Entry:
        """Raises NotFound, which is no KeyError: it says more."""
        return self._client.mem_read(id, block=self._block)

    def __setitem__(self, id: str, content: str) -> None:
        """Change the content of an entry that is there. `add` makes new ones: their ids are the kernel's."""
        self._client.mem_update(id, content=content, block=self._block)

    def __delitem__(self, id: str) -> None:
        self._client.mem_clear(id=id, block=self._block)

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and self.get(id) is not None

    def __len__(self) -> int:
        return self.stat().entries

    def __iter__(self) -> Iterator[str]:
        """Ids, newest first."""
        return (entry.id for entry in self.values())

    def values(self) -> Iterator[Entry]:
        """All entries, newest first."""
        after: str | None = None
        while True:
            page = self._client.mem_list(limit=PAGE, after=after, block=self._block)
            yield from page.entries
            if _is_last(page):
                return
            after = page.entries[-1].id

    def get(self, id: str, default: Entry | None = None) -> Entry | None:
        try:
            return self[id]
        except NotFound:
            return default

    def update(self, id: str, content: str | None = None, **more: Any) -> Written:
        """Change an entry: what is not given stays. How it was is in its `history`."""
        return self._client.mem_update(id, content=content, block=self._block, **more)

    def history(self, id: str) -> list[Entry]:
        """What an entry was before its changes, the newest first."""
        return self._client.mem_history(id, block=self._block).entries

    def clear(self) -> int:
        """Forget everything of this block; how many entries that were."""
        return self._client.mem_clear(all=True, block=self._block).count

    def search(self, query: str, k: int = 5, **more: Any) -> list[Entry]:
        """What fits `query` best, best first. `more` is what `mem_search` takes: kinds, since, metadata, recency, …"""
        return self._client.mem_search(query, k=k, block=self._block, **more).entries

    def stat(self) -> BlockStat:
        """What the block takes, and where."""
        return self._client.mem_stat(block=self._block)


def _is_last(page: Entries) -> bool:
    """One that ends for its length is short, and has more after it."""
    return len(page.entries) < PAGE and not page.is_cut

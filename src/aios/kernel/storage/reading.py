"""Calls that look at what the store has: read, list, history, diff, stat. Knows no queue and no mounted folder."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import Any

from aios.abi.calls import Diff, File, History, Listing, StoDiff, StoHistory, StoList, StorageStat, StoRead, StoStat
from aios.abi.errors import BadRequest, TooLarge

from . import trash, versions
from .ask import Ask
from .compare import MAX_COMPARED, Side, compared
from .stat import stat
from .store import Open, Store
from .tree import Tree
from .writing import MAX_CALL


class Reading:
    """One handler a call, by its arguments' struct."""

    def __init__(self, store: Store, opened: Open) -> None:
        self._store = store
        self._opened = opened
        self.handlers: dict[type[Any], Callable[[Any, Ask], Awaitable[Any]]] = {
            StoRead: self.read, StoList: self.listed, StoHistory: self._history, StoDiff: self._diff,
            StoStat: self._stat,
        }  # fmt: skip

    async def read(self, args: StoRead, ask: Ask) -> File:
        async with self._opened(ask, args.version) as file:
            length = max(0, file.size - args.offset) if args.length is None else args.length
            if length > MAX_CALL:
                raise TooLarge(
                    f"'{args.path[:200]}' holds {file.size:,} bytes, and a call reads {MAX_CALL:,} at once: read it in "
                    "parts (offset, length), or with GET /aios/v1/files/PATH",
                    code="read_too_large",
                    param="length",
                )
            data = await file.part(args.offset, length)
        if args.encoding == "base64":
            text = b64encode(data).decode()
        else:
            text = _text_of(data, ask.shown)
        return File(path=ask.shown, content=text, version=file.version, encoding=args.encoding, size=file.size)

    async def listed(self, args: StoList, ask: Ask) -> Listing:
        after = args.after[len(ask.scope.mount) + 1 :] if args.after and ask.scope.mount else args.after or ""

        def job(tree: Tree) -> Listing:
            if args.trash:
                return trash.listed(tree, ask.path, args.limit, after)
            return tree.listed(ask.path, args.limit, after)

        return await self._store.look_long(ask, job)

    async def _history(self, args: StoHistory, ask: Ask) -> History:
        return await self._store.look_long(ask, lambda tree: versions.history(tree, ask.path, args.limit, args.before))

    async def _diff(self, args: StoDiff, ask: Ask) -> Diff:
        to = self._store.look(ask, lambda tree: versions.find(tree, ask.path, args.to)).version
        since = to - 1 if args.since is None else args.since
        old, new = await self._side(ask, since), await self._side(ask, to)
        text = await self._store.workers.run(lambda: compared(old, new))
        return Diff(path=ask.shown, since=since, to=to, text=text)

    async def _side(self, ask: Ask, version: int) -> Side:
        """A version to be compared; 0 is what was there before the first one."""
        if not version:
            return Side(ask.shown, 0, 0, b"")
        async with self._store.opened(ask, version) as file:
            data = await file.part(0, file.size) if file.size <= MAX_COMPARED else None
        return Side(ask.shown, version, file.size, data)

    async def _stat(self, args: StoStat, ask: Ask) -> StorageStat:
        return await self._store.look_long(ask, stat)


def _text_of(data: bytes, shown: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"'{shown[:200]}' is no UTF-8 at byte {error.start} of what was asked for: read it with encoding "
            "'base64', or from where a character begins",
            code="not_text",
            param="encoding",
        ) from None

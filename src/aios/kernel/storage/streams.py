"""Files of any length, as streams: taken in for a call that names them, and given out. Knows no wire.

Whoever may do that was asked before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import apsw

from ..clock import Clock
from ..process import Place
from ..spaces import Spaces
from . import links, uploads, versions
from .ask import Ask
from .base import clean_path
from .outlet import Opened
from .store import Open, Store
from .tree import Tree
from .versions import Stamp


class Sent(NamedTuple):
    """What was taken in, by its name. Unless it `is_first`, the same was sent before, and a call may wait to name it:
    only who sent it first may forget it then."""

    name: str
    is_first: bool


class Streams:
    """Used on the event loop."""

    def __init__(self, store: Store, spaces: Spaces, clock: Clock, opened: Open) -> None:
        self._store = store
        self._opened = opened
        self._spaces = spaces
        self._clock = clock

    def check(self, caller: Place, path: str, size: int, base: int | None) -> None:
        """Raises what a write of so many bytes would, as far as that is known before the first of them."""
        ask = self._ask(caller, path)
        self._store.intake.check_size(size)

        def job(tree: Tree) -> None:
            if not ask.scope.mount:  # what is there in a mounted folder is seen when it is written
                versions.writable(tree, ask.path, base)
            tree.quota.check(tree.connection, ask.scope.payer, 0, size)

        self._store.look(ask, job)

    async def take_in(self, caller: Place, path: str, source: AsyncIterable[bytes], mark: str) -> Sent:
        """Take in all of `source`, for a file at `path`. It is kept until a StoWrite of `caller` has named it or
        somebody says `forget`; its name says what is in it, and `mark`."""
        scope = self._ask(caller, path).scope
        async with self._store.intake.staged(scope, source, self._store.quota) as staged:
            name, now, is_first = f"{staged.hash.hex()}.{mark}", self._clock.wall(), False

            def keep(connection: apsw.Connection) -> bool:
                nonlocal is_first
                is_first = uploads.keep(connection, caller, name, staged.id, now)
                return is_first

            try:
                return Sent(name, await self._store.database.run(keep))
            except asyncio.CancelledError:
                # Jobs are done in their order: `keep` has said by then whose it is.
                self._store.database.submit(lambda c: is_first and uploads.forget(c, caller, name), frees=True)
                raise

    def forget(self, caller: Place, name: str) -> None:
        """It need not be there any more."""
        self._store.database.submit(lambda c: uploads.forget(c, caller, name), frees=True)

    @asynccontextmanager
    async def reading(self, caller: Place, path: str, version: int | None) -> AsyncIterator[Opened]:
        """A version, or without one the file as it is, for as long as this is entered. Raises NotFound."""
        async with self._opened(self._ask(caller, path), version) as opened:
            yield opened

    @asynccontextmanager
    async def shared(self, token: str) -> AsyncIterator[Opened]:
        """What a link leads to. Raises NotFound."""
        name, kept = self._store.database.read(lambda c: links.follow(c, token, self._clock.wall()))
        with self._store.outlet.opened(name, kept) as opened:
            yield opened

    def _ask(self, caller: Place, path: str) -> Ask:
        scope, inside = self._spaces.scope(caller, clean_path(path))
        return Ask(caller, scope, inside, Stamp(self._clock.wall()), None)

"""What the storage calls mean: an agent's files, their versions and their trash. Knows no queue, no wire.

Every statement is bounded by the scope that `Spaces` says the path is in: the calling agent's own, which no argument
can name, or a mount's, which the access manager has looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from aios.abi.calls import StoClear, StoList, StoMove, StoRead, StoShare, StoStat, StoWrite
from aios.abi.errors import BadRequest

from ..clock import Clock
from ..config import StorageSection
from ..database import Database
from ..process import Place
from ..spaces import Scope, Spaces
from ..syscall import Syscall
from . import links, uploads
from .base import clean_path
from .reading import Reading
from .store import Ask, Store
from .streams import Streams
from .texts import Texts
from .versions import Stamp
from .writing import Writing, decoded

T = TypeVar("T")


class StorageManager:
    """The handler of "storage" calls, and what other rooms ask of an agent's files."""

    def __init__(
        self,
        database: Database,
        home: Path,
        clock: Clock,
        spaces: Spaces | None = None,
        settings: StorageSection | None = None,
    ) -> None:
        self._clock = clock
        self._spaces = spaces or Spaces()
        self._store = Store(database, home, settings or StorageSection())
        self.streams = Streams(self._store, self._spaces, clock)
        self._texts = Texts(database, self._store.blobs)
        self._reading = Reading(self._store)
        self._handlers = {**Writing(self._store, self._spaces).handlers, **self._reading.handlers}

    def open(self) -> None:
        """Before the first call."""
        self._store.open()

    def close(self) -> None:
        self._store.close()

    # ── calls ──

    def check(self, call: Syscall) -> None:
        args = call.args
        clean_path(getattr(args, "path", ""), root=_may_be_root(args))
        if isinstance(args, StoMove):
            clean_path(args.to)
        if isinstance(args, StoWrite):
            decoded(args)
        if isinstance(args, StoShare) and call.key is not None:
            raise BadRequest(
                "sto_share takes no Idempotency-Key: its link is shown once, and the kernel keeps no copy of it to "
                "repeat; a second link does no harm",
                code="no_key_here",
            )

    async def run(self, call: Syscall) -> Any:
        """The result struct of the call. Writes are committed when this returns, and done once under a call's key."""
        process = call.process
        stamp = Stamp(self._clock.wall(), process.agent, f"{call.spec.name} {call.id}")
        ask = self._ask(
            Place(process.owner, process.agent), call.args, stamp, call.id if call.key is not None else None
        )
        return await self._handlers[type(call.args)](call.args, ask)

    def _ask(self, caller: Place, args: Any, stamp: Stamp, once: str | None = None) -> Ask:
        path = clean_path(getattr(args, "path", ""), root=_may_be_root(args))
        scope, inside = self._spaces.scope(caller, path)
        return Ask(caller, scope, inside, stamp, once)

    # ── for other rooms ──

    async def paths(self, owner: str, agent: str, limit: int) -> list[str]:
        """Of the newest `limit` files, in order."""
        return await self._texts.paths(Scope(owner, agent), limit)

    async def over_texts(self, owner: str, agent: str, use: Callable[[Mapping[str, str], bool], T]) -> T:
        """What `use` makes, in a thread, of the files' newest versions by path, the newest file first, and of whether
        these are all."""
        return await self._texts.over(Scope(owner, agent), use)

    async def read_text(self, owner: str, agent: str, path: str) -> str:
        """The newest version of one file. Raises NotFound, BadRequest."""
        args = StoRead(path=path)
        return (await self._reading.read(args, self._ask(Place(owner, agent), args, Stamp(self._clock.wall())))).content

    # ── the house ──

    async def keep_house(self) -> None:
        """Take out what nobody came for, and what was to go and is still there since a kernel died over it."""
        now = self._clock.wall()
        for forget_old in (uploads.forget_old, links.forget_old):
            while await self._store.database.run(partial(forget_old, now=now), frees=True):
                pass
        await self._store.drop_leaving()


def _may_be_root(args: Any) -> bool:
    """Whether the call's path may name the top of the agent's files, or of its trash."""
    return isinstance(args, StoList | StoStat) or (isinstance(args, StoClear) and args.trash)

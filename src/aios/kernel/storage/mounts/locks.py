"""Who is at which path: of two that want the same, or one what lies below the other's, the later one waits.

Knows no file. What is done to a folder is done to all below it, and what two write to one file must come to the folder
and to the store in one order.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from ..base import parent_of


class PathLocks:
    """The paths of one mount; "" is the top, and so all of them. For one event loop."""

    def __init__(self) -> None:
        self._held = _Paths()
        self._waiting: dict[asyncio.Future[None], tuple[str, ...]] = {}
        """In the order they came, so that who wants a folder is not overtaken for ever by those who want its files."""
        self._wanted = _Paths()

    @asynccontextmanager
    async def hold(self, *paths: str) -> AsyncIterator[None]:
        """Paths that do not overlap each other."""
        if not self.try_hold(*paths):
            await self._wait(paths)
        try:
            yield
        finally:
            self.release(*paths)

    def try_hold(self, *paths: str) -> bool:
        """Hold them at once, or not at all."""
        if self._held.overlap(paths) or self._wanted.overlap(paths):
            return False
        self._held.add(paths)
        return True

    def release(self, *paths: str) -> None:
        self._held.remove(paths)
        self._wake()

    async def _wait(self, paths: tuple[str, ...]) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = paths
        self._wanted.add(paths)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._forget(turn)
                self._wake()
            else:  # it was our turn in this moment
                self.release(*paths)
            raise

    def _wake(self) -> None:
        """Let those go on who can, unless somebody before them wants what overlaps."""
        ahead = _Paths()
        for turn, paths in list(self._waiting.items()):
            if self._held.overlap(paths) or ahead.overlap(paths):
                ahead.add(paths)
            else:
                self._forget(turn)
                self._held.add(paths)
                turn.set_result(None)

    def _forget(self, turn: asyncio.Future[None]) -> None:
        self._wanted.remove(self._waiting.pop(turn))


class _Paths:
    """A multiset of paths that knows what overlaps it."""

    def __init__(self) -> None:
        self._here: Counter[str] = Counter()
        self._above: Counter[str] = Counter()
        """How many paths lie below a folder."""

    def add(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._here[path] += 1
            self._above.update(_above(path))

    def remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            _take(self._here, path)
            for folder in _above(path):
                _take(self._above, folder)

    def overlap(self, paths: Iterable[str]) -> bool:
        return any(
            path in self._here or path in self._above or any(f in self._here for f in _above(path)) for path in paths
        )


def _take(counter: Counter[str], path: str) -> None:
    counter[path] -= 1
    if not counter[path]:
        del counter[path]


def _above(path: str) -> list[str]:
    """The folders above `path`, the top among them."""
    found = []
    while path:
        path = parent_of(path)
        found.append(path)
    return found

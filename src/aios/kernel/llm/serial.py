"""Tasks that wait for each other, name by name. Knows nothing of what is done in them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any

Work = Callable[[], Coroutine[Any, Any, None]]


class Serial:
    """A task begins its work when every earlier one of its name is over. One that is cancelled while it waits lets
    nobody past those that it waited for."""

    def __init__(self) -> None:
        self._unfinished: dict[str, set[asyncio.Task[None]]] = {}

    def begin(self, name: str, work: Work) -> asyncio.Task[None]:
        tasks = self._unfinished.setdefault(name, set())
        task = asyncio.get_running_loop().create_task(_after(list(tasks), work))
        tasks.add(task)
        task.add_done_callback(lambda done: self._forget(name, done))
        return task

    async def end(self) -> None:
        """Cancel all, and wait until they are over."""
        tasks = [task for each in self._unfinished.values() for task in each]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _forget(self, name: str, task: asyncio.Task[None]) -> None:
        self._unfinished[name].discard(task)
        if not self._unfinished[name]:
            del self._unfinished[name]


async def _after(earlier: Collection[asyncio.Task[None]], work: Work) -> None:
    if earlier:
        await asyncio.wait(earlier)
    await work()

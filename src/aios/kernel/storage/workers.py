"""The threads that hash, write and read contents, so that the event loop does not. Knows no content."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from aios.abi.errors import Stopping

T = TypeVar("T")


class Workers:
    def __init__(self, number: int) -> None:
        self._pool = ThreadPoolExecutor(number, "aios_files")

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` makes. A cancelled wait does not stop it. Raises Stopping after `close`."""
        try:
            done = asyncio.get_running_loop().run_in_executor(self._pool, work)
        except RuntimeError:
            raise Stopping("the kernel's files are closed: the kernel is stopping") from None
        return await done

    def start(self, work: Callable[[], object]) -> None:
        """Have `work` done some time; after `close`, not at all."""
        with suppress(RuntimeError):
            self._pool.submit(work)

    def close(self) -> None:
        """Ends when all that was begun is done."""
        self._pool.shutdown()

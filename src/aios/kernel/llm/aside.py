"""Work that takes long and may never end, in a thread of its own. Knows nothing of what is done there.

A model's files may lie on a disk that does not answer. The threads that all rooms share would be used up by those who
wait for it, and neither they nor a pool's end with the process while one of them works; a daemon does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

R = TypeVar("R")


async def aside(name: str, job: Callable[[], R]) -> R:
    """What `job` returns or raises. Cancelled, nobody waits for it any more, though it goes on."""
    future: Future[R] = Future()
    future.set_running_or_notify_cancel()
    threading.Thread(target=_work, args=(future, job), name=name, daemon=True).start()
    return await asyncio.wrap_future(future)


def _work(future: Future[R], job: Callable[[], R]) -> None:
    try:
        future.set_result(job())
    except BaseException as error:  # noqa: BLE001  # not caught, but handed to the one who waits
        future.set_exception(error)

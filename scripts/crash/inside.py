"""What is asked of a running kernel beside its calls: whether all in it agrees. Runs in the kernel's process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aios.kernel import Kernel


async def check(kernel: Kernel) -> list[str]:
    """Every check that there is, when no call is under way: what is wrong, a line each."""
    found = []
    await kernel.search.idle()
    for room in (kernel, kernel.memory):
        try:
            room.check_integrity()
        except AssertionError as error:
            found.append(f"{type(room).__name__}: {error}")
    return found + [f"{where}: {what}" for where, what, _ in await kernel.check_home()]


async def noted(kernel: Kernel) -> None:
    """Until the store has all that is in mounted folders."""
    while not all(mount.follower.is_idle for mount in kernel.storage.mounts._mounts.values()):  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def statistics(kernel: Kernel) -> dict[str, Any]:
    return kernel.statistics()


LOOKS: dict[str, Callable[[Kernel], Awaitable[Any]]] = {"check": check, "noted": noted, "statistics": statistics}

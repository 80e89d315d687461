"""What is asked of a running kernel beside its calls: whether all in it agrees. Runs in the kernel's process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aios.abi.errors import AiosError
from aios.kernel import Kernel


async def check(kernel: Kernel) -> list[str]:
    """Every check that there is, when no call is under way: what is wrong, a line each."""
    found = []
    await kernel.search.idle()
    for what in (kernel.check_integrity, kernel.database.check_integrity):
        try:
            what()
        except (AssertionError, AiosError) as error:
            found.append(f"{type(error).__name__}: {error}")
    return found + kernel.search.check_integrity()


async def statistics(kernel: Kernel) -> dict[str, Any]:
    return kernel.statistics()


LOOKS: dict[str, Callable[[Kernel], Awaitable[Any]]] = {"check": check, "statistics": statistics}

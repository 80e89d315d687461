"""The machine's clock as the kernel uses it."""

from __future__ import annotations

import asyncio

import pytest

from aios.kernel.clock import SystemClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


async def test_a_timer_never_fires_before_its_time() -> None:
    """Or a call that may be tried again at that time would find that it is not yet, and nobody would look again."""
    clock = SystemClock()
    early: list[float] = []
    fired = asyncio.Event()
    left = 400

    def fire(due: float) -> None:
        nonlocal left
        left -= 1
        if clock.now() < due:
            early.append(due - clock.now())
        if not left:
            fired.set()

    for n in range(left):
        due = clock.now() + n * 0.00037
        clock.call_later(n * 0.00037, lambda due=due: fire(due))
    await fired.wait()
    assert early == []


async def test_a_timer_that_was_cancelled_stays_silent() -> None:
    clock = SystemClock()
    heard: list[str] = []
    later = asyncio.Event()
    clock.call_later(0.001, lambda: heard.append("cancelled")).cancel()
    clock.call_later(0.003, later.set)
    await later.wait()
    assert heard == []

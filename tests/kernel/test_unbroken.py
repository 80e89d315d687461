"""Waiting that goes on though whoever waits is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from aios.kernel.unbroken import unbroken, wait_out
from aios.testing import settle

pytestmark = pytest.mark.anyio


async def test_steps_are_done_to_their_end_however_often_who_waits_is_cancelled() -> None:
    may_end, did = asyncio.Event(), list[str]()

    async def steps() -> str:
        await may_end.wait()
        did.append("all")
        return "done"

    task = asyncio.ensure_future(unbroken(steps()))
    for _ in range(3):
        await settle()
        task.cancel()
    await settle()
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert did == ["all"]


async def test_what_was_waited_for_is_given_or_raised_to_one_who_was_not_cancelled() -> None:
    async def steps(error: Exception | None) -> str:
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return "done"

    assert await unbroken(steps(None)) == "done"
    with pytest.raises(ValueError, match="broken"):
        await unbroken(steps(ValueError("broken")))


async def test_waiting_ends_when_a_turn_of_it_raises() -> None:
    async def gone() -> None:
        raise OSError("it does not answer")

    with pytest.raises(OSError, match="does not answer"):
        await unbroken(asyncio.get_running_loop().create_future(), gone)


async def test_who_waits_is_told_of_a_cancellation_when_it_is_over() -> None:
    bell, is_over = asyncio.Event(), False

    async def rung() -> None:
        await bell.wait()
        bell.clear()

    task = asyncio.ensure_future(wait_out(lambda: is_over, rung))
    await settle()
    task.cancel()
    bell.set()
    await settle()
    assert not task.done()
    is_over = True
    bell.set()
    assert await task is True

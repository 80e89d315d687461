"""Keeping house: now and then, and never twice at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aios.kernel.house import HOUSE_SECONDS, House
from aios.testing import MockClock, settle

pytestmark = pytest.mark.anyio


class SlowHouse(House):
    """Forgets nothing, and takes as long for it as a test wants."""

    def __init__(self, clock: MockClock) -> None:
        nothing: Any = None
        super().__init__(clock, nothing, nothing, nothing, nothing, nothing)
        self.may_end = asyncio.Event()
        self.num_begun = self.num_ended = 0

    async def purge(self) -> None:
        self.num_begun += 1
        try:
            await self.may_end.wait()
        finally:
            self.num_ended += 1


async def test_a_round_that_takes_longer_is_not_joined_by_another_and_ends_with_the_house() -> None:
    clock = MockClock()
    house = SlowHouse(clock)
    house.keep()
    await settle()
    clock.advance(3 * HOUSE_SECONDS)
    await settle()
    assert house.num_begun == 1
    house.may_end.set()
    await settle()
    house.may_end.clear()
    clock.advance(HOUSE_SECONDS)
    await settle()
    assert house.num_begun == 2
    house.rest()
    await house.close()
    assert house.num_ended == 2

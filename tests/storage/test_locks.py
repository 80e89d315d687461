"""Of two that want one path, or a folder and what is below it, the later one waits, and nobody for ever."""

from __future__ import annotations

import asyncio
import random

import pytest

from aios.kernel.storage.mounts.locks import PathLocks
from aios.testing import settle

pytestmark = pytest.mark.anyio


def overlap(one: str, other: str) -> bool:
    return one == other or not one or not other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


async def test_whatever_comes_no_two_that_overlap_hold_at_once_and_all_get_their_turn() -> None:
    dice, locks, held, done = random.Random(1), PathLocks(), [], []
    paths = ["", "a", "a/b", "a/b/c", "a/bc", "d", "d/e", "ab"]

    async def use(number: int) -> None:
        mine = [dice.choice(paths)]
        other = dice.choice(paths)
        if not overlap(mine[0], other):
            mine.append(other)
        async with locks.hold(*mine):
            assert not [path for path in held for each in mine if overlap(path, each)]
            held.extend(mine)
            for _ in range(dice.randint(0, 3)):
                await asyncio.sleep(0)
            for path in mine:
                held.remove(path)
        done.append(number)

    tasks = [asyncio.ensure_future(use(number)) for number in range(400)]
    for task in dice.sample(tasks, 80):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(done) == sum(not task.cancelled() for task in tasks) >= 320
    assert locks.try_hold("")  # nobody holds or wants anything any more


async def test_who_wants_a_folder_is_not_overtaken_by_those_who_want_its_files() -> None:
    locks, order = PathLocks(), []

    async def use(path: str) -> None:
        async with locks.hold(path):
            order.append(path)

    assert locks.try_hold("d/a")
    tasks = [asyncio.ensure_future(use(path)) for path in ("d", "d/b", "e")]
    await settle()
    assert order == ["e"]
    assert not locks.try_hold("d/c")
    locks.release("d/a")
    await asyncio.gather(*tasks)
    assert order == ["e", "d", "d/b"]

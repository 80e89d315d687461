"""Whose turn it is at a few threads."""

from __future__ import annotations

import asyncio

import pytest

from aios.kernel.database.turns import Turns

pytestmark = pytest.mark.anyio


class Scene:
    def __init__(self, places: int) -> None:
        self.turns = Turns(places)
        self.begun: list[str] = []
        self.over: dict[str, asyncio.Event] = {}

    async def work(self, whose: str, name: str) -> None:
        async with self.turns.turn(whose):
            self.begun.append(name)
            await self.over.setdefault(name, asyncio.Event()).wait()

    async def end(self, name: str) -> None:
        self.over.setdefault(name, asyncio.Event()).set()
        await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_who_asks_for_much_holds_up_another_for_one_thing_a_place() -> None:
    scene = Scene(2)
    tasks = [asyncio.create_task(scene.work("flood", f"f{n}")) for n in range(6)]
    await settled()
    tasks += [asyncio.create_task(scene.work("other", f"o{n}")) for n in range(2)]
    await settled()
    assert scene.begun == ["f0", "f1"]
    for name in ("f0", "f1", "f2", "o0", "f3", "o1", "f4", "f5"):
        await scene.end(name)
    assert scene.begun == ["f0", "f1", "f2", "o0", "f3", "o1", "f4", "f5"]
    await asyncio.gather(*tasks)


async def test_a_place_is_not_lost_with_one_who_does_not_wait_any_more() -> None:
    scene = Scene(1)
    first, second, third = (asyncio.create_task(scene.work("a", name)) for name in ("1", "2", "3"))
    await settled()
    second.cancel()
    await scene.end("1")
    third.cancel()
    await settled()
    fourth = asyncio.create_task(scene.work("b", "4"))
    await settled()
    fifth = asyncio.create_task(scene.work("b", "5"))
    await settled()
    scene.over["4"].set()
    fourth.cancel()  # in the same moment
    await settled()
    assert scene.begun == ["1", "3", "4", "5"]
    await scene.end("5")
    await asyncio.gather(first, second, third, fourth, fifth, return_exceptions=True)


async def test_a_place_that_was_given_to_one_who_leaves_goes_to_the_next() -> None:
    scene = Scene(1)
    first, second, third = (asyncio.create_task(scene.work("a", name)) for name in ("1", "2", "3"))
    await settled()
    scene.over["1"].set()
    await asyncio.sleep(0)  # the first passes its place on
    second.cancel()  # before the second has heard of it
    await settled()
    assert scene.begun == ["1", "3"]
    await scene.end("3")
    await asyncio.gather(first, second, third, return_exceptions=True)

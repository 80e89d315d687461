"""No call leads out of a mounted folder, whatever it names and whatever others swap meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from escapes import SECRET, escapes, outside, swapping
from mount_world import MountWorld

from aios.abi.calls import (
    Args,
    StoClear,
    StoCreate,
    StoHistory,
    StoList,
    StoMove,
    StoRead,
    StoRestore,
    StoWrite,
)
from aios.abi.errors import AiosError

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MountWorld]:
    world = MountWorld(tmp_path)
    (tmp_path / "outside" / "deep").mkdir(parents=True)
    (tmp_path / "outside" / "secret").write_text(SECRET)
    (tmp_path / "outside" / "deep" / "secret").write_text(SECRET)
    await world.begun()
    yield world
    await world.end()
    world.close()


def links(top: Path) -> None:
    for link, target in {
        "out": "../outside", "abs": str(top.parent / "outside"), "root": "/", "up": "..", "self": ".",
        "file": "../outside/secret", "loop": "loop", "nowhere": "../outside/none",
    }.items():  # fmt: skip
        if not (top / link).is_symlink():
            (top / link).symlink_to(target)


def calls(path: str) -> list[Args]:
    return [
        StoRead(path=path), StoList(path=path), StoHistory(path=path), StoWrite(path=path, content="planted"),
        StoCreate(path=path, kind="folder"), StoMove(path="docs/b.txt", to=path), StoMove(path=path, to="docs/taken"),
        StoClear(path=path), StoRestore(path=path),
    ]  # fmt: skip


async def test_of_a_thousand_generated_escapes_by_all_calls_none_succeeds(world: MountWorld) -> None:
    before = outside(world.top)
    num_refused = 0
    for number, path in enumerate(escapes(5, 1000, world.top)):
        links(world.top)
        (world.top / "sub" / "inner").mkdir(parents=True, exist_ok=True)
        world.put("b.txt", "inside")
        path = path if number % 4 == 3 else f"docs/{path}"
        for args in calls(path)[number % 3 :: 3]:
            try:
                found = await world.call(args)
            except (AiosError, UnicodeEncodeError):
                num_refused += 1
            else:
                assert SECRET not in str(found), path
        assert outside(world.top) == before, path
    assert num_refused > 1500


async def test_while_folders_are_swapped_for_links_64_agents_get_nothing_from_outside(world: MountWorld) -> None:
    seen: list[str] = []
    num_done = 0

    def call(dice: random.Random, agent: int) -> Args:
        where = dice.choice(["docs/d", "docs/d/e"])
        name = f"{where}/{dice.choice(['secret', 'f0', f'f{agent}'])}"
        return dice.choice(
            [
                StoWrite(path=f"{where}/f{agent}", content="inside"),
                StoRead(path=name),
                StoList(path=where),
                StoHistory(path=name),
                StoMove(path=f"{where}/f{agent}", to=f"{where}/g{agent}"),
                StoClear(path=f"{where}/g{agent}"),
                StoRestore(path=f"{where}/g{agent}"),
            ]
        )

    async def work(agent: int) -> None:
        nonlocal num_done
        dice = random.Random(agent)
        for _ in range(60):
            try:
                seen.append(str(await world.call(call(dice, agent), agent=f"agent{agent}")))
                num_done += 1
            except AiosError as error:
                seen.append(error.message)

    with swapping(world.top):
        before = outside(world.top)
        await asyncio.gather(*map(work, range(64)))
        after = outside(world.top)
    assert after == before
    assert not [text for text in seen if SECRET in text or str(world.top.parent) in text]
    assert num_done > 200
    await world.quiet()
    contents: list[Any] = world.database.read(lambda c: c.execute("SELECT body FROM contents").fetchall())
    assert not [1 for (body,) in contents if body and SECRET.encode() in body]

"""Old versions leave by the rules of the configuration, the newest never does."""

from __future__ import annotations

from typing import Any

import pytest
from storage_world import LARGE, World

from aios.abi.calls import StoHistory, StoRead, StoRollback
from aios.abi.errors import NotFound
from aios.kernel.storage import pruning, versions

pytestmark = pytest.mark.anyio


async def kept_of(world: World, path: str) -> list[int]:
    return [revision.version for revision in (await world.call(StoHistory(path=path))).revisions]


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({}, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        ({"keep_versions": 3}, [10, 9, 8]),
        ({"keep_versions": 20}, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        ({"keep_days": 2.5}, [10, 9]),
        ({"keep_days": 0.5}, [10]),
        ({"keep_versions": 4, "keep_days": 2.5}, [10, 9, 8, 7]),
        ({"keep_versions": 1, "keep_days": 3.5}, [10, 9, 8]),
    ],
    ids=str,
)
async def test_versions_that_no_rule_keeps_leave_but_for_the_newest(
    world: World, monkeypatch: pytest.MonkeyPatch, rules: dict[str, Any], kept: list[int]
) -> None:
    monkeypatch.setattr(versions, "STEP", 2)
    monkeypatch.setattr(pruning, "LOOK", 1)
    world.restart(**rules)
    await world.write("never written again", "x")
    for n in range(10):
        await world.write("d/a", f"{n}")
        world.clock.advance(86_400)
    await world.storage.keep_house()
    assert await kept_of(world, "d/a") == kept
    assert await kept_of(world, "never written again") == [1]
    assert world.kept() == (3, len(kept) * 101 + 101)
    assert world.count("contents") == len(kept) + 1
    assert await world.read("d/a") == "9"
    assert await world.write("d/a", "next") == 11
    if 1 not in kept:
        with pytest.raises(NotFound, match="no version 1; the newest is 11"):
            await world.call(StoRead(path="d/a", version=1))


async def test_a_content_that_a_kept_version_shares_with_an_old_one_stays(world: World, in_files: None) -> None:
    world.restart(keep_versions=1)
    await world.write("a", LARGE)
    await world.write("a", "between")
    await world.call(StoRollback(path="a", version=1))
    await world.storage.keep_house()
    assert (await kept_of(world, "a"), await world.read("a")) == ([3], LARGE)
    assert (world.count("contents"), len(world.blobs()) > 0) == (1, True)

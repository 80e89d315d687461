"""A store that fails says so in one clear sentence, keeps what it had, and goes on when it can."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from storage_world import LARGE, World

from aios.abi.calls import StoCreate
from aios.abi.errors import Stopping
from aios.kernel.database import HomeError, rows, value
from aios.kernel.database.reserve import SIZE

sys.path.insert(0, str(Path(__file__).parent.parent / "journal"))  # the small disk lives beside the journal's tests
from small_disk import SmallDisk

pytestmark = pytest.mark.anyio
MIB = 1 << 20


async def test_a_page_of_the_store_that_is_garbage_is_said_so_with_what_to_do(tmp_path: Path) -> None:
    world = World(tmp_path)
    for n in range(200):
        await world.write(f"{n}", f"text {n}" * 100)
    root = world.database.read(lambda c: value(c, "SELECT rootpage FROM sqlite_master WHERE name = 'contents'"))
    world.close()
    data = bytearray((tmp_path / "aios.db").read_bytes())
    data[(root - 1) * 4096 : root * 4096] = random.Random(0).randbytes(4096)
    (tmp_path / "aios.db").write_bytes(data)
    world.open()
    for ask in (world.read("7"), world.write("7", "more")):
        with pytest.raises(Stopping, match="aios fs check") as fault:
            await ask
        assert fault.value.code == "storage_failed"
    assert len(await world.names()) == 200
    world.close()


async def test_a_long_content_that_fills_the_store_leaves_nothing_of_it_and_later_ones_find_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SmallDisk(monkeypatch, SIZE + 24 * MIB)
    world = World(tmp_path)
    await world.write("a", "before")
    disk.free = 100_000
    with pytest.raises(Stopping) as fault:
        await world.write("a", LARGE * 5)
    assert fault.value.code == "storage_full"
    assert await world.read("a") == "before"
    disk.free = 64 * MIB
    await world.database.try_write()
    await world.write("a", LARGE * 5)
    await world.storage.keep_house()
    assert await world.read("a") == LARGE * 5
    assert (world.faults(), world.count("contents", "refs <= 0")) == ([], 0)
    world.close()


async def test_a_full_store_still_takes_what_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SmallDisk(monkeypatch, SIZE + 24 * MIB)
    world = World(tmp_path)
    await world.write("large", LARGE * 10)
    disk.free = 0
    with pytest.raises(Stopping):
        for n in range(1000):
            await world.call(StoCreate(path=f"{n}"))
    assert await world.clear("large") == 1
    assert await world.clear("large", trash=True) == 1
    assert world.count("chunks") == 0
    world.close()


def test_two_stores_are_not_opened_on_one_home(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(HomeError, match="already runs"):
        World(tmp_path)
    world.close()


async def test_a_page_of_a_folder_is_found_by_the_index_however_many_files_are_in_it(world: World) -> None:
    await world.write("d/a", "x")
    plans = {
        "list": "SELECT name FROM files WHERE scope = 1 AND parent = 1 AND name > 'a' AND trashed IS NULL"
        " ORDER BY name LIMIT 5",
        "find": "SELECT id FROM files WHERE scope = 1 AND parent = 1 AND name = 'a' AND trashed IS NULL",
        "trash": "SELECT was, max(trashed) FROM files WHERE scope = 1 AND was IS NOT NULL AND was > 'a'"
        " GROUP BY was ORDER BY was LIMIT 5",
    }
    for name, sql in plans.items():
        plan = " ".join(
            str(row[3]) for row in world.database.read(lambda c, sql=sql: rows(c, f"EXPLAIN QUERY PLAN {sql}"))
        )
        assert "SEARCH files USING" in plan, (name, plan)
        assert "TEMP B-TREE" not in plan, (name, plan)

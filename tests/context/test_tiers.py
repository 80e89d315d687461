"""Whatever is stopped, resumed and cancelled in whichever order: nothing is lost, and no budget is passed."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.context.generations import Fake, FakePool, keeper

from aios.kernel.context import ContextManager
from aios.kernel.context.tiers import Tier
from aios.testing import settle

pytestmark = pytest.mark.anyio


class Agents:
    """Many generations on few places, at random. Each task runs, is stopped, waits, goes on, ends or is cancelled."""

    def __init__(self, manager: ContextManager, pools: list[FakePool], rng: random.Random) -> None:
        self.manager, self.pools, self.rng = manager, pools, rng
        self.lost = 0

    async def one(self, number: int) -> None:
        pool = self.rng.choice(self.pools)
        size = 2 * self.rng.randint(1, pool.budget // 8)
        await self.manager.make_room(pool, 2 * size)
        while pool.room < 2 * size:  # as a call that is not begun: back to the queue
            await self.pause()
            await self.manager.make_room(pool, 2 * size)
        held = Fake(f"call_{number}", pool, size, self.rng.choice(["logits", "logits", "logits", "text"]))
        try:
            await self.live_on(held)
        finally:  # as the end of a call that is cancelled, wherever it is
            self.manager.drop(held)
            assert not held.is_inside
        self.lost += held.num_lost if held.form == "logits" else 0

    async def live_on(self, held: Fake) -> None:
        for _ in range(self.rng.randint(0, 6)):
            await self.pause()
            self.manager.put(held)
            await self.pause()
            if self.rng.random() < 0.1:
                return
            await self.manager.take(held)
            assert held.is_inside, "it goes on with its memory"
        await self.pause()
        if self.rng.random() < 0.2:
            self.manager.part(held)
        else:
            held.forget()
            self.manager.freed(held.pool)

    async def pause(self) -> None:
        for _ in range(self.rng.randint(0, 5)):
            await asyncio.sleep(0)


async def play(seed: int, ram: int, disk: int, path: Path) -> int:
    """How many had to be computed anew."""
    rng = random.Random(seed)
    manager, swap = keeper(path, ram=ram, disk=disk)
    pools = [FakePool(4000), FakePool(9000)]
    agents = Agents(manager, pools, rng)
    tasks = [asyncio.create_task(agents.one(number)) for number in range(40)]
    for task in tasks:
        if rng.random() < 0.1:
            await agents.pause()
            task.cancel()
    async with asyncio.timeout(60):
        await asyncio.gather(*tasks, return_exceptions=True)
    await manager.close()
    manager.check_integrity()
    swap.check_integrity()
    assert len(manager._tiers) == 0
    assert swap.sizes() == {}
    assert [pool.reserved for pool in pools] == [0, 0]
    assert not [task for task in tasks if not task.cancelled() and task.exception()]
    return agents.lost


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 2**32),
    st.sampled_from([0, 700, 5000, 1 << 20]),
    st.sampled_from([0, 6000, 20_000, 1 << 20]),
    st.sampled_from([0, 1 << 20]),
)
def test_any_order_of_stops_and_cancels_loses_nothing(seed: int, ram: int, disk: int, large: int) -> None:
    """What is `large` is copied by threads."""
    with tempfile.TemporaryDirectory() as path, pytest.MonkeyPatch.context() as patch:
        patch.setattr("aios.kernel.context.moves.LARGE", large)
        lost = asyncio.run(play(seed, ram, disk, Path(path)))
    if max(ram, disk) == 1 << 20:
        assert lost == 0, "with room enough nothing is computed twice"


async def test_what_is_stopped_stays_in_its_pool_until_others_need_the_room(tmp_path: Path) -> None:
    manager, _ = keeper(tmp_path)
    pool = FakePool(1000)
    held = Fake("a", pool, 200)
    manager.put(held)
    assert held.is_inside
    await manager.take(held)
    manager.put(held)
    other = await begun(manager, "b", pool, 300)
    assert held.is_inside, "there was room for both"
    third = await begun(manager, "c", pool, 100)
    assert not held.is_inside
    found = manager.statistics(pool)
    assert (found["restores_pool"], found["suspended_ram"], found["suspended_ram_bytes"]) == (1, 1, 200)
    for each in (other, third):
        manager.part(each)
    await manager.take(held)
    assert held.is_inside
    assert held.num_lost == 0
    assert manager.statistics(pool)["restores_ram"] == 1


async def begun(manager: ContextManager, key: str, pool: FakePool, size: int) -> Fake:
    await manager.make_room(pool, 2 * size)
    return Fake(key, pool, size)


async def stopped(manager: ContextManager, pool: FakePool, keys: str, size: int = 400) -> list[Fake]:
    """Generations that fill a pool of 1000 bytes each, one after the other."""
    made = []
    for key in keys:
        made.append(await begun(manager, key, pool, size))
        manager.put(made[-1])
    return made


def where(manager: ContextManager, keys: str) -> list[str]:
    found = [manager._tiers.get(key) for key in keys]
    return [entry.tier.value if entry is not None else "nowhere" for entry in found]


async def test_the_oldest_go_first_from_each_tier_to_the_next(tmp_path: Path) -> None:
    manager, swap = keeper(tmp_path, ram=900, disk=5_400)
    pool = FakePool(1000)
    made = await stopped(manager, pool, "abcdef")
    assert where(manager, "abcdef") == ["text", "disk", "disk", "ram", "ram", "pool"]
    manager.check_integrity()
    for held in reversed(made):
        await manager.take(held)
        assert held.is_inside
        manager.part(held)
    assert [held.num_lost for held in made] == [1, 0, 0, 0, 0, 0]
    await manager.close()
    assert swap.sizes() == {}
    found = manager.statistics()
    assert {key: found[f"restores_{key}"] for key in ("pool", "ram", "disk", "text")} == {
        "pool": 1, "ram": 2, "disk": 2, "text": 1,
    }  # fmt: skip


async def test_a_cancelled_generation_frees_what_it_holds_in_every_tier_at_once(tmp_path: Path) -> None:
    manager, swap = keeper(tmp_path, ram=500, disk=5_400)
    pool = FakePool(1000)
    made = await stopped(manager, pool, "abcd")
    assert where(manager, "abcd") == ["disk", "disk", "ram", "pool"]
    for held in made:
        manager.drop(held)
    assert where(manager, "abcd") == ["nowhere"] * 4
    assert pool.reserved == 0
    found = manager.statistics()
    assert [found[f"suspended_{tier}_bytes"] for tier in ("pool", "ram", "disk")] == [0, 0, 0]
    await manager.close()
    assert swap.sizes() == {}


async def test_one_that_is_cancelled_while_it_is_written_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, swap = keeper(tmp_path, ram=500, disk=5_400)
    pool = FakePool(1000)
    put, made = swap.put, await stopped(manager, pool, "ab")
    loop, dropped = asyncio.get_running_loop(), []

    def putting(key: str, parts: Any) -> int:
        async def drop() -> None:
            dropped.append(key)
            manager.drop(made[0])

        asyncio.run_coroutine_threadsafe(drop(), loop).result()
        return put(key, parts)

    monkeypatch.setattr(swap, "put", putting)
    await begun(manager, "c", pool, 400)
    assert len(dropped) == 1
    await manager.close()
    assert swap.sizes() == {}
    assert where(manager, "ab") == ["nowhere", "ram"]


async def test_when_the_one_who_asked_for_the_room_is_cancelled_what_is_written_is_carried_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, swap = keeper(tmp_path, ram=0, disk=11_000)
    pool = FakePool(1000)
    put, made = swap.put, await stopped(manager, pool, "a")
    loop = asyncio.get_running_loop()
    asking = asyncio.create_task(begun(manager, "b", pool, 400))

    def putting(key: str, parts: Any) -> int:
        loop.call_soon_threadsafe(asking.cancel)
        asyncio.run_coroutine_threadsafe(asyncio.wait([asking]), loop).result()
        return put(key, parts)

    monkeypatch.setattr(swap, "put", putting)
    await asyncio.wait([asking])
    await manager.close()
    assert asking.cancelled()
    assert where(manager, "a") == ["disk"]
    assert list(swap.sizes()) == [entry.file.name for entry in manager._tiers._entries.values() if entry.file]
    assert made[0].num_lost == 0


async def test_one_that_goes_on_while_it_is_written_goes_on_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, swap = keeper(tmp_path, ram=500, disk=5_400)
    narrow, wide = FakePool(1000), FakePool(2000)
    first = (await stopped(manager, wide, "a"))[0]
    await manager.make_room(wide, 2000)
    assert where(manager, "a") == ["ram"]
    put, loop = swap.put, asyncio.get_running_loop()
    made = await stopped(manager, narrow, "b")

    def putting(key: str, parts: Any) -> int:
        asyncio.run_coroutine_threadsafe(manager.take(first), loop).result()
        return put(key, parts)

    monkeypatch.setattr(swap, "put", putting)
    await begun(manager, "c", narrow, 400)
    assert first.is_inside
    assert first.num_lost == 0
    await manager.close()
    assert swap.sizes() == {}
    assert where(manager, "b") == ["ram"]
    assert made[0].num_lost == 0


async def test_one_that_waits_for_room_to_come_back_is_nobody_elses_to_move_though_its_writing_ends_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, swap = keeper(tmp_path, ram=500, disk=5_400)
    narrow, wide = FakePool(1000), FakePool(1000)
    first = (await stopped(manager, wide, "a"))[0]
    running = await begun(manager, "x", wide, 400)  # where "a" was
    assert where(manager, "a") == ["ram"]
    await stopped(manager, narrow, "b")
    put, loop, coming = swap.put, asyncio.get_running_loop(), []

    async def comes() -> None:
        coming.append(asyncio.create_task(manager.take(first)))
        await settle()

    def putting(key: str, parts: Any) -> int:
        asyncio.run_coroutine_threadsafe(comes(), loop).result()
        return put(key, parts)

    monkeypatch.setattr(swap, "put", putting)
    await begun(manager, "c", narrow, 400)
    assert where(manager, "ab") == ["disk", "ram"]
    assert manager._tiers.oldest(Tier.DISK) is None
    running.forget()
    manager.freed(wide)
    await coming[0]
    assert (first.is_inside, first.num_lost) == (True, 0)
    await manager.close()
    assert swap.sizes() == {}


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
async def test_on_a_disk_that_is_full_or_fails_the_text_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def failing(descriptor: int, data: Any) -> int:
        raise OSError(error, os.strerror(error))

    manager, swap = keeper(tmp_path, ram=500, disk=1 << 20)
    monkeypatch.setattr("aios.kernel.storage.swap.os.write", failing)
    pool = FakePool(1000)
    made = await stopped(manager, pool, "abc")
    assert where(manager, "abc") == ["text", "ram", "pool"]
    assert list(swap.folder.iterdir()) == []
    assert manager.statistics()["disk_failures"] == 1
    await manager.take(made[0])
    assert made[0].num_lost == 1
    swap.check_integrity()


async def test_where_the_machine_has_no_memory_left_the_text_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(held: Fake) -> Any:
        raise MemoryError

    manager, _ = keeper(tmp_path)
    monkeypatch.setattr(Fake, "copying", lambda held: lambda: failing(held))
    pool = FakePool(1000)
    made = await stopped(manager, pool, "ab")
    assert where(manager, "ab") == ["text", "pool"]
    manager.drop(made[1])
    await manager.take(made[0])
    assert made[0].num_lost == 1
    manager.part(made[0])
    assert pool.reserved == 0


async def test_a_file_that_was_damaged_meanwhile_is_computed_anew_and_says_so(tmp_path: Path) -> None:
    manager, swap = keeper(tmp_path, ram=0, disk=1 << 20)
    pool = FakePool(1000)
    made = await stopped(manager, pool, "ab")
    (file,) = swap.folder.iterdir()
    data = bytearray(file.read_bytes())
    data[-40] ^= 1
    file.write_bytes(data)
    manager.drop(made[1])
    why = await manager.take(made[0])
    assert why is not None
    assert "damaged" in why
    assert made[0].is_inside
    assert made[0].num_lost == 1


async def test_who_waits_for_room_that_runs_gets_it_when_that_is_stopped(tmp_path: Path) -> None:
    manager, _ = keeper(tmp_path)
    pool = FakePool(1000)
    first, second = [*await stopped(manager, pool, "a"), await begun(manager, "b", pool, 400)]
    waiting = asyncio.create_task(manager.take(first))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    manager.put(second)
    await waiting
    assert first.is_inside
    assert not second.is_inside


async def test_who_is_cancelled_while_it_waits_for_room_is_where_it_was(tmp_path: Path) -> None:
    manager, _ = keeper(tmp_path)
    pool = FakePool(1000)
    first, second = [*await stopped(manager, pool, "a"), await begun(manager, "b", pool, 400)]
    waiting = asyncio.create_task(manager.take(first))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert where(manager, "a") == ["ram"]
    manager.part(second)
    await manager.take(first)
    assert first.is_inside
    assert first.num_lost == 0


def test_room_for_new_ones_is_what_stopped_ones_can_make_free_without_losing_anything(tmp_path: Path) -> None:
    manager, _ = keeper(tmp_path, ram=300)
    pool = FakePool(1000)
    assert manager.room(pool) == 1000
    manager.put(Fake("a", pool, 400))
    assert manager.room(pool) == 200 + 300
    assert manager.room(pool, is_text=True) == 1000

"""A disk that is really full, in the middle of a snapshot: nothing crashes or is left, and the bytes are the same."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.context.generations import FakePool, keeper
from tests.context.small_swap_disk import SmallDisk, small_disk
from tests.context.test_tiers import stopped, where
from tests.llm import tiny_model

from aios.abi.calls import LLMGenerate
from aios.abi.errors import Stopping
from aios.abi.messages import Generation, Message
from aios.kernel import Kernel
from aios.kernel.config import Config, ContextSection
from aios.kernel.llm.nano import NanoCore
from aios.testing import booted, principal, until

pytestmark = pytest.mark.anyio

WINDOW = 262_144
AGENTS = 4
TOKENS = 150
CONFIG = Config(context=ContextSection(ram_bytes=0, disk_bytes=1 << 26))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("model"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """200 KiB: a snapshot or two of those below, and not three. The home's `swap` is on it."""
    with small_disk(tmp_path / "mount", 200 << 10) as disk:
        (tmp_path / "swap").symlink_to(disk.folder)
        yield disk


def ask(n: int) -> LLMGenerate:
    usual: dict[str, Any] = {"seed": n, "temperature": 0.9, "max_tokens": TOKENS, "min_tokens": TOKENS}
    return LLMGenerate(messages=[Message("user", "d" * 120)], logprobs=True, **usual)


def core(folder: Path) -> NanoCore:
    return NanoCore(folder=folder, slots=1, kv_bytes=WINDOW, prefix_bytes=0)


async def answers(kernel: Kernel, key: str | None = None) -> list[tuple[Any, ...]]:
    calls = [
        kernel.call(principal(kernel, f"agent{n}"), "llm_generate", ask(n), key=None if key is None else key + str(n))
        for n in range(AGENTS)
    ]
    found: list[Generation] = await asyncio.gather(*calls)
    return [(each.message, each.logprobs, each.finish_reason) for each in found]


async def alone(folder: Path) -> list[tuple[Any, ...]]:
    async with booted(cores=[core(folder)], policy="fifo") as kernel:
        return await answers(kernel)


def parts(home: Path) -> list[str]:
    return [path.name for path in (home / "swap" / "context").iterdir()]


async def test_a_snapshot_that_fills_the_disk_half_written_is_taken_away_and_its_text_kept(
    tmp_path: Path, disk: SmallDisk
) -> None:
    manager, swap = keeper(disk.folder, ram=0, disk=1 << 26)
    disk.leave(64 << 10)
    before = disk.free
    pool = FakePool(200_000)
    made = await stopped(manager, pool, "ab", 80_000)
    assert where(manager, "ab") == ["text", "pool"]
    assert (disk.free, swap.sizes()) == (before, {})
    swap.check_integrity()
    assert manager.statistics(pool)["disk_trouble"] == "No space left on device"
    (disk.folder / "filler").unlink()
    manager.drop(made[0])
    made += await stopped(manager, pool, "c", 80_000)
    assert where(manager, "bc") == ["disk", "pool"]
    assert not manager.statistics()["disk_is_failing"]
    for held in made[1:]:
        manager.drop(held)
    await manager.close()


async def test_generations_whose_disk_fills_up_meanwhile_say_the_same(
    folder: Path, tmp_path: Path, disk: SmallDisk, caplog: pytest.LogCaptureFixture
) -> None:
    want = await alone(folder)
    async with booted(cores=[core(folder)], home=tmp_path, config=CONFIG, policy="rr", quantum=5) as kernel:
        assert await answers(kernel) == want
        found = kernel.contexts.statistics()
    assert found["disk_failures"] > 0
    assert min(found["restores_disk"], found["restores_text"]) > 0, "some snapshots fitted, and some did not"
    assert found["suspended_disk"] == found["suspended_disk_bytes"] == 0
    told = [each.getMessage() for each in caplog.records if each.name == "aios.context"]
    assert "No space left on device" in told[0]
    assert len(told) <= 2, "not for each failure"
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert parts(tmp_path) == []


@pytest.mark.parametrize("free", [0, 12 << 10], ids=["for nothing", "for text"])
async def test_calls_that_are_cut_short_with_a_full_disk_say_the_same_after_the_restart(
    folder: Path, tmp_path: Path, disk: SmallDisk, free: int
) -> None:
    want = await alone(folder)
    async with booted(cores=[core(folder)], home=tmp_path, config=CONFIG, policy="rr", quantum=5) as kernel:
        running = asyncio.create_task(answers(kernel, "k"))
        await until(lambda: kernel.contexts.statistics()["restores_text"] >= 2)
        disk.leave(free)
        await kernel.stop(drain=0.0)
        with pytest.raises(Stopping):
            await running
    async with booted(cores=[core(folder)], home=tmp_path, config=CONFIG, policy="rr", quantum=5) as kernel:
        assert await answers(kernel, "k") == want
    assert parts(tmp_path) == []

"""What a worker process may use of the machine, and what it may say: bounds that no tool can pass."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from tool_world import World

from aios.kernel.config import ToolSection
from aios.kernel.tool.frames import MAX_FRAME, Request, pack, size_of
from aios.testing import until

LIMITS = '''
import resource
from aios import tool

@tool(effect="read")
def limits() -> dict[str, list[int]]:
    """What this process and its children are held to."""
    names = ("CORE", "FSIZE", "NOFILE", "DATA")
    return {name: list(resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))) for name in names}

@tool(effect="read")
def privileges() -> str:
    """Whether a setuid program that is started from here gains anything."""
    with open("/proc/self/status") as status:
        return next(line.split()[1] for line in status if line.startswith("NoNewPrivs"))
'''


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")
def test_a_worker_is_held_to_its_limits_and_gains_no_rights(tmp_path: Path) -> None:
    module = tmp_path / "limits.py"
    module.write_text(LIMITS)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    bounds = {"CORE": 0, "FSIZE": 1 << 30, "NOFILE": 1024, "DATA": max(1 << 30, memory // 2)}

    async def story() -> None:
        world = World(ToolSection(module=str(module)))
        await world.tools.open()
        try:
            limits = (await world.run("limits")).data
            for name, bound in bounds.items():
                soft, hard = limits[name]
                assert 0 <= soft <= hard <= bound, name
            assert (await world.run("privileges")).content == "1"
        finally:
            await world.tools.close()

    asyncio.run(story())


@pytest.mark.skipif(sys.platform != "linux", reason="the check looks into /proc")
def test_a_file_that_never_finishes_loading_is_given_up_and_says_so(tmp_path: Path) -> None:
    module = tmp_path / "endless.py"
    begun = tmp_path / "begun"
    module.write_text(f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\nwhile True:\n    time.sleep(60)\n")

    async def story() -> None:
        world = World(ToolSection(module=str(module)))
        opening = asyncio.create_task(world.tools.open())
        await until(begun.exists)
        world.mock.advance(30.1)
        async with asyncio.timeout(30):
            await opening
        try:
            (why,) = world.tools.problems.values()
            assert "did not load in 30 s" in why
            assert (await world.run("calculator", expression="1")).content == "1"
        finally:
            await world.tools.close()

    asyncio.run(story())


def test_a_frame_beyond_the_bound_is_refused_by_its_length_alone() -> None:
    assert size_of(MAX_FRAME.to_bytes(4, "big")) == MAX_FRAME
    with pytest.raises(ValueError, match="a frame of"):
        size_of((MAX_FRAME + 1).to_bytes(4, "big"))
    packed = pack(Request(1, "add", {"a": 1}))
    assert size_of(packed[:4]) == len(packed) - 4

"""Who may mount, and who may use what is mounted, in a kernel that is whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aios.abi.calls import StoList, StoMount, StoMounts, StoMove, StoRead, StoUnmount, StoWrite
from aios.abi.errors import Denied, NotFound
from aios.kernel import Kernel, parse
from aios.testing import booted, principal

pytestmark = pytest.mark.anyio

GROUPS = """
[[mount]]
name = "team"

[[group]]
name = "writers"
members = ["one"]
may = ["sto_read:team", "sto_write:team"]

[[group]]
name = "readers"
members = ["two"]
may = ["sto_read:team"]
"""


@pytest.fixture
async def kernel() -> AsyncIterator[Kernel]:
    async with booted(config=parse(GROUPS)) as kernel:
        yield kernel


async def call(kernel: Kernel, agent: str, name: str, args: Any) -> Any:
    return await kernel.call(principal(kernel, agent, owner="admin", is_admin=agent == "admin"), name, args)


async def names(kernel: Kernel, agent: str, path: str = "") -> list[str]:
    return [entry.path for entry in (await call(kernel, agent, "sto_list", StoList(path=path))).entries]


async def test_a_shared_mount_is_for_the_groups_that_have_a_right_to_it(kernel: Kernel) -> None:
    await call(kernel, "one", "sto_write", StoWrite(path="team/plan.md", content="ours"))
    assert (await call(kernel, "two", "sto_read", StoRead(path="team/plan.md"))).content == "ours"
    for agent in ("two", "three"):
        with pytest.raises(Denied, match="no group of agent"):
            await call(kernel, agent, "sto_write", StoWrite(path="team/plan.md", content="theirs"))
        with pytest.raises(Denied, match="no group of agent"):
            await call(kernel, agent, "sto_move", StoMove(path="own.md", to="team/own.md"))
    with pytest.raises(Denied, match="no group of agent"):
        await call(kernel, "three", "sto_read", StoRead(path="team/plan.md"))
    assert await names(kernel, "two") == await names(kernel, "admin") == ["team"]
    assert await names(kernel, "three") == []
    assert [m.name for m in (await call(kernel, "three", "sto_mounts", StoMounts())).mounts] == []


async def test_only_an_admin_mounts_and_unmounts(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("secret")
    mount = StoMount(name="mine", folder=str(tmp_path))
    for name, args in (("sto_mount", mount), ("sto_unmount", StoUnmount(name="team"))):
        with pytest.raises(Denied, match="only an admin"):
            await call(kernel, "one", name, args)
    await call(kernel, "admin", "sto_mount", StoMount(name="mine", folder=str(tmp_path), agent="one"))
    assert (await call(kernel, "one", "sto_read", StoRead(path="mine/a.txt"))).content == "secret"
    with pytest.raises(NotFound):
        await call(kernel, "two", "sto_read", StoRead(path="mine/a.txt"))
    await call(kernel, "admin", "sto_unmount", StoUnmount(name="mine", agent="one"))
    with pytest.raises(NotFound):
        await call(kernel, "one", "sto_read", StoRead(path="mine/a.txt"))


async def test_mounts_are_there_after_a_restart_of_the_kernel(tmp_path: Path) -> None:
    home, top = tmp_path / "home", tmp_path / "top"
    top.mkdir()
    async with booted(home=home) as kernel:
        await call(kernel, "admin", "sto_mount", StoMount(name="docs", folder=str(top), agent="one"))
        await call(kernel, "one", "sto_write", StoWrite(path="docs/a.txt", content="one"))
    await asyncio.to_thread((top / "a.txt").write_text, "by others")
    async with booted(home=home) as kernel:
        assert (await call(kernel, "one", "sto_read", StoRead(path="docs/a.txt"))).content == "by others"
        assert (await call(kernel, "one", "sto_read", StoRead(path="docs/a.txt", version=1))).content == "one"

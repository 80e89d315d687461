"""What a stop of the kernel means for what is under way: told truly, and never waited for without end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aios.abi import calls as abi
from aios.abi.errors import AiosError, CutShort, OutcomeUnknown
from aios.kernel import Kernel, State, Syscall
from aios.kernel.config import Config, ToolSection
from aios.testing import booted, principal

pytestmark = pytest.mark.anyio

SLOW = """
import time
from aios.sdk import tool

@tool(effect="pure")
def think() -> str:
    \"\"\"Think for long.\"\"\"
    time.sleep(600)
    return ""

@tool(effect="irreversible")
def send() -> str:
    \"\"\"Send it, slowly.\"\"\"
    time.sleep(600)
    return ""
"""


async def running(kernel: Kernel, name: str, args: abi.Args, key: str | None = None) -> Syscall:
    """A call, once it runs."""
    begun = asyncio.Event()
    stop = kernel.trace.listen(lambda row: begun.set() if row.state == "running" else None)
    call = kernel.submit(principal(kernel), name, args, key=key)
    await begun.wait()
    stop()
    return call


async def fate(kernel: Kernel, call: Syscall) -> AiosError:
    with pytest.raises(AiosError) as caught:
        await kernel.wait(call)
    return caught.value


@pytest.mark.parametrize(("tool", "kind"), [("think", CutShort), ("send", OutcomeUnknown)])
async def test_a_tool_that_a_stop_interrupts_may_be_asked_again_unless_it_may_have_changed_the_world(
    tmp_path: Path, tool: str, kind: type[AiosError]
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    async with booted(home=tmp_path, config=Config(tool=[ToolSection(module="slow.py")])) as kernel:
        call = await running(kernel, "tool_run", abi.ToolRun(name=tool))
        await kernel.stop(drain=0.0)
        error = await fate(kernel, call)
        assert type(error) is kind
        assert (error.fault, error.retry_after is not None) == ("kernel", kind is CutShort)


async def test_a_side_effect_under_a_key_that_a_stop_interrupts_is_unknown_then_and_ever_after(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    config, send = Config(tool=[ToolSection(module="slow.py")]), abi.ToolRun(name="send")
    async with booted(home=tmp_path, config=config) as kernel:
        call = await running(kernel, "tool_run", send, "k")
        await kernel.stop(drain=0.0)
        told = await fate(kernel, call)
    assert type(told) is OutcomeUnknown
    async with booted(home=tmp_path, config=config) as kernel:
        again = kernel.submit(principal(kernel), "tool_run", send, key="k")
        assert (await fate(kernel, again)).to_dict() == told.to_dict()


async def test_a_write_that_a_stop_interrupts_may_have_been_done_and_a_look_did_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with booted() as kernel:
        forever = asyncio.Event()

        async def slow(call: Any) -> None:
            await forever.wait()

        monkeypatch.setattr(kernel.memory, "run", slow)
        write = await running(kernel, "mem_write", abi.MemWrite(content="x"))
        read = await running(kernel, "mem_list", abi.MemList())
        await kernel.stop(drain=0.0)
        assert type(await fate(kernel, write)) is OutcomeUnknown
        assert type(await fate(kernel, read)) is CutShort


async def test_a_side_effect_that_only_waited_when_the_kernel_stopped_may_be_asked_again(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    async with booted(home=tmp_path, config=Config(tool=[ToolSection(module="slow.py")])) as kernel:
        await running(kernel, "tool_run", abi.ToolRun(name="send"))
        waits = kernel.submit(principal(kernel), "tool_run", abi.ToolRun(name="send"))
        await asyncio.to_thread(kernel.database.run_now, lambda connection: None)
        await asyncio.sleep(0)
        assert waits.state is State.QUEUED
        await kernel.stop(drain=0.0)
        assert type(await fate(kernel, waits)) is CutShort


async def test_a_purge_that_takes_long_does_not_hold_up_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    async with booted() as kernel:
        begun, is_cut = asyncio.Event(), list[bool]()

        async def endless(*_: Any) -> int:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                is_cut.append(True)
            return 0

        assert kernel.house.purging is not None
        await kernel.house.purging  # the one of the boot, which would be endless too and be nobody's
        monkeypatch.setattr(kernel.journal, "purge", endless)
        kernel.house.rest()
        kernel.house.keep()
        await begun.wait()
        await asyncio.wait_for(kernel.stop(drain=0.0), 20)
        assert is_cut == [True]

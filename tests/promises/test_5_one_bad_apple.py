"""Promise 5, one bad apple: a core, tool or client that breaks, hangs or lies costs the others nothing."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from aios.abi.calls import LLMGenerate, ToolRun
from aios.abi.errors import AiosError, ModuleFault, TimedOut
from aios.abi.messages import Generation, Message
from aios.kernel import Config
from aios.kernel.config import ToolSection
from aios.kernel.llm.base import Request
from aios.kernel.syscall import Suspended
from aios.testing import ScriptedCore, booted, principal

pytestmark = pytest.mark.anyio

TOOLS = '''
import os, time
from aios import tool

@tool(effect="pure", max_instances=2)
def die() -> str:
    """Crash."""
    os.abort()

@tool(effect="pure", timeout=0.5, max_instances=2)
def hang() -> str:
    """Never end."""
    while True:
        time.sleep(60)

@tool(effect="pure", max_instances=2)
def greet(name: str) -> str:
    """Say hello."""
    return f"hello {name}"
'''


def ask(model: str | None = None) -> LLMGenerate:
    return LLMGenerate(messages=[Message(role="user", content="hello")], model=model)


class BrokenCore(ScriptedCore):
    """Raises what no core should."""

    async def run(self, request: Request, quantum: int | None) -> Generation | Suspended:
        raise RuntimeError("the model fell over")


async def test_a_core_that_raises_fails_its_own_calls_and_no_others() -> None:
    cores = {"good": ScriptedCore(name="good", model="g"), "bad": BrokenCore(name="bad", model="b")}
    async with booted(cores=cores) as kernel:
        who = principal(kernel)
        calls = [kernel.submit(who, "llm_generate", ask(("good", "bad")[n % 2])) for n in range(40)]
        for n, call in enumerate(calls):
            if n % 2:
                with pytest.raises(ModuleFault, match="RuntimeError"):
                    await kernel.wait(call)
            else:
                assert (await kernel.wait(call)).message.content == "ok"


async def test_tools_that_crash_and_hang_end_in_one_error_each_while_others_go_on(tmp_path: Path) -> None:
    module = tmp_path / "bad_tools.py"
    module.write_text(TOOLS)
    config = Config(tool=[ToolSection(module=str(module), max_instances=2, timeout=5)])
    async with booted(config=config) as kernel:
        who = principal(kernel)

        async def run(tool: str, **arguments: str) -> str:
            result = await kernel.call(who, "tool_run", ToolRun(name=tool, arguments=arguments))
            return str(result.content)

        bad = [asyncio.create_task(run(name)) for name in ("die", "hang") * 3]
        assert await asyncio.gather(*(run("greet", name=str(n)) for n in range(6))) == [f"hello {n}" for n in range(6)]
        outcomes = await asyncio.gather(*bad, return_exceptions=True)
        assert all(isinstance(outcome, ModuleFault | TimedOut) for outcome in outcomes), outcomes
        assert await run("greet", name="still here") == "hello still here"


async def test_a_listener_that_raises_or_leaves_does_not_harm_other_calls() -> None:
    core = ScriptedCore(tokens=20, slots=2)
    async with booted(cores={"one": core}) as kernel:
        who = principal(kernel)
        waiters = [asyncio.create_task(kernel.call(who, "llm_generate", ask())) for _ in range(20)]
        await core.entered(1)
        for waiter in waiters[::2]:
            waiter.cancel()
        for waiter in waiters[::2]:
            with contextlib.suppress(asyncio.CancelledError, AiosError):
                await waiter
        answers = await asyncio.gather(*waiters[1::2])
        assert len(answers) == 10
        assert core.inside == set()

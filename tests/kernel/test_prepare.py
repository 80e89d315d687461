"""What a call needs before it is queued, and what becomes of it when that is done, fails, or is broken off."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError, CutShort, Denied, KernelFault
from aios.abi.messages import Message
from aios.kernel.prepare import Preparation
from aios.kernel.syscall import TERMINAL
from aios.testing import ScriptedCore, booted, principal

pytestmark = pytest.mark.anyio


class Ends:
    """A step that ends as it is told: well, or with an error."""

    why = "a test"

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def wants(self, call: Any) -> bool:
        return True

    async def prepare(self, call: Any) -> None:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error


async def fate_of(step: Ends, core: ScriptedCore) -> AiosError | None:
    async with booted(cores=[core]) as kernel:
        kernel.preparation = Preparation([step])
        call = kernel.submit(principal(kernel), "llm_generate", LLMGenerate([Message("user", "hi")]))
        try:
            await kernel.wait(call)
        except AiosError as error:
            assert call.state in TERMINAL
            return error
        return None


async def test_a_call_that_was_prepared_runs_and_one_whose_step_failed_ends_with_its_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    core = ScriptedCore()
    assert await fate_of(Ends(), core) is None
    assert isinstance(await fate_of(Ends(Denied("no")), core), Denied)
    assert isinstance(await fate_of(Ends(ValueError("a bug")), core), KernelFault)
    assert len(core.seen) == 1


async def test_a_call_whose_preparation_is_broken_off_does_not_run_as_if_it_had_been_prepared() -> None:
    core = ScriptedCore()
    error = await fate_of(Ends(asyncio.CancelledError()), core)
    assert isinstance(error, CutShort)
    assert "ask again" in error.message
    assert not core.seen

"""What becomes of a call whose core would not begin it: another core, another time, or one honest error."""

from __future__ import annotations

from typing import Any

import pytest

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError, UpstreamFault
from aios.abi.messages import Generation, Message
from aios.kernel.config import Config, RouterSection
from aios.kernel.llm.base import NotBegun, Request
from aios.kernel.llm.manager import MAX_TRIES
from aios.kernel.syscall import Suspended
from aios.testing import MockClock, ScriptedCore, booted, principal, settle, until

pytestmark = pytest.mark.anyio


class Shy(ScriptedCore):
    """Will not begin the first `refusals` calls."""

    def __init__(self, refusals: int, *, is_busy: bool = False, after: float = 2.0, **more: Any) -> None:
        super().__init__(**more)
        self.left = refusals
        self.num_asked = 0
        self.is_busy = is_busy
        self.after = after

    async def run(self, request: Request, quantum: int | None) -> Generation | Suspended:
        self.num_asked += 1
        if self.left:
            self.left -= 1
            raise NotBegun(UpstreamFault("no", code="upstream_failed"), after=self.after, is_busy=self.is_busy)
        return await super().run(request, quantum)


def ask(model: str | None = None) -> LLMGenerate:
    return LLMGenerate(messages=[Message("user", "hi")], model=model)


async def test_a_call_that_was_not_begun_is_tried_again_when_its_pause_is_over() -> None:
    clock, core = MockClock(), Shy(1)
    async with booted(cores={"scripted": core}, clock=clock) as kernel:
        call = kernel.submit(principal(kernel), "llm_generate", ask())
        await until(lambda: core.num_asked == 1 and not core.left)
        assert call.state.value == "queued"
        clock.advance(1.9)
        await settle()
        assert core.num_asked == 1
        clock.advance(0.2)
        assert (await call.future).message.content == "ok"
        assert (core.num_asked, call.num_switches) == (2, 1)
        kernel.check_integrity()


async def test_another_core_of_the_same_model_takes_it_at_once() -> None:
    shy, other = Shy(1, name="a", model="m"), ScriptedCore("from b", name="b", model="m")
    config = Config(router=RouterSection())
    async with booted(cores={"a": shy, "b": other}, clock=MockClock(), config=config) as kernel:
        done = await kernel.call(principal(kernel), "llm_generate", ask("m"))
        assert (done.message.content, done.core) == ("from b", "b")


async def test_faults_end_in_one_honest_error_after_enough_tries() -> None:
    core = Shy(100, after=0.0)
    async with booted(cores={"scripted": core}, clock=MockClock()) as kernel:
        with pytest.raises(AiosError, match="no"):
            await kernel.call(principal(kernel), "llm_generate", ask())
        assert core.num_asked == MAX_TRIES
        kernel.check_integrity()


async def test_a_busy_server_is_waited_for_as_long_as_the_call_may_take() -> None:
    core = Shy(3 * MAX_TRIES, is_busy=True, after=0.0)
    async with booted(cores={"scripted": core}, clock=MockClock()) as kernel:
        assert (await kernel.call(principal(kernel), "llm_generate", ask())).message.content == "ok"


async def test_while_a_call_waits_out_its_pause_others_have_the_core() -> None:
    clock, core = MockClock(), Shy(1, slots=1)
    async with booted(cores={"scripted": core}, clock=clock) as kernel:
        who = principal(kernel)
        first, second = (kernel.submit(who, "llm_generate", ask()) for _ in range(2))
        assert (await second.future).message.content == "ok"
        assert first.state.value == "queued"
        clock.advance(3.0)
        assert (await first.future).message.content == "ok"


async def test_a_call_that_comes_back_keeps_its_place_under_fifo() -> None:
    core = Shy(1, slots=1, after=0.0)
    async with booted(cores={"scripted": core}, clock=MockClock()) as kernel:
        who = principal(kernel)
        first, second = (kernel.submit(who, "llm_generate", ask()) for _ in range(2))
        await second.future
        assert first.state.value == "done"

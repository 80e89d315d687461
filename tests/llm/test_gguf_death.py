"""A gguf core's process that dies under a kernel: who waits, who goes to another core of the name, who is told."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aios.abi.calls import LLMEmbed, LLMGenerate, ProcSignal, ProcSpawn
from aios.abi.errors import AiosError, CutShort, ModuleFault
from aios.abi.messages import Message
from aios.kernel import Config, CoreSection, Kernel, Scheduler, State
from aios.kernel.llm.gguf import keeper
from aios.testing import principal, until

pytest.importorskip("xllamacpp")
from tiny_gguf import THINKING, write_gguf

pytestmark = pytest.mark.anyio

LONG = 1200
"""Tokens of an answer that is not over before it is stopped, on a busy machine too."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started again at once."""
    monkeypatch.setattr(keeper, "FIRST_PAUSE", 0.001)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not started again for as long as a test lasts."""
    monkeypatch.setattr(keeper, "FIRST_PAUSE", 3600.0)


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given up when it dies."""
    monkeypatch.setattr(keeper, "MAX_CRASHES", 0)


class World:
    """A kernel with gguf cores, all of the model "m"."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.admin = principal(kernel, "admin", is_admin=True)

    def core(self, name: str) -> Any:
        return self.kernel.llm.core(name)

    def kill(self, name: str) -> None:
        os.kill(self.core(name)._keeper.process._child.pid, signal.SIGKILL)

    def state(self, name: str) -> str | None:
        seat = self.kernel.llm.roster.get(name)
        return seat.state.value if seat else None

    def submit(self, model: str = "m", agent: str = "ann", *, max_tokens: int = 20, **more: Any) -> Any:
        args = LLMGenerate(
            messages=[Message(role="user", content=agent)], model=model, temperature=0.0, max_tokens=max_tokens, seed=1
        )
        return self.kernel.submit(principal(self.kernel, agent), "llm_generate", args, **more)

    async def fate(self, call: Any) -> str:
        """How it ends: the code of its error, if there is one."""
        try:
            await self.kernel.wait(call)
        except AiosError as error:
            return error.code
        return "done"

    async def stopped(self, on_chunk: Any) -> Any:
        """A call that has begun, whose process is stopped."""
        spawned = await self.kernel.call(self.admin, "proc_spawn", ProcSpawn(agent="ann"))
        args = LLMGenerate(messages=[Message("user", "hi")], model="m", temperature=0.0, max_tokens=LONG, seed=1)
        call = self.kernel.submit(self.kernel.authenticate(spawned.key), "llm_generate", args, on_chunk=on_chunk)
        await until(lambda: call.tokens_out)
        await self.signal(call, "stop")
        await until(lambda: call.state is State.BLOCKED)
        return call

    async def signal(self, call: Any, signal: str) -> None:
        await self.kernel.call(self.admin, "proc_signal", ProcSignal(pid=call.process.pid, signal=signal))

    async def served_by(self, call: Any) -> str:
        answer = await self.kernel.wait(call)
        assert answer.usage.completion_tokens == 20
        return str(answer.core)


@asynccontextmanager
async def world(model: Path, home: Path, *names: str, quantum: int = 7, **more: Any) -> AsyncIterator[World]:
    given = {"slots": 1, "context_length": 2048, **more}
    cores = [CoreSection(name=name, kind="gguf", model="m", path=str(model), **given) for name in names]
    kernel = await Kernel.boot(Config(core=cores, scheduler=Scheduler(quantum=quantum)), home)
    try:
        yield World(kernel)
        kernel.check_integrity()
    finally:
        await kernel.stop(0.0)


async def test_calls_go_to_another_core_of_the_name_while_one_is_started_again(
    model: Path, tmp_path: Path, slow: None
) -> None:
    async with world(model, tmp_path, "g", "h") as at:
        at.kill("g")
        await until(lambda: at.state("g") == "restarting")
        calls = [at.submit(agent=f"a{n}") for n in range(4)]
        assert {await at.served_by(call) for call in calls} == {"h"}
        [info] = [each for each in at.kernel.cores.info() if each.name == "g"]
        assert info.why == "its process was ended by SIGKILL; it is started again"
        assert info.detail["refusals"] == 0


async def test_calls_that_nobody_else_serves_wait_until_the_core_is_back(
    model: Path, tmp_path: Path, quick: None
) -> None:
    async with world(model, tmp_path, "g", "h") as at:
        at.kill("g")
        await until(lambda: at.state("g") == "restarting")
        call = at.submit("g")
        await until(lambda: call.state is State.QUEUED)
        assert await at.served_by(call) == "g"
        assert at.state("g") == "ready"
        rows = [row.state for row in at.kernel.trace.rows if row.name == "core" and row.core == "g"]
        assert rows == ["opening", "ready", "restarting", "ready"]


async def test_a_call_whose_process_was_dead_before_it_was_asked_goes_elsewhere(
    model: Path, tmp_path: Path, slow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(model, tmp_path, "g", "h") as at:
        noticed = asyncio.Event()
        kept = at.core("g")._keeper
        process = kept.process
        ended = process.ended

        async def late() -> None:  # the kernel hears of its death later than who asks it
            await ended()
            await noticed.wait()

        kept._task.cancel()
        monkeypatch.setattr(process, "ended", late)
        kept._task = asyncio.create_task(kept._keep_up())
        at.kill("g")
        await ended()
        assert at.state("g") == "ready"
        assert await at.served_by(at.submit()) == "h"
        noticed.set()


@pytest.mark.parametrize("is_drained", [False, True])
async def test_an_interrupted_answer_waits_for_its_core_to_come_back(
    model: Path, tmp_path: Path, quick: None, is_drained: bool
) -> None:
    async with world(model, tmp_path, "g") as at:
        solo = await at.kernel.wait(at.submit(agent="ann", max_tokens=200))
        first, second = (at.submit(agent=each, max_tokens=200, on_chunk=lambda chunk: None) for each in ("ann", "bob"))
        await until(lambda: first.num_switches > 1 and second.num_switches > 1)
        await until(lambda: second.state is State.RUNNING)
        at.kill("g")
        if is_drained:
            at.kernel.cores.drain("g")
        assert (await at.kernel.wait(first)).message == solo.message
        assert await at.fate(second) in ("done", "core_crashed")  # what it had said may have been enough for its slice
        assert at.state("g") == ("draining" if is_drained else "ready")


async def test_when_a_core_is_given_up_its_calls_go_to_another_core_of_the_name(
    model: Path, tmp_path: Path, once: None
) -> None:
    async with world(model, tmp_path, "g", "h") as at:
        at.kernel.cores.drain("h")
        running = at.submit(max_tokens=2000, on_chunk=lambda chunk: None)
        waiting = [at.submit(agent=f"a{n}") for n in range(3)]
        await until(lambda: running.state is State.RUNNING and running.is_heard)
        at.kernel.cores.reopen("h")
        at.kill("g")
        assert {await at.served_by(call) for call in waiting} <= {"g", "h"}
        assert await at.fate(running) in ("core_crashed", "done")  # it was being computed, or just interrupted
        assert at.state("g") == "failed"
        assert await at.served_by(at.submit()) == "h"


async def test_half_an_answer_of_a_core_that_is_given_up_goes_on_elsewhere_as_if_nothing_had_happened(
    model: Path, tmp_path: Path, once: None
) -> None:
    async with world(model, tmp_path, "g", "h") as at:
        solo = await at.kernel.wait(at.submit("h", "hi", max_tokens=LONG))
        at.kernel.cores.drain("h")
        text: list[str] = []
        heard, unheard = await at.stopped(lambda chunk: text.append(chunk.text)), await at.stopped(None)
        at.kernel.cores.reopen("h")
        at.kill("g")
        await until(lambda: at.state("g") == "failed")
        for call in (heard, unheard):
            await at.signal(call, "cont")
            answer = await at.kernel.wait(call)
            assert (answer.core, answer.message, call.tokens_out) == ("h", solo.message, LONG)
        assert "".join(text) == solo.message.content


async def test_half_an_answer_that_was_to_go_on_on_a_core_that_leaves_does_not_wait_for_ever(
    model: Path, tmp_path: Path, once: None
) -> None:
    async with world(model, tmp_path, "g", "h") as at:
        at.kernel.cores.drain("h")
        call = await at.stopped(lambda chunk: None)
        at.kernel.cores.reopen("h")
        at.kill("g")
        await until(lambda: at.state("g") == "failed" and call.core is None)
        at.kernel.cores.drain("h")
        with pytest.raises(CutShort, match=r"what began this answer is gone, and .*core 'h' is being drained"):
            await at.kernel.wait(call)


async def test_half_an_answer_that_is_more_than_text_ends_with_its_core_if_somebody_has_heard_it(
    model: Path, tmp_path: Path, once: None
) -> None:
    async with world(write_gguf(tmp_path / "thinks.gguf", template=THINKING), tmp_path, "g", "h") as at:
        at.kernel.cores.drain("h")
        heard, unheard = await at.stopped(lambda chunk: None), await at.stopped(None)
        at.kernel.cores.reopen("h")
        at.kill("g")
        with pytest.raises(ModuleFault, match=r"core 'g' failed in the middle of this answer .*SIGKILL, 1 times"):
            await at.kernel.wait(heard)
        await at.signal(unheard, "cont")
        answer = await at.kernel.wait(unheard)
        assert (answer.core, answer.usage.completion_tokens, unheard.tokens_out) == ("h", LONG, LONG)


async def test_a_core_that_was_given_up_is_shown_as_failed_and_opened_anew_when_asked(
    model: Path, tmp_path: Path, once: None
) -> None:
    async with world(model, tmp_path, "g") as at:
        old = at.core("g")
        at.kill("g")
        await until(lambda: at.state("g") == "failed")
        with pytest.raises(AiosError, match=r"core 'g' failed \(its process was ended by SIGKILL, 1 times") as caught:
            at.submit()
        assert caught.value.code == "core_failed"
        at.kernel.cores.reopen("g")
        call = at.submit()
        assert at.state("g") == "opening"
        assert await at.served_by(call) == "g"
        assert at.core("g") is not old
        assert old._keeper._task.done()


async def test_calls_that_waited_for_a_core_that_comes_back_no_more_are_told_so(
    model: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "MAX_CRASHES", 2)
    path = write_gguf(tmp_path / "cut.gguf")
    async with world(path, tmp_path, "g") as at:
        os.truncate(path, path.stat().st_size // 2)
        at.kill("g")
        await until(lambda: at.state("g") == "restarting")
        call = at.submit()
        with pytest.raises(ModuleFault, match=r"core 'g' failed \(it could not be started again: .*bounds"):
            await at.kernel.wait(call)
        write_gguf(path)
        at.kernel.cores.reopen("g")
        assert await at.served_by(at.submit()) == "g"


async def test_a_process_that_cannot_even_be_made_counts_as_a_crash_and_not_as_a_silence(
    model: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(model, tmp_path, "g") as at:

        async def no_more(*args: Any, **more: Any) -> None:
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(keeper, "MAX_CRASHES", 2)
        monkeypatch.setattr(asyncio, "create_subprocess_exec", no_more)
        at.kill("g")
        await until(lambda: at.state("g") == "failed")
        assert "started again: [Errno 24] Too many open files, 3 times" in (at.kernel.cores.find("g").why or "")


async def test_a_core_for_embedding_is_given_up_and_opened_anew_like_any_other(
    model: Path, tmp_path: Path, once: None
) -> None:
    async with world(model, tmp_path, "e", "f", embeddings=True) as at:
        who = principal(at.kernel)
        at.kill("e")
        await until(lambda: at.state("e") == "failed")
        done = await at.kernel.call(who, "llm_embed", LLMEmbed(input="hi", model="m"))
        assert done.core == "f"
        at.kernel.cores.reopen("e")
        await until(lambda: at.state("e") == "ready")


async def test_a_core_that_dies_while_it_is_removed_is_gone_all_the_same(
    model: Path, tmp_path: Path, once: None
) -> None:
    async with world(model, tmp_path, "g", "h") as at:
        call = at.submit("g", max_tokens=2000, on_chunk=lambda chunk: None)
        await until(lambda: call.is_heard)
        at.kernel.cores.remove("g")
        at.kill("g")
        with pytest.raises(ModuleFault):
            await at.kernel.wait(call)
        await until(lambda: at.state("g") is None)
        assert not (tmp_path / "slots" / "g").exists()

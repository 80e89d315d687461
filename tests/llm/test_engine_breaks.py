"""What goes wrong in an own core's engine: what ends with it, what does not, and where calls go then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny_model

from aios.abi.calls import LLMGenerate, ProcSignal, ProcSpawn
from aios.abi.errors import AiosError, ModuleFault
from aios.abi.messages import Chunk, Generation, Message, Usage
from aios.kernel import Kernel, State
from aios.kernel.llm.base import NotBegun, Request
from aios.kernel.llm.local.kv import KV, NumPyMemory
from aios.kernel.llm.local.sequence import Sequence
from aios.kernel.llm.nano import NanoCore
from aios.kernel.syscall import Suspended
from aios.testing import booted, principal, until

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def core(folder: Path) -> AsyncIterator[NanoCore]:
    core = NanoCore(folder=folder, kv_bytes=1 << 26)
    await core.open()
    yield core
    assert core.statistics()["kv_sequences"] == core.statistics()["kv_reserved_bytes"] == 0
    await core.close()


def ask(text: str = "hello", **more: Any) -> LLMGenerate:
    return LLMGenerate(messages=[Message("user", text)], **{"seed": 1, "max_tokens": 40, "min_tokens": 40, **more})


def mute(chunk: Chunk) -> None:
    """Hears, and says nothing of it."""


async def answered(core: NanoCore, args: LLMGenerate, id: str, quantum: int | None = None) -> Generation:
    outcome: Any = None
    while not isinstance(outcome, Generation):
        snapshot = None if outcome is None else outcome.snapshot
        outcome = await core.run(Request(id, args, mute, snapshot, is_streamed=True), quantum)
    usage = outcome.usage
    return msgspec.structs.replace(outcome, usage=Usage.of(usage.prompt_tokens, usage.completion_tokens))


def breaks(core: NanoCore, error: BaseException, after: int = 0) -> None:
    """The engine does `after` more steps, and then raises."""
    assert core._engine is not None
    step, left = core._engine.step, after

    def broken() -> list[Sequence]:
        nonlocal left
        left -= 1
        if left < 0:
            raise error
        return step()

    core._engine.step = broken  # type: ignore[method-assign]


# ── the whole engine ──


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug of ours"), MemoryError(), SystemExit(3)])
async def test_when_the_engine_breaks_all_that_ran_ends_with_one_error_and_what_comes_may_go_elsewhere(
    folder: Path, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    core, told = NanoCore(folder=folder, kv_bytes=1 << 26), []
    core.tell = lambda state, why: told.append((state, why))
    await core.open()
    breaks(core, error, after=3)
    calls = [core.run(Request(str(n), ask(), mute, is_streamed=True), 7) for n in range(4)]
    for fate in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(fate, ModuleFault)
        assert (fate.code, f"core 'nano' broke while this ran ({type(error).__name__}" in fate.message) == (
            "core_crashed",
            True,
        )
    [(state, why)] = told
    assert (state, why.startswith(f"its engine broke: {type(error).__name__}")) == ("failed", True)
    with pytest.raises(NotBegun, match="core 'nano' is not running") as caught:
        await core.run(Request("late", ask(), mute), None)
    assert not caught.value.is_busy
    assert core.statistics()["kv_sequences"] == 0
    assert "Traceback" in caplog.text
    await core.close()


async def test_a_core_whose_engine_broke_can_be_opened_again(folder: Path) -> None:
    core = NanoCore(folder=folder, kv_bytes=1 << 26)
    await core.open()
    solo = await answered(core, ask(), "a")
    breaks(core, ValueError("a bug"))
    with pytest.raises(ModuleFault):
        await answered(core, ask(), "b")
    await core.close()
    await core.open()
    assert await answered(core, ask(), "c") == solo
    await core.close()


# ── one sequence alone ──


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug of ours"), MemoryError("no room")])
async def test_what_goes_wrong_in_choosing_a_token_is_that_sequences_trouble_alone(
    core: NanoCore, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    solo = await answered(core, ask(temperature=0.8), "a")
    choose = Sequence.choose

    def choosing(self: Sequence, rows: Any) -> None:
        if self.id == "bad" and self.num_chosen == 5:
            raise error
        choose(self, rows)

    monkeypatch.setattr(Sequence, "choose", choosing)
    good = [answered(core, ask(temperature=0.8), str(n), 6) for n in range(3)]
    bad = core.run(Request("bad", ask(), mute, is_streamed=True), None)
    *answers, fate = await asyncio.gather(*good, bad, return_exceptions=True)
    assert answers == [solo] * 3
    assert fate is error or (isinstance(fate, ModuleFault) and fate.code == "no_memory")


async def test_a_prompt_that_the_machine_has_no_memory_for_may_go_elsewhere_and_the_others_go_on(
    core: NanoCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    solo = await answered(core, ask(), "a")
    room_for = KV.room_for

    def lacking(self: KV, tokens: int, used: int) -> None:
        if tokens > 300:
            raise MemoryError
        room_for(self, tokens, used)

    monkeypatch.setattr(KV, "room_for", lacking)
    good = [answered(core, ask(), str(n), 6) for n in range(3)]
    bad = core.run(Request("bad", ask("x" * 400, cache_salt="new"), mute, is_streamed=True), None)
    *answers, fate = await asyncio.gather(*good, bad, return_exceptions=True)
    assert answers == [solo] * 3
    assert isinstance(fate, NotBegun)
    assert (fate.error.code, fate.is_busy) == ("no_memory", False)


@pytest.mark.parametrize("after", range(4))
async def test_memory_that_the_machine_does_not_have_is_not_reserved(
    core: NanoCore, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros, left = NumPyMemory.zeros, after

    def lacking(self: NumPyMemory, shape: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise MemoryError
        return zeros(self, shape)

    monkeypatch.setattr(NumPyMemory, "zeros", lacking)
    fate = await asyncio.gather(
        core.run(Request("a", ask(beam_width=4, min_tokens=0), mute), None), return_exceptions=True
    )
    assert isinstance(fate[0], NotBegun)
    assert (fate[0].error.code, fate[0].is_busy) == ("no_memory", False)
    assert core.statistics()["kv_reserved_bytes"] == 0


async def test_a_search_that_runs_out_of_memory_between_two_lines_leaves_none_behind(
    core: NanoCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ask(beam_width=4, min_tokens=20)
    solo = await answered(core, args, "a")
    copy, copied = KV.copy, 0

    def lacking(self: KV, other: KV, tokens: int) -> None:
        nonlocal copied
        copied += 1
        if copied == 5:
            raise MemoryError
        copy(self, other, tokens)

    monkeypatch.setattr(KV, "copy", lacking)
    with pytest.raises(ModuleFault, match="no memory left"):
        await answered(core, args, "b")
    assert core.statistics()["kv_reserved_bytes"] == 0
    assert await answered(core, args, "c") == solo


# ── under the kernel ──


class World:
    """A kernel with two own cores of one model."""

    def __init__(self, kernel: Kernel, cores: dict[str, NanoCore]) -> None:
        self.kernel = kernel
        self.cores = cores
        self.admin = principal(kernel, "admin", is_admin=True)

    def state(self, name: str) -> str | None:
        seat = self.kernel.llm.roster.get(name)
        return seat.state.value if seat else None

    def submit(self, model: str = "m", agent: str = "ann", *, args: LLMGenerate | None = None, **more: Any) -> Any:
        asked = msgspec.structs.replace(args or ask(), model=model)
        return self.kernel.submit(principal(self.kernel, agent), "llm_generate", asked, **more)

    async def stopped(self, on_chunk: Any) -> Any:
        """A call that has begun, whose process is stopped."""
        spawned = await self.kernel.call(self.admin, "proc_spawn", ProcSpawn(agent="ann"))
        asked = msgspec.structs.replace(ask(max_tokens=200, min_tokens=200), model="m")
        call = self.kernel.submit(self.kernel.authenticate(spawned.key), "llm_generate", asked, on_chunk=on_chunk)
        await until(lambda: call.num_slices)
        await self.signal(call, "stop")
        await until(lambda: call.state is State.BLOCKED)
        return call

    async def signal(self, call: Any, signal: str) -> None:
        await self.kernel.call(self.admin, "proc_signal", ProcSignal(pid=call.process.pid, signal=signal))


@asynccontextmanager
async def world(folder: Path, *names: str, slots: int = 2, quantum: int = 5) -> AsyncIterator[World]:
    cores = {name: NanoCore(name, folder=folder, model="m", slots=slots, kv_bytes=1 << 22) for name in names}
    async with booted(cores=cores, quantum=quantum) as kernel:
        yield World(kernel, cores)


async def test_a_core_whose_engine_breaks_is_failed_and_calls_for_its_name_go_to_another(folder: Path) -> None:
    async with world(folder, "one", "two") as at:
        solo = await at.kernel.wait(at.submit("two"))
        breaks(at.cores["one"], ZeroDivisionError("a bug of ours"), after=4)
        calls = [at.submit(agent=f"a{n}") for n in range(12)]
        answers = await asyncio.gather(*map(at.kernel.wait, calls), return_exceptions=True)
        broken = [each for each in answers if isinstance(each, AiosError)]
        assert 0 < len(broken) <= 2
        assert all(each.code == "core_crashed" for each in broken)
        whole = [each for each in answers if isinstance(each, Generation)]
        assert {(each.core, each.message.content) for each in whole} == {("two", solo.message.content)}
        [info] = [each for each in at.kernel.cores.info() if each.name == "one"]
        assert (info.state, info.why) == ("failed", "its engine broke: ZeroDivisionError: a bug of ours")
        at.kernel.cores.reopen("one")
        assert (await at.kernel.wait(at.submit("one"))).message == solo.message
        assert at.state("one") == "ready"


async def test_with_no_other_core_of_the_name_those_who_wait_are_told_at_once(folder: Path) -> None:
    async with world(folder, "one", slots=1) as at:
        breaks(at.cores["one"], ZeroDivisionError("a bug of ours"), after=2)
        calls = [at.submit(agent=f"a{n}") for n in range(5)]
        fates = await asyncio.gather(*map(at.kernel.wait, calls), return_exceptions=True)
        assert {each.code for each in fates if isinstance(each, AiosError)} == {"core_crashed", "core_failed"}
        assert not any(isinstance(each, Generation) for each in fates)
        with pytest.raises(ModuleFault, match=r"core 'one' failed \(its engine broke: .*'aios cores add NAME'"):
            at.submit()


async def test_an_interrupted_answer_of_a_broken_core_begins_anew_if_nobody_has_heard_it_and_is_told_otherwise(
    folder: Path,
) -> None:
    async with world(folder, "one", "two") as at:
        solo = await at.kernel.wait(at.submit("two", args=ask(max_tokens=200, min_tokens=200)))
        at.kernel.cores.drain("two")
        heard, unheard = await at.stopped(mute), await at.stopped(None)
        at.kernel.cores.reopen("two")
        breaks(at.cores["one"], MemoryError())
        with pytest.raises(ModuleFault, match="core 'one' broke while this ran"):
            await at.kernel.wait(at.submit("one"))
        with pytest.raises(ModuleFault, match=r"core 'one' failed in the middle of this answer .*MemoryError"):
            await at.kernel.wait(heard)
        await at.signal(unheard, "cont")
        answer = await at.kernel.wait(unheard)
        assert (answer.core, answer.message) == ("two", solo.message)
        await until(lambda: at.cores["one"]._engine is None)


async def test_one_call_that_breaks_its_core_does_not_go_on_to_break_the_next(folder: Path) -> None:
    async with world(folder, "one", "two") as at:
        for name in ("one", "two"):
            breaks(at.cores[name], ZeroDivisionError("what this call does to any core"))
        with pytest.raises(ModuleFault, match="broke while this ran"):
            await at.kernel.wait(at.submit())
        assert sorted(map(str, map(at.state, ("one", "two")))) == ["failed", "ready"]


async def test_a_core_that_breaks_while_it_drains_is_failed_and_while_it_is_removed_is_gone(folder: Path) -> None:
    async with world(folder, "one", "two", "three") as at:
        for name in ("one", "two"):
            breaks(at.cores[name], ZeroDivisionError("a bug"), after=6)
        calls = [at.submit(name, on_chunk=mute) for name in ("one", "two")]
        await until(lambda: all(call.state is State.RUNNING for call in calls))
        at.kernel.cores.drain("one")
        at.kernel.cores.remove("two")
        for call in calls:
            with pytest.raises(ModuleFault):
                await at.kernel.wait(call)
        await until(lambda: at.state("two") is None)
        assert at.state("one") == "failed"
        at.kernel.cores.remove("one")
        assert at.state("one") is None


async def test_a_core_opened_anew_waits_until_nothing_is_left_in_the_old_one(folder: Path) -> None:
    async with world(folder, "one") as at:
        old = at.cores["one"]
        closing = asyncio.Event()
        close, order = old.close, []

        async def slowly() -> None:
            await closing.wait()
            await close()
            order.append("closed")

        old.close = slowly  # type: ignore[method-assign]
        breaks(old, ZeroDivisionError("a bug"))
        with pytest.raises(ModuleFault):
            await at.kernel.wait(at.submit())
        seat = at.kernel.cores.reopen("one")
        call = at.submit()
        call.future.add_done_callback(lambda _: order.append("answered"))
        assert at.state("one") == "opening"
        assert seat.core is old
        closing.set()
        await at.kernel.wait(call)
        assert order == ["closed", "answered"]


async def test_a_held_generation_is_not_gone_on_with_in_an_engine_that_broke(folder: Path) -> None:
    core = NanoCore(folder=folder, kv_bytes=1 << 26)
    await core.open()
    held = await core.run(Request("a", ask(), mute, is_streamed=True), 5)
    assert isinstance(held, Suspended)
    breaks(core, ValueError("a bug"))
    with pytest.raises(ModuleFault):
        await answered(core, ask(), "b")
    with pytest.raises(ModuleFault, match="core 'nano' is not running"):
        await core.run(Request("a", ask(), mute, held.snapshot, is_streamed=True), 5)
    core.drop(held.snapshot)
    assert core.statistics()["kv_reserved_bytes"] == 0
    await core.close()

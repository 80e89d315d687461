"""Cores that come and go while the kernel runs: what opens, what is drained, what ends and what moves on."""

from __future__ import annotations

import asyncio
import os
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError, BadRequest, Conflict, CutShort, ModuleFault, NotFound, Stopping, UpstreamFault
from aios.abi.messages import Chunk, Generation, Message
from aios.kernel import Config, Kernel, State
from aios.kernel.config import CoreSection, ModelSection, RouterSection
from aios.kernel.llm.base import NotBegun, Request, Said, Tell, nobody
from aios.kernel.llm.roster import CORE_TRANSITIONS, HEARD, CoreState
from aios.testing import MockClock, ScriptedCore, booted, principal, settle, until

pytestmark = pytest.mark.anyio


def ask(model: str | None = None, **more: Any) -> LLMGenerate:
    return LLMGenerate(messages=[Message(role="user", content="hello")], model=model, **more)


class Door(ScriptedCore):
    """Opens when told, or not at all. Counts how often it was opened and closed."""

    def __init__(self, name: str, *, fault: AiosError | None = None, **more: Any) -> None:
        super().__init__(name=name, **more)
        self.may_open = asyncio.Event()
        self.fault = fault
        self.num_opened = self.num_closed = 0

    async def open(self) -> None:
        self.num_opened += 1
        await self.may_open.wait()
        if self.fault is not None:
            raise self.fault

    async def close(self) -> None:
        self.num_closed += 1


def section(name: str, slots: int = 8) -> CoreSection:
    return CoreSection(name=name, kind="nano", slots=slots)


class Telling(Door):
    """Says itself how it is, when a test lets it."""

    def __init__(self, name: str, **more: Any) -> None:
        super().__init__(name, **more)
        self.may_open.set()
        self.may_close = asyncio.Event()
        self.may_close.set()
        self.tell: Tell = nobody
        self.num_asked_to_close = 0

    async def close(self) -> None:
        self.num_asked_to_close += 1
        await self.may_close.wait()
        await super().close()


class World:
    """A kernel, and the cores that it is to make of sections."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.to_make: dict[str, Any] = {}
        kernel.cores._make = lambda section: self.to_make[section.name]

    def put(self, core: Any) -> Any:
        self.to_make[core.name] = core
        return core

    def state(self, name: str) -> str | None:
        seat = self.kernel.llm.roster.get(name)
        return seat.state.value if seat else None

    def submit(self, model: str | None = None, agent: str = "ann", **more: Any) -> Any:
        return self.kernel.submit(principal(self.kernel, agent), "llm_generate", ask(model), **more)


@asynccontextmanager
async def world(*cores: ScriptedCore, **more: Any) -> AsyncIterator[World]:
    async with booted(cores=cores, **more) as kernel:
        yield World(kernel)


# ── coming ──


async def test_a_core_that_is_added_opens_before_it_serves_and_then_takes_calls() -> None:
    async with world(ScriptedCore(name="one")) as at:
        core = at.put(Door("two", model="new"))
        at.kernel.cores.add(section("two"))
        await settle()
        call = at.submit("new")
        await until(lambda: call.state is State.QUEUED)
        assert at.state("two") == "opening"
        core.may_open.set()
        assert (await at.kernel.wait(call)).core == "two"
        assert at.state("two") == "ready"


async def test_adding_the_same_core_again_changes_nothing_and_another_one_of_its_name_is_refused() -> None:
    async with world(ScriptedCore(name="one")) as at:
        core = at.put(Door("two"))
        core.may_open.set()
        seats = [at.kernel.cores.add(section("two")) for _ in range(3)]
        await until(lambda: at.state("two") == "ready")
        assert seats[0] is seats[1] is seats[2] is at.kernel.cores.add(section("two"))
        assert core.num_opened == 1
        with pytest.raises(Conflict, match="aios cores remove two"):
            at.kernel.cores.add(section("two", slots=3))


async def test_a_core_that_fails_to_open_is_shown_with_its_reason_and_opened_anew_when_asked() -> None:
    async with world(ScriptedCore(name="one")) as at:
        bad = at.put(Door("two", fault=ModuleFault("no such folder")))
        bad.may_open.set()
        at.kernel.cores.add(section("two"))
        waiting = at.submit("two")
        await until(lambda: at.state("two") == "failed")
        with pytest.raises(ModuleFault, match="no such folder"):
            await at.kernel.wait(waiting)
        [info] = [each for each in at.kernel.llm.info() if each.name == "two"]
        assert (info.state, info.why) == ("failed", "no such folder")
        assert (await at.kernel.wait(at.submit("one"))).core == "one"
        good = at.put(Door("two"))
        good.may_open.set()
        at.kernel.cores.reopen("two")
        await until(lambda: at.state("two") == "ready")


async def test_a_core_whose_opening_breaks_in_a_way_that_nobody_expected_has_failed_and_can_be_removed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(ScriptedCore(name="one")) as at:
        core = at.put(Door("two", fault=ValueError("embedded null byte")))  # type: ignore[arg-type]  # a bug
        core.may_open.set()
        at.kernel.cores.add(section("two"))
        await until(lambda: at.state("two") == "failed")
        assert at.kernel.llm.roster.find("two").why == "embedded null byte"
        assert "Traceback" in caplog.text
        at.kernel.cores.remove("two")
        assert at.state("two") is None


async def test_cores_whose_files_never_come_hold_up_no_other_core_and_no_stop(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")  # who reads it waits for ever, in a thread that ends with the process
    async with booted(cores=[ScriptedCore(name="one")]) as kernel:
        for n in range(40):  # more than there are threads that are shared
            kernel.cores.add(CoreSection(name=f"hangs{n}", kind="local", path=str(tmp_path)))
        kernel.cores.add(section("two"))
        await until(lambda: kernel.cores.find("two").state is CoreState.READY)
        assert kernel.cores.find("hangs0").state is CoreState.OPENING
        kernel.cores.remove("hangs0")


async def test_a_kernel_boots_with_the_cores_that_open_and_shows_those_that_do_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(
        core=[
            CoreSection(name="broken", kind="local", path=str(tmp_path / "nowhere")),
            CoreSection(name="far", kind="openai", base_url="http://127.0.0.1:9/v1"),
        ]
    )
    kernel = await Kernel.boot(config, tmp_path)
    try:
        states = {seat.name: seat.state.value for seat in kernel.llm.roster}
        assert states == {"broken": "failed", "far": "ready"}
        assert "core 'broken' could not be opened" in caplog.text
        with pytest.raises(ModuleFault, match="there is no folder"):
            kernel.submit(principal(kernel), "llm_generate", ask("broken"))
    finally:
        await kernel.stop(0)


async def test_a_core_that_takes_long_to_open_holds_up_no_boot_and_its_calls_wait_for_it() -> None:
    async with world() as at:
        slow = Door("slow")
        seat = await at.kernel.cores.boot(slow, patience=0)
        assert seat.state is CoreState.OPENING
        call = at.submit("slow")
        await until(lambda: call.state is State.QUEUED)
        slow.may_open.set()
        assert (await call.future).core == "slow"


async def test_a_kernel_that_stops_while_a_core_opens_closes_that_too() -> None:
    async with world(ScriptedCore(name="one")) as at:
        core = at.put(Door("two"))
        at.kernel.cores.add(section("two"))
        await settle()
    assert (core.num_opened, core.num_closed) == (1, 1)


# ── leaving ──


async def test_a_drained_core_ends_what_it_began_interrupted_or_not_and_gets_nothing_new() -> None:
    core, other = ScriptedCore(name="one", model="m", slots=1, tokens=12), ScriptedCore(name="two", model="m", slots=1)
    core.gate.clear()
    async with world(core, other, quantum=2) as at:
        first, second = at.submit("one", "ann"), at.submit("one", "bob")
        await until(lambda: second.state is State.QUEUED)
        core.gate.set()
        await until(lambda: first.snapshot is not None and second.snapshot is not None)
        core.gate.clear()
        seat = at.kernel.cores.drain("one")
        assert at.kernel.cores.left(seat) == 2
        later = [at.submit("m", "cid") for _ in range(3)]
        assert {(await at.kernel.wait(call)).core for call in later} == {"two"}
        with pytest.raises(Stopping, match="core 'one' is being drained"):
            at.submit("one")
        core.gate.set()
        assert {(await at.kernel.wait(call)).core for call in (first, second)} == {"one"}
        assert (at.kernel.cores.left(seat), at.state("one"), core.num_dropped) == (0, "draining", 0)


async def test_calls_that_wait_for_a_core_that_is_drained_end_at_once_and_say_why() -> None:
    core = ScriptedCore(name="one", slots=1)
    core.gate.clear()
    async with world(core) as at:
        running, waiting = at.submit("one"), at.submit("one")
        await until(lambda: waiting.state is State.QUEUED)
        at.kernel.cores.drain("one")
        with pytest.raises(Stopping) as caught:
            await at.kernel.wait(waiting)
        assert (caught.value.code, caught.value.status) == ("core_drained", 503)
        at.kernel.cores.reopen("one")
        core.gate.set()
        await at.kernel.wait(running)
        assert (await at.kernel.wait(at.submit("one"))).core == "one"


async def test_a_call_that_is_on_its_way_into_the_journal_when_its_core_is_drained_does_not_wait_for_ever() -> None:
    async with world(ScriptedCore(name="one")) as at:
        call = at.submit("one")
        assert call.state is State.NEW
        at.kernel.cores.drain("one")
        with pytest.raises(Stopping, match="being drained"):
            await at.kernel.wait(call)


async def test_a_removed_core_is_closed_when_its_last_call_is_over_and_can_come_again() -> None:
    async with world(ScriptedCore(name="one")) as at:
        core = at.put(Door("two", tokens=8, slots=1))
        core.may_open.set()
        at.kernel.cores.add(section("two", 1))
        await until(lambda: at.state("two") == "ready")
        core.gate.clear()
        call = at.submit("two")
        await core.entered(1)
        at.kernel.cores.remove("two")
        at.kernel.cores.remove("two")
        await settle()
        assert (at.state("two"), core.num_closed) == ("draining", 0)
        core.gate.set()
        assert (await at.kernel.wait(call)).core == "two"
        await until(lambda: at.state("two") is None)
        assert core.num_closed == 1
        with pytest.raises(NotFound):
            at.kernel.cores.remove("two")
        at.kernel.cores.add(section("two", 1))
        await until(lambda: at.state("two") == "ready")


async def test_calls_of_a_core_that_is_removed_now_begin_anew_on_another_core_of_their_model() -> None:
    core, other = (
        ScriptedCore(name="one", model="m", tokens=12, slots=1),
        ScriptedCore(name="two", model="m", tokens=12),
    )
    core.gate.clear()
    async with world(core, other, quantum=2) as at:
        running = at.submit("m", "ann")
        await core.entered(1)
        keyed = at.submit("one", "bob", key="k")
        await until(lambda: keyed.state is State.QUEUED)
        core.gate.set()
        await until(lambda: keyed.snapshot is not None and running.snapshot is not None)
        core.gate.clear()
        at.kernel.cores.remove("one", now=True)
        answer = await at.kernel.wait(running)
        assert (answer.core, answer.usage.completion_tokens, running.tokens_out) == ("two", 12, 12)
        with pytest.raises(Stopping, match="core 'one' is being removed"):
            await at.kernel.wait(keyed)
        await until(lambda: at.state("one") is None)


async def test_an_answer_that_somebody_heard_half_of_ends_honestly_when_its_core_is_removed_now() -> None:
    core, other = ScriptedCore(name="one", model="m", tokens=12, slots=1), ScriptedCore(name="two", model="m")
    core.gate.clear()
    async with world(core, other, quantum=2) as at:
        heard: list[str] = []
        call = at.submit("m", on_chunk=lambda chunk: heard.append(chunk.text))
        await core.entered(1)
        core.gate.set()
        await until(lambda: len(heard) > 2)
        core.gate.clear()
        at.kernel.cores.remove("one", now=True)
        with pytest.raises(CutShort, match="removed in the middle of this answer"):
            await at.kernel.wait(call)
        await until(lambda: at.state("one") is None)
        core.gate.set()


async def test_when_the_only_core_is_removed_now_each_call_is_told_what_became_of_it() -> None:
    core = ScriptedCore(name="one", model="m", tokens=12, slots=2)
    core.gate.clear()
    async with world(core) as at:
        heard: list[str] = []
        streamed = at.submit("m", on_chunk=lambda chunk: heard.append(chunk.text))
        whole, waiting = at.submit("m", "ann"), at.submit("m", "bob")
        await core.entered(2)
        core.gate.set()
        await until(lambda: bool(heard))
        core.gate.clear()
        at.kernel.cores.remove("one", now=True)
        gone = "core 'one' is being removed, and takes nothing new"
        with pytest.raises(CutShort, match=f"in the middle of this answer, and no core serves 'm' now: {gone}"):
            await at.kernel.wait(streamed)
        for call in (whole, waiting):
            with pytest.raises(Stopping, match=f"^no core serves 'm' now: {gone}"):
                await at.kernel.wait(call)
        core.gate.set()
        await until(lambda: at.state("one") is None)
        at.kernel.check_integrity()


async def test_who_joins_late_and_hears_what_was_said_has_heard_it_too() -> None:
    core, other = ScriptedCore(name="one", model="m", tokens=12, slots=1), ScriptedCore(name="two", model="m")
    core.gate.clear()
    async with world(core, other, quantum=2) as at:
        call = at.submit("m", key="k")
        await core.entered(1)
        core.gate.set()
        await until(lambda: len(call.chunks) > 2)
        core.gate.clear()
        heard: list[str] = []
        assert at.submit("m", key="k", on_chunk=lambda chunk: heard.append(chunk.text)) is call
        assert len(heard) > 2
        at.kernel.cores.remove("one", now=True)
        with pytest.raises(CutShort, match="removed in the middle of this answer"):
            await at.kernel.wait(call)
        await until(lambda: at.state("one") is None)
        core.gate.set()


async def test_an_answer_of_which_somebody_hears_the_first_piece_while_it_is_to_begin_anew_does_not() -> None:
    core, other = ScriptedCore(name="one", model="m", tokens=12, slots=1), ScriptedCore(name="two", model="m")
    core.gate.clear()
    async with world(core, other) as at:
        heard: list[str] = []
        call = at.submit("m", on_chunk=lambda chunk: heard.append(chunk.text))
        await core.entered(1)
        at.kernel.cores.remove("one", now=True)
        call.emit(Chunk("first"))  # it was on its way already
        with pytest.raises(CutShort, match="in the middle"):
            await at.kernel.wait(call)
        assert heard == ["first"]


async def test_half_an_answer_does_not_wait_for_a_core_that_drains_and_has_not_begun_it() -> None:
    core = ScriptedCore(name="one", model="m", slots=1, resume="none", tokens=4)
    other = ScriptedCore(name="two", model="m", resume="prefill_text")
    core.gate.clear()
    async with world(core, other) as at:
        at.kernel.cores.drain("two")
        at.submit("one")
        call = at.submit("m")
        await core.entered(1)
        await until(lambda: call.state is State.QUEUED)
        call.snapshot = Said("ok", 1)
        core.gate.set()
        assert (await at.kernel.wait(call)).core == "one"


async def test_a_core_that_is_removed_while_it_opens_is_closed() -> None:
    async with world(ScriptedCore(name="one")) as at:
        core = at.put(Door("two"))
        at.kernel.cores.add(section("two"))
        await settle()
        at.kernel.cores.remove("two")
        await settle()
        assert (at.state("two"), core.num_closed) == (None, 1)


async def test_a_keyed_call_whose_core_is_gone_at_the_next_start_ends_with_a_clear_error(tmp_path: Path) -> None:
    core = ScriptedCore(name="gone")
    core.gate.clear()
    config = Config(router=RouterSection(default="one"))
    async with booted(cores=[ScriptedCore(name="one"), core], home=tmp_path, config=config) as kernel:
        _, key = kernel.access.mint(owner="o", agent="ann")
        kernel.submit(kernel.authenticate(key), "llm_generate", ask("gone"), key="k")
        await core.entered(1)
    config = Config(router=RouterSection(default="nobody"))
    async with booted(cores=[ScriptedCore(name="one")], home=tmp_path, config=config) as kernel:
        with pytest.raises(NotFound, match="no model 'gone'"):
            await kernel.call(kernel.authenticate(key), "llm_generate", ask("gone"), key="k")
        assert not kernel.statistics()["open_calls"]


async def test_each_move_of_a_core_is_a_row_of_the_trace() -> None:
    async with world(ScriptedCore(name="one"), ScriptedCore(name="two")) as at:
        at.kernel.cores.remove("two")
        await until(lambda: at.state("two") is None)
        rows = [(row.core, row.state) for row in at.kernel.trace.rows if row.name == "core"]
        assert rows[2:] == [("two", "opening"), ("two", "ready"), ("two", "draining"), ("two", "closed")]


# ── one after the other ──


async def test_a_core_opens_only_when_every_earlier_one_of_its_name_is_closed_though_one_between_was_given_up() -> None:
    async with world(ScriptedCore(name="one")) as at:
        first = at.put(Telling("two"))
        at.kernel.cores.add(section("two"))
        await until(lambda: at.state("two") == "ready")
        first.may_close.clear()
        first.tell("failed", "it broke")
        await settle()
        at.kernel.cores.remove("two")
        second = at.put(Telling("two"))
        at.kernel.cores.add(section("two"))
        await settle()
        at.kernel.cores.remove("two")
        third = at.put(Telling("two"))
        at.kernel.cores.add(section("two"))
        await settle()
        assert (at.state("two"), second.num_opened, third.num_opened) == ("opening", 0, 0)
        first.may_close.set()
        await until(lambda: at.state("two") == "ready")
        assert (first.num_closed, second.num_opened, third.num_opened) == (1, 0, 1)


async def test_a_core_that_is_half_open_when_it_fails_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    async with world(ScriptedCore(name="one")) as at:
        for fault in (ModuleFault("no such folder"), ValueError("a bug")):
            core = at.put(Door("two", fault=fault))  # type: ignore[arg-type]
            core.may_open.set()
            at.kernel.cores.add(section("two"))
            await until(lambda: at.state("two") == "failed" and core.num_closed)  # noqa: B023
            assert core.num_closed == 1
            at.kernel.cores.remove("two")


class Stubborn(Telling):
    """Cannot be closed."""

    async def close(self) -> None:
        await super().close()
        raise OSError("it holds on")


async def test_a_core_that_cannot_be_closed_keeps_no_other_open_when_the_kernel_stops(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cores = [Telling("one"), Stubborn("two"), Telling("three")]
    async with world(*cores):
        pass
    assert [core.num_closed for core in cores] == [1, 1, 1]
    assert "core 'two' could not be closed: it holds on" in caplog.text


async def test_cores_close_side_by_side_when_the_kernel_stops() -> None:
    slow, quick = Telling("one"), Telling("two")
    at = world(quick, slow)
    await at.__aenter__()
    slow.may_close.clear()
    stopping = asyncio.ensure_future(at.__aexit__(None, None, None))
    await until(lambda: quick.num_closed)
    slow.may_close.set()
    await stopping
    assert slow.num_closed == 1


async def test_a_core_that_failed_and_is_not_closed_yet_is_closed_when_the_kernel_stops() -> None:
    core = Telling("two")
    at = world(ScriptedCore(name="one"), core)
    await at.__aenter__()
    core.may_close.clear()
    core.tell("failed", "it broke")
    await until(lambda: core.num_asked_to_close == 1)
    stopping = asyncio.ensure_future(at.__aexit__(None, None, None))
    await until(lambda: core.num_asked_to_close == 2)  # the first time was broken off
    core.may_close.set()
    await stopping
    assert core.num_closed == 1


class Lingering(Door):
    """Takes its time to give up being opened."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.may_give_up = asyncio.Event()
        self.gives_up = False

    async def open(self) -> None:
        try:
            await super().open()
        finally:
            self.gives_up = True
            await self.may_give_up.wait()


async def test_a_core_that_fails_while_the_kernel_stops_is_closed_once(caplog: pytest.LogCaptureFixture) -> None:
    core, slow = Telling("two"), Lingering("slow")
    at = world(ScriptedCore(name="one"), core)
    there = await at.__aenter__()
    there.put(slow)
    there.kernel.cores.add(section("slow"))
    await until(lambda: slow.num_opened)
    core.may_close.clear()
    stopping = asyncio.ensure_future(at.__aexit__(None, None, None))
    await until(lambda: slow.gives_up)
    core.tell("failed", "it broke")
    await settle()
    slow.may_give_up.set()
    await until(lambda: core.num_asked_to_close)
    await settle()
    core.may_close.set()
    await stopping
    assert core.num_asked_to_close == 1
    assert "bug" not in caplog.text


async def test_a_core_that_fails_while_it_leaves_is_closed_once_and_gone() -> None:
    core = Telling("two", slots=1)
    core.gate.clear()
    async with world(ScriptedCore(name="one"), core) as at:
        at.submit("two")
        await core.entered(1)
        at.kernel.cores.remove("two")
        core.tell("failed", "it broke")
        assert (at.state("two"), core.num_closed) == ("failed", 0)
        core.gate.set()
        await until(lambda: at.state("two") is None)
    assert core.num_closed == 1


async def test_a_core_that_is_put_back_to_work_and_removed_once_more_is_not_closed_under_its_calls() -> None:
    core = Telling("two", slots=1)
    core.gate.clear()
    async with world(ScriptedCore(name="one"), core) as at:
        call = at.submit("two")
        await core.entered(1)
        for _ in range(3):
            at.kernel.cores.remove("two")
            await settle()
            at.kernel.cores.reopen("two")
            at.kernel.cores.remove("two")
        await settle()
        assert core.num_closed == 0
        core.gate.set()
        assert (await at.kernel.wait(call)).core == "two"
        await until(lambda: at.state("two") is None)
    assert core.num_closed == 1


async def test_a_core_is_closed_though_waiting_for_its_calls_breaks(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = Telling("two", slots=1)
    async with world(ScriptedCore(name="one"), core) as at:

        async def broken(seat: Any) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(at.kernel.cores._departing, "emptied", broken)
        at.kernel.cores.remove("two")
        await until(lambda: at.state("two") is None)
        await until(lambda: "a bug" in caplog.text)
        assert core.num_closed == 1


# ── a core's own word ──


async def test_a_core_that_is_put_back_to_work_while_its_process_is_down_is_not_said_to_be_ready() -> None:
    core = Telling("one")
    async with world(core) as at:
        at.kernel.cores.drain("one")
        core.tell("restarting", "its process died")
        assert at.state("one") == "draining"
        seat = at.kernel.cores.reopen("one")
        assert (seat.state, seat.why) == (CoreState.RESTARTING, "its process died")
        core.tell("ready", None)
        assert at.state("one") == "ready"


async def test_a_core_that_came_back_while_it_drained_is_ready_when_it_is_put_back_to_work() -> None:
    core = Telling("one")
    async with world(core) as at:
        core.tell("restarting", "its process died")
        assert at.state("one") == "restarting"
        at.kernel.cores.drain("one")
        core.tell("ready", None)
        assert at.state("one") == "draining"
        assert at.kernel.cores.reopen("one", "an admin").state is CoreState.READY


class Stillborn(Telling):
    """Breaks as soon as it is open."""

    async def open(self) -> None:
        await super().open()
        self.tell("failed", "its engine broke")


async def test_a_core_that_breaks_before_its_opening_is_over_has_failed_and_is_closed() -> None:
    async with world(ScriptedCore(name="one")) as at:
        core = at.put(Stillborn("two"))
        at.kernel.cores.add(section("two"))
        await until(lambda: core.num_closed)
        assert (at.state("two"), at.kernel.cores.find("two").why) == ("failed", "its engine broke")


def test_every_word_that_counts_in_a_state_is_a_move_of_the_table() -> None:
    assert HEARD.keys() == CORE_TRANSITIONS.keys()
    assert all(words <= CORE_TRANSITIONS[state] for state, words in HEARD.items())


# ── who serves ──


class Refusing(ScriptedCore):
    """Never begins anything."""

    async def run(self, request: Request, quantum: int | None) -> Generation:
        raise NotBegun(UpstreamFault("it is down", code="upstream_unreachable"), after=60.0, is_busy=False)


async def test_a_call_goes_to_the_fallback_when_the_first_core_refuses_it() -> None:
    fast = ModelSection(name="fast", cores=["one"], fallback=["two"])
    async with world(Refusing(name="one"), ScriptedCore(name="two"), config=Config(model=[fast])) as at:
        assert (await at.kernel.wait(at.submit("fast"))).core == "two"
        assert at.kernel.llm.statistics()["one"]["refusals"] == 1


async def test_a_call_that_one_core_cannot_take_goes_to_another_and_is_refused_when_none_can() -> None:
    small, large = ScriptedCore(name="small", model="m", context_length=2), ScriptedCore(name="large", model="m")
    async with world(small, large) as at:
        args = LLMGenerate(messages=[Message(role="user", content="more words than two")], model="m")
        who = principal(at.kernel)
        assert {(await at.kernel.call(who, "llm_generate", args)).core for _ in range(4)} == {"large"}
        at.kernel.cores.drain("large")
        with pytest.raises(AiosError, match="do not fit"):
            await at.kernel.call(who, "llm_generate", args)


class Choosy(ScriptedCore):
    """Takes nothing."""

    def check(self, args: LLMGenerate) -> None:
        raise BadRequest("not here")


async def test_a_call_that_a_core_could_not_take_goes_to_the_next_one_of_that_name() -> None:
    busy = ScriptedCore(name="one", model="m", slots=1)
    busy.gate.clear()
    async with world(busy, Choosy(name="two", model="m")) as at:
        at.submit("m")
        await busy.entered(1)
        waiting = at.submit("m")
        await until(lambda: waiting.state is State.QUEUED)
        at.kernel.cores.remove("two")
        await until(lambda: at.state("two") is None)
        at.put(Door("two", model="m")).may_open.set()
        at.kernel.cores.add(section("two"))
        await until(lambda: waiting.state is not State.QUEUED)
        assert (await at.kernel.wait(waiting)).core == "two"
        busy.gate.set()


async def test_calls_of_a_session_go_to_one_core_and_others_spread() -> None:
    cores = [ScriptedCore(name=name, model="m") for name in ("one", "two", "three")]
    async with world(*cores) as at:
        who = principal(at.kernel)
        places = []
        for n in range(12):
            call = at.kernel.submit(who, "llm_generate", ask("m"), session="s" if n % 2 else None)
            places.append((await at.kernel.wait(call)).core)
        assert len(set(places[1::2])) == 1
        assert len(set(places[::2])) > 1
        keyed = [
            (await at.kernel.call(who, "llm_generate", ask("m", extra={"prompt_cache_key": "k"}))).core
            for _ in range(4)
        ]
        assert len(set(keyed)) == 1
        await at.kernel.call(who, "llm_generate", ask("m", extra={"prompt_cache_key": "k" * 100_000}))
        assert len(pickle.dumps(at.kernel.llm.router._affinity)) < 10_000  # of a session's name nothing is kept


async def test_tokens_a_second_are_those_of_the_last_seconds() -> None:
    clock = MockClock()
    async with world(ScriptedCore(name="one", tokens=20), clock=clock) as at:
        await at.kernel.wait(at.submit("one"))
        assert at.kernel.llm.statistics()["one"]["tokens_per_second"] == 20
        clock.advance(60)
        statistics = at.kernel.llm.statistics()["one"]
        assert (statistics["tokens_per_second"], statistics["tokens_out"], statistics["calls"]) == (0, 20, 1)


async def test_a_core_that_cannot_be_made_is_failed_and_says_why() -> None:
    async with world(ScriptedCore(name="one")) as at:

        def make(section: CoreSection) -> Any:
            raise ModuleNotFoundError("No module named 'xllamacpp'")

        at.kernel.cores._make = make
        seat = at.kernel.cores.add(section("two"))
        assert (seat.state, seat.why) == (CoreState.FAILED, "No module named 'xllamacpp'")
        at.kernel.cores.remove("two")
        assert at.state("two") is None

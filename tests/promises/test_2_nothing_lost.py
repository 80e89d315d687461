"""Promise 2, nothing lost: what was acknowledged is on record first, and is answered once though the kernel dies."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aios.abi.calls import CALLS, LLMGenerate, MemList, MemWrite, ProcSpawn, StoWrite, ToolRun
from aios.abi.errors import AiosError, ModuleFault, OutcomeUnknown, TimedOut, Unauthorized
from aios.abi.messages import Message
from aios.abi.tools import ToolManifest
from aios.kernel import Config, Kernel, State
from aios.kernel.config import JournalSection
from aios.kernel.database import Database
from aios.kernel.journal import Journal
from aios.kernel.process import Process
from aios.kernel.syscall import Syscall
from aios.testing import MockClock, ScriptedCore, booted, principal, settle, until

pytestmark = pytest.mark.anyio


def ask(text: str = "hello") -> LLMGenerate:
    return LLMGenerate(messages=[Message(role="user", content=text)])


# ── on record before it is said ──


@contextmanager
def commits_held(kernel: Kernel) -> Iterator[threading.Event]:
    """Inside, the writer comes as far as its next COMMIT, which sets the event, and not through it."""
    is_there, may_commit = threading.Event(), threading.Event()
    writer = kernel.database._writer
    carry_out = writer._together

    def hold(group: Any) -> Any:
        outcomes = carry_out(group)
        is_there.set()
        assert may_commit.wait(60)
        return outcomes

    writer._together = hold  # type: ignore[method-assign]  # its connection may be busy with house-keeping
    try:
        yield is_there
    finally:
        may_commit.set()
        writer._together = carry_out  # type: ignore[method-assign]


async def test_no_call_runs_before_it_is_on_record() -> None:
    core = ScriptedCore()
    async with booted(cores={"one": core}) as kernel:
        who = principal(kernel)
        await kernel.access.settled()
        with commits_held(kernel) as at_commit:
            calls = [kernel.submit(who, "llm_generate", ask(), key=key) for key in ("k", None)]
            await until(at_commit.is_set)
            await settle()
            assert [call.state for call in calls] == [State.NEW, State.NEW]
            assert core.seen == []
        for call in calls:
            assert (await kernel.wait(call)).message.content == "ok"


async def test_no_answer_under_a_key_is_given_before_it_is_on_record() -> None:
    core = ScriptedCore()
    core.gate.clear()
    async with booted(cores={"one": core}) as kernel:
        call = kernel.submit(principal(kernel), "llm_generate", ask(), key="k")
        await core.entered(1)
        with commits_held(kernel) as at_commit:
            core.gate.set()
            await until(lambda: at_commit.is_set() and call.state is State.DONE)
            await settle()
            assert call.future is not None
            assert not call.future.done()
        assert (await kernel.wait(call)).message.content == "ok"


@pytest.mark.parametrize("args", [MemWrite(content="x"), StoWrite(path="a", content="x")], ids=["memory", "storage"])
async def test_no_write_is_acknowledged_before_it_is_committed(args: Any) -> None:
    async with booted() as kernel:
        room: Any = kernel.memory if isinstance(args, MemWrite) else kernel.storage
        name = "mem_write" if isinstance(args, MemWrite) else "sto_write"
        call = Syscall("call_1", CALLS[name], args, Process(1, "a", "o"), 0.0)
        await kernel.access.settled()
        with commits_held(kernel) as at_commit:
            writing = asyncio.ensure_future(room.run(call))
            await until(at_commit.is_set)
            await settle()
            assert not writing.done()
        await writing


# ── after kill -9 ──

DIES = """
import asyncio, os, pathlib, signal, sys
from aios.abi.calls import LLMGenerate, MemWrite
from aios.abi.messages import Message
from aios.testing import ScriptedCore, booted, principal

def ask(text):
    return LLMGenerate(messages=[Message(role="user", content=text)])

async def main(home):
    core = ScriptedCore(["first", "never", "never", "never"], slots=3)
    async with booted(cores={"one": core}, home=home) as kernel:
        who = principal(kernel)
        answer = await kernel.call(who, "llm_generate", ask("done"), key="done")
        entry = await kernel.call(who, "mem_write", MemWrite(content="kept"), key="entry")
        core.gate.clear()
        for n, key in enumerate(("running", None, "queued", "queued too")):
            call = kernel.submit(who, "llm_generate", ask(str(key)), key=key)
            while call.state.value == "new":
                await asyncio.sleep(0.001)
        print(answer.message.content, entry.id, call.args.seed, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


async def died(home: Path) -> list[str]:
    """What a kernel on `home` said before it was killed."""
    command = [sys.executable, "-c", DIES, str(home)]
    child = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr
    return child.stdout.split()


async def test_a_killed_kernels_calls_are_answered_once_and_those_under_way_go_on_unasked(tmp_path: Path) -> None:
    answer, entry, seed = await died(tmp_path)
    core = ScriptedCore("second")
    async with booted(cores={"one": core}, home=tmp_path) as kernel:
        who = principal(kernel)
        await until(lambda: len(core.seen) == 3 and kernel.statistics()["open_calls"] == 0)
        assert str(core.seen[-1].seed) == seed
        assert (await kernel.call(who, "llm_generate", ask("done"), key="done")).message.content == answer == "first"
        assert (await kernel.call(who, "mem_write", MemWrite(content="kept"), key="entry")).id == entry
        assert [each.id for each in (await kernel.call(who, "mem_list", MemList())).entries] == [entry]
        for key in ("running", "queued", "queued too"):
            found = await kernel.call(who, "llm_generate", ask(key), key=key)
            assert found.message.content == "second"
        assert len(core.seen) == 3
        kernel.database.check_integrity()
    database = Database.open(tmp_path / "aios.db")
    assert Journal(database, MockClock(), keep=1.0, max_bytes=1 << 20).recover() == []
    database.close()


async def recorded(home: Path, *, is_begun: bool) -> None:
    """A kernel on `home` died with a tool run of agent "tester" under the key "k" open."""
    database = Database.open(home / "aios.db")
    journal = Journal(database, MockClock(), keep=3600.0, max_bytes=1 << 20)
    args = ToolRun(name="remember", arguments={"content": "a fact"})
    call = Syscall("call_1", CALLS["tool_run"], args, Process(7, "tester", "test"), 0.0, "k")
    journal.open(call, lambda error: None)
    if is_begun:
        journal.begin(call, lambda error: None)
    await database.run(lambda c: None)
    database.close()


async def test_a_side_effect_that_was_under_way_is_not_run_again_and_said_to_be_unknown(tmp_path: Path) -> None:
    await recorded(tmp_path, is_begun=True)
    run = ToolRun(name="remember", arguments={"content": "a fact"})
    for _ in range(2):
        async with booted(home=tmp_path) as kernel:
            who = principal(kernel)
            with pytest.raises(OutcomeUnknown, match="not run again"):
                await kernel.call(who, "tool_run", run, key="k")
            assert (await kernel.call(who, "mem_list", MemList())).entries == []


async def test_a_side_effect_that_had_not_begun_is_run_once(tmp_path: Path) -> None:
    await recorded(tmp_path, is_begun=False)
    run = ToolRun(name="remember", arguments={"content": "a fact"})
    for _ in range(2):
        async with booted(home=tmp_path) as kernel:
            who = principal(kernel)
            await kernel.call(who, "tool_run", run, key="k")
            assert len((await kernel.call(who, "mem_list", MemList())).entries) == 1


# ── what broke off ──


class Till:
    """A tool that takes money, each time it is run, and then does not come back."""

    def __init__(self, kernel: Kernel, error: Exception | None = None) -> None:
        self.num_runs = 0
        self._error = error
        kernel.tools.add(ToolManifest(name="pay", timeout=5.0), self._pay)

    async def _pay(self, *_: Any) -> None:
        self.num_runs += 1
        if self._error is not None:
            raise self._error
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("timeout", "error", "kind"),
    [(None, None, TimedOut), (1.0, None, TimedOut), (None, RuntimeError("a bug"), ModuleFault)],
    ids=["past the tool's time", "past the call's time", "broken down"],
)
async def test_a_side_effect_that_broke_off_is_not_done_again_for_whoever_asks_again(
    tmp_path: Path, timeout: float | None, error: Exception | None, kind: type[AiosError]
) -> None:
    clock = MockClock()
    async with booted(home=tmp_path, clock=clock) as kernel:
        till = Till(kernel, error)
        call = kernel.submit(principal(kernel), "tool_run", ToolRun(name="pay"), key="k", timeout=timeout)
        await until(lambda: till.num_runs)
        clock.advance(5.1 if timeout is None else 1.1)
        with pytest.raises(kind, match="whether it took effect is not known: it is not run again") as first:
            await kernel.wait(call)
        assert first.value.code == "outcome_unknown"
        with pytest.raises(kind) as second:
            await kernel.call(principal(kernel), "tool_run", ToolRun(name="pay"), key="k")
        assert second.value.to_dict() == first.value.to_dict()
        assert till.num_runs == 1


async def test_a_side_effect_that_did_not_come_to_begin_may_be_tried_again_under_its_key() -> None:
    async with booted() as kernel:
        till = Till(kernel, ModuleFault("its file does not load", code="tool_unavailable"))
        for n in range(2):
            with pytest.raises(ModuleFault, match=r"does not load$"):
                await kernel.call(principal(kernel), "tool_run", ToolRun(name="pay"), key="k")
            assert till.num_runs == n + 1


async def test_a_write_that_was_done_when_its_call_ran_out_of_time_is_not_done_twice() -> None:
    clock = MockClock()
    async with booted(clock=clock) as kernel:
        who, write = principal(kernel), MemWrite(content="x")
        with commits_held(kernel) as at_commit:
            call = kernel.submit(who, "mem_write", write, key="k", timeout=1.0)
            await until(at_commit.is_set)
        await until(lambda: call.state is State.RUNNING)
        with commits_held(kernel) as at_commit:
            await until(at_commit.is_set)
            clock.advance(1.1)
            await until(lambda: call.state is State.FAILED)
        with pytest.raises(TimedOut):
            await kernel.wait(call)
        written = await kernel.call(who, "mem_write", write, key="k")
        assert [each.id for each in (await kernel.call(who, "mem_list", MemList())).entries] == [written.id]


# ── what is kept, and how long ──


@pytest.mark.parametrize("days", [0, 8])
async def test_how_long_answers_are_kept_does_not_decide_how_long_a_lost_process_has_its_key(
    tmp_path: Path, days: int
) -> None:
    config = Config(journal=JournalSection(keep=0.0 if days == 0 else 30 * 86_400.0))
    async with booted(home=tmp_path, config=config) as kernel:
        admin = principal(kernel, is_admin=True)
        child = await kernel.call(admin, "proc_spawn", ProcSpawn(agent="a", nice=4))
        kernel.submit(kernel.authenticate(child.key), "llm_generate", ask())
        kernel.submit(principal(kernel, "b"), "llm_generate", ask())
        wall = kernel.clock.wall()
    async with booted(home=tmp_path, config=config, clock=MockClock(wall=wall + days * 86_400.0 + 1.0)) as kernel:
        assert kernel.house.purging is not None
        await kernel.house.purging
        if days > 7:
            with pytest.raises(Unauthorized):
                kernel.authenticate(child.key)
        else:
            await kernel.call(kernel.authenticate(child.key), "llm_generate", ask())
            assert kernel.processes.get(child.pid).nice == 4

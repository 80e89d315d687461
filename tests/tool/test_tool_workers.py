"""Tools of a configured file run in processes of their own: whatever they do, the kernel and others go on.

Time is a mock clock's: a tool that never ends is past its deadline when the test says so.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tool_world import World, errors_of

from aios.abi.errors import BadRequest, Cancelled, ModuleFault, NotFound, Stopping, TimedOut
from aios.kernel.config import ConfigError, ToolSection
from aios.kernel.process import Process
from aios.kernel.syscall import TERMINAL, State, Syscall
from aios.kernel.tool import scratch
from aios.kernel.tool.base import Caller
from aios.kernel.tool.module import LONGEST_BACK_OFF
from aios.testing import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the checks look into /proc")

HEAD = "import os, signal, subprocess, sys, time\nfrom aios import tool\n"

GOOD = '''
@tool(effect="pure", max_instances=2)
def add(a: int, b: int = 1) -> int:
    """Add."""
    return a + b

@tool(effect="read")
async def whoami() -> dict[str, str]:
    return {"cwd": os.getcwd(), **os.environ}
'''

BAD = """
@tool
def raises() -> str:
    raise KeyError("no such thing")

@tool
def leaves() -> str:
    sys.exit(3)

@tool
def exits() -> str:
    os._exit(3)

@tool
def aborts() -> str:
    print("about to die")
    os.abort()

@tool
def prints() -> str:
    for _ in range(200):
        print("x" * 1000)
        os.write(1, b"\\xff\\x00\\x00\\x00\\x10{}")
        sys.stderr.write("noise")
    return "clean"

@tool
def lies() -> str:
    for fd in range(3, 200):
        try:
            os.write(fd, b"\\x00\\x00\\x00\\x02{}")
        except OSError:
            pass
    return "clean"

@tool
def forks() -> str:
    os.fork()
    return "one answer"

@tool(timeout=5)
def spins() -> str:
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
    while True:
        pass

@tool(timeout=5)
def floods() -> str:
    while True:
        os.write(1, b"x" * 65536)

@tool(timeout=5)
def breeds(mark: str) -> str:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            subprocess.Popen(["sleep", mark], start_new_session=True)
            time.sleep(1000)
        os._exit(0)
    time.sleep(1000)

@tool
def orphans(mark: str) -> str:
    subprocess.Popen(["sleep", mark], start_new_session=True)
    os.abort()
"""


@asynccontextmanager
async def world_of(folder: Path, text: str = GOOD + BAD, **more: Any) -> AsyncIterator[World]:
    """A world whose tools are those of a file with `text`; at its end, none of its processes is left."""
    path = folder / "tools.py"
    path.write_text(HEAD + text)
    world = World(ToolSection(module=str(path), **more))
    await world.tools.open()
    try:
        yield world
    finally:
        await world.tools.close()
        await gone(str(path))
        world.check()


def go(story: Coroutine[Any, Any, None], loop: str = "uvloop") -> None:
    """On the loop that the kernel runs on, or on Python's own."""
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(story)


both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def alive(word: str) -> list[str]:
    """Command lines of processes that have `word` as an argument."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            except OSError:
                continue
            if word in line:
                found.append(" ".join(line))
    return found


async def gone(word: str) -> None:
    await until(lambda: not alive(word))


def a_mark(n: int) -> str:
    """Seconds for `sleep` that no other process on this machine has."""
    return f"1{os.getpid()}{n}"


def test_tools_of_a_file_are_found_checked_and_run(tmp_path: Path) -> None:
    async def story() -> None:
        async with world_of(tmp_path, GOOD) as world:
            assert (await world.list())[-2:] == ["add", "whoami"]
            assert (await world.run("add", a=2)).content == "3"
            assert (await world.run("add", a=2, b=40)).data == 42
            with pytest.raises(BadRequest, match="'a' is missing"):
                world.call("add")

    go(story())


def test_a_worker_sees_no_keys_and_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("AIOS_HOME", str(tmp_path))

    async def story() -> None:
        async with world_of(tmp_path, GOOD) as world:
            seen = (await world.run("whoami")).data
            assert "sk-secret" not in str(seen)
            assert not {"AIOS_HOME", "OPENAI_API_KEY"} & set(seen)
            assert seen["HOME"] == seen["cwd"] != os.environ.get("HOME")
            assert os.path.isdir(seen["cwd"])  # noqa: ASYNC240 - a look, no work
        assert not os.path.exists(seen["cwd"])  # noqa: ASYNC240 - a look, no work

    go(story())


@both_loops
def test_what_a_tool_raises_prints_or_forks_harms_nobody_and_keeps_its_process(tmp_path: Path, loop: str) -> None:
    async def story() -> None:
        async with world_of(tmp_path) as world:
            (before,) = world.tools.statistics()["workers"].values()
            assert (await world.run("raises")).content == "error: KeyError: 'no such thing'"
            assert (await world.run("leaves")).content == "error: SystemExit: 3"
            assert (await world.run("prints")).content == "clean"
            assert (await world.run("forks")).content == "one answer"
            assert (await world.run("add", a=1)).content == "2"
            assert before["idle"] == 1

    go(story(), loop)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("exits", r"died \(exit status 3\)"),
        ("aborts", r"died \(signal SIGABRT\); its last words: about to die"),
        ("lies", "broke the protocol"),
    ],
)
def test_a_tool_that_dies_or_lies_fails_its_call_and_the_next_call_gets_a_new_process(
    tmp_path: Path, name: str, words: str
) -> None:
    async def story() -> None:
        async with world_of(tmp_path) as world:
            with pytest.raises(ModuleFault, match=words):
                await world.run(name)
            assert (await world.run("add", a=1)).content == "2"

    go(story())


@pytest.mark.parametrize("name", ["spins", "floods"])
def test_a_tool_that_never_ends_is_killed_at_its_deadline(tmp_path: Path, name: str) -> None:
    async def story() -> None:
        async with world_of(tmp_path) as world:
            call = world.push(name)
            await until(lambda: world.mock.num_timers)
            assert (await world.run("add", a=1)).content == "2"  # others go on, in a process of their own
            await timed_out(world, call)
            assert (await world.run("add", a=1)).content == "2"
            await until(lambda: len(alive(str(tmp_path / "tools.py"))) <= 3)

    go(story())


def test_a_caller_that_leaves_while_a_worker_starts_keeps_nobody_from_the_tool(tmp_path: Path) -> None:
    async def story() -> None:
        async with world_of(tmp_path, GOOD, max_instances=1) as world:
            world.tools._modules[0]._idle.pop().kill()
            leaving = asyncio.create_task(world.tools.registry.get("add").run(Caller("o", "a", 1), {"a": 1}))
            await asyncio.sleep(0)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            assert world.tools._modules[0].error is None
            assert (await world.run("add", a=2)).content == "3"

    go(story())


async def bred(world: World, mark: str) -> Syscall:
    """A run under way that has started more processes by now, in sessions of their own."""
    call = world.push("breeds", mark=mark)
    await until(lambda: alive(mark))
    return call


async def timed_out(world: World, call: Syscall) -> None:
    """Its time is over: it has failed with that."""
    world.mock.advance(5.1)
    await until(lambda: call.state in TERMINAL)
    assert isinstance(call.error, TimedOut)
    assert call.error.code == "tool_timed_out"


@both_loops
def test_what_a_killed_tool_had_started_is_killed_with_it(tmp_path: Path, loop: str) -> None:
    async def story() -> None:
        async with world_of(tmp_path) as world:
            mark = a_mark(1)
            await timed_out(world, await bred(world, mark))
            await gone(mark)
            assert (await world.run("add", a=1)).content == "2"

    go(story(), loop)


@both_loops
def test_what_a_crashed_tool_had_started_is_killed_with_it(tmp_path: Path, loop: str) -> None:
    async def story() -> None:
        async with world_of(tmp_path) as world:
            with pytest.raises(ModuleFault, match="SIGABRT"):
                await world.run("orphans", mark=a_mark(2))
            await gone(a_mark(2))

    go(story(), loop)


@pytest.mark.parametrize("is_started", [False, True], ids=["before its process", "after its process"])
def test_a_worker_that_is_ended_while_it_is_launched_has_its_folder_until_its_process_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_started: bool
) -> None:
    really_start, really_remove, removed = asyncio.create_subprocess_exec, scratch.remove, []

    def remove(folder: str) -> None:
        removed.append(folder)
        really_remove(folder)

    async def at_once(function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    async def story() -> None:
        is_launched, may_go_on = asyncio.Event(), asyncio.Event()

        async def start(*arguments: Any, **more: Any) -> Any:
            process = await really_start(*arguments, **more) if is_started else None
            is_launched.set()
            await may_go_on.wait()
            return process or await really_start(*arguments, **more)

        async with world_of(tmp_path, GOOD) as world:
            (module,) = world.tools._modules
            module._idle.pop().kill()
            monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
            monkeypatch.setattr(asyncio, "to_thread", at_once)
            monkeypatch.setattr(scratch, "remove", remove)
            call = world.push("add", a=1)
            await is_launched.wait()
            (worker,) = (each for each in module._workers if each._end is None)
            closing = asyncio.create_task(world.tools.close())
            for _ in range(50):
                await asyncio.sleep(0)
            assert worker._folder not in removed
            may_go_on.set()
            await closing
            assert not alive(str(tmp_path / "tools.py"))
            assert worker._folder in removed
            await until(lambda: call.state.value == "failed")
            assert isinstance(call.error, Stopping)
            assert module.error is None

    go(story())


def test_a_launch_that_is_broken_off_leaves_no_open_file(tmp_path: Path) -> None:
    def num_open() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def story() -> None:
        async with world_of(tmp_path, GOOD) as world:
            (module,) = world.tools._modules
            module._idle.pop().kill()
            await asyncio.gather(*(each.ended() for each in module._workers))
            before = num_open()
            for turns in range(6):
                starting = asyncio.create_task(module._worker())
                for _ in range(turns):
                    await asyncio.sleep(0)
                starting.cancel()
                await asyncio.wait([starting])
                await asyncio.gather(*(each.ended() for each in module._workers))
            await until(lambda: num_open() <= before)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        go(story())


def without_namespaces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers start as on a machine that allows them no namespaces."""
    (folder / "sitecustomize.py").write_text(
        "import ctypes\nreal = ctypes.CDLL\nclass CDLL(real):\n    def unshare(self, flags):\n        return -1\n"
        "ctypes.CDLL = CDLL\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_without_namespaces_the_whole_tree_is_killed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with world_of(tmp_path) as world:
            mark = a_mark(3)
            await timed_out(world, await bred(world, mark))
            await gone(mark)
            with pytest.raises(ModuleFault, match="SIGABRT"):
                await world.run("orphans", mark=mark)
            await gone(mark)

    without_namespaces(tmp_path, monkeypatch)
    go(story())


def test_cancelling_a_run_kills_its_process_and_all_below_and_frees_its_instance(tmp_path: Path) -> None:
    async def story() -> None:
        async with world_of(tmp_path) as world:
            mark = a_mark(4)
            call = await bred(world, mark)
            (worker,) = world.tools._modules[0]._workers
            world.queue.abort(call, Cancelled("no more"))
            await until(lambda: call.state in TERMINAL)
            assert (call.state, call.error and call.error.message) == (State.CANCELLED, "no more")
            assert (dict(world.tools.running), worker.is_alive) == ({}, False)
            await gone(mark)
            await worker.ended()
            assert not alive(str(tmp_path / "tools.py"))

    go(story())


def test_many_calls_to_one_instance_keep_to_it_while_another_tool_goes_on(tmp_path: Path) -> None:
    text = GOOD + "\n@tool\ndef who(n: int) -> int:\n    return os.getpid()\n"

    async def story() -> None:
        async with world_of(tmp_path, text) as world:
            calls = [world.push("who", Process(n % 7 + 1, "a", "o"), n=n) for n in range(300)]
            for n in range(20):
                assert (await world.run("calculator", expression=f"{n}*2")).content == str(2 * n)
            assert sum(call.state.value == "done" for call in calls) < 300
            await until(lambda: len(world.ended) == 320)
            assert len({call.result.content for call in calls}) == 1

    go(story())


def test_settings_of_the_operator_stand_above_those_of_the_file(tmp_path: Path) -> None:
    async def story() -> None:
        async with world_of(tmp_path, GOOD, max_instances=5, timeout=7.0) as world:
            add = world.tools.infos("add")[0]
            assert (add.max_instances, add.timeout, add.effect) == (5, 7.0, "pure")

    go(story())


def test_a_changed_file_is_loaded_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with world_of(tmp_path, GOOD) as world:
            path = tmp_path / "tools.py"
            path.write_text(HEAD + GOOD.replace("a + b", "a * 100 + b"))
            assert (await world.run("add", a=1)).content == "101"
            path.write_text(HEAD + "@tool\ndef other(word: str) -> str:\n    return word\n")
            assert (await world.list())[-1] == "other"
            assert (await world.run("other", word="hi")).content == "hi"
            with pytest.raises(NotFound):
                world.call("add", a=1)

    go(story())


def test_a_worker_that_was_busy_when_the_file_changed_is_not_used_again(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    text = GOOD + "\n@tool\ndef wait(path: str) -> None:\n    while not os.path.exists(path): time.sleep(0.01)\n"

    async def story() -> None:
        async with world_of(tmp_path, text) as world:
            call = world.push("wait", path=str(gate))
            await until(lambda: world.mock.num_timers)
            (tmp_path / "tools.py").write_text(HEAD + GOOD.replace("a + b", "a * 100 + b"))
            assert (await world.run("add", a=1)).content == "101"
            gate.touch()
            await until(lambda: call.state.value == "done")
            for n in range(3):
                assert (await world.run("add", a=n)).data == n * 100 + 1
            assert world.tools.statistics()["workers"]["tools.py"]["idle"] == 1

    go(story())


def test_a_worker_that_was_loading_when_the_file_changed_does_not_bring_back_its_old_tools(tmp_path: Path) -> None:
    gate, begun = tmp_path / "gate", tmp_path / "begun"
    slow = f"open({str(begun)!r}, 'w').close()\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    gate.touch()

    async def story() -> None:
        async with world_of(tmp_path, slow + GOOD + BAD) as world:
            with pytest.raises(ModuleFault):
                await world.run("aborts")
            gate.unlink()
            begun.unlink()
            call = world.push("add", a=1)
            await until(begun.exists)
            (tmp_path / "tools.py").write_text(HEAD + GOOD + "@tool\ndef other(word: str) -> str:\n    return word\n")
            assert "other" in await world.list()
            gate.touch()
            await until(lambda: call.state.value == "done")
            assert "other" in await world.list()
            assert (await world.run("other", word="hi")).content == "hi"

    go(story())


FILLS = """
@tool
def fills() -> None:
    for n in range(1 << 40):
        os.mkdir(f"{n}")
"""

STARTS = """
    world.tools._modules[0]._idle.clear()
    starting = asyncio.create_task(world.run("whoami"))
    await until(lambda: sum(each._process is not None for each in world.tools._modules[0]._workers) == 2)
"""


def killed_kernel(path: Path, last_deed: str) -> Path:
    """The folder of the worker of a kernel that loads the tools in `path` and, after `last_deed`, is killed."""
    kernel = f"""
import asyncio, os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from tool_world import ToolSection, World
from aios.testing import until
async def story():
    world = World(ToolSection(module={str(path)!r}))
    await world.tools.open()
    folder = (await world.run("whoami")).data["cwd"]
    print(folder, flush=True)
    keeper = world.tools._modules[0]._idle[0]._process.pid
    {last_deed}
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(story())
"""
    killed = subprocess.run([sys.executable, "-c", kernel], check=False, stdout=subprocess.PIPE, text=True)
    assert killed.returncode == -signal.SIGKILL
    return Path(killed.stdout.strip())


@pytest.mark.parametrize("is_contained", [True, False], ids=["contained", "not contained"])
@pytest.mark.parametrize(
    "last_deed",
    ["pass", "world.push('fills'); await until(lambda: os.path.exists(folder + '/100'))", STARTS],
    ids=["idle", "busy", "starting"],
)
def test_no_worker_and_no_folder_outlives_a_kernel_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_deed: str, is_contained: bool
) -> None:
    temp = tmp_path / "temp"
    temp.mkdir()
    monkeypatch.setenv("TMPDIR", str(temp))
    if not is_contained:
        without_namespaces(tmp_path, monkeypatch)
    path = tmp_path / "tools.py"
    path.write_text(HEAD + GOOD + FILLS)
    killed_kernel(path, last_deed)
    go(gone(str(path)))  # keepers end last, and nothing is there any more when they do
    assert not list(temp.iterdir())


def test_a_worker_that_loses_the_kernel_takes_its_folder_along(tmp_path: Path) -> None:
    async def story() -> None:
        async with world_of(tmp_path, GOOD) as world:
            folder = Path((await world.run("whoami")).data["cwd"])
            (worker,) = world.tools._modules[0]._idle
            assert worker._process is not None
            worker._writer.close()  # of all that a death does, this comes first
            await worker._process.wait()
            assert not folder.exists()  # noqa: ASYNC240 - a look, no work

    go(story())


def test_a_folder_left_by_a_kernel_killed_with_its_keepers_is_gone_when_the_next_one_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    path = tmp_path / "tools.py"
    path.write_text(HEAD + GOOD)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    left = killed_kernel(path, "os.kill(keeper, signal.SIGKILL)")
    go(gone(str(path)))
    assert left.is_dir()

    async def story() -> None:
        async with world_of(tmp_path, GOOD) as one:
            assert not left.exists()
            folder = Path((await one.run("whoami")).data["cwd"])
            async with world_of(elsewhere, GOOD):  # another kernel on this machine
                assert folder.is_dir()  # noqa: ASYNC240 - a look, no work
            assert (await one.run("add", a=1)).content == "2"

    go(story())


def test_a_kernel_without_room_for_workers_boots_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    async def story() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "gettempdir", nowhere)
            async with world_of(tmp_path, GOOD) as world:
                (why,) = world.tools.problems.values()
                assert why.startswith(
                    "a process for tools.py could not be started: [Errno 2] No usable temporary directory"
                )
                assert (await world.run("calculator", expression="1")).content == "1"

    go(story())


def test_without_its_python_no_file_is_blamed(tmp_path: Path) -> None:
    path = tmp_path / "tools.py"
    path.write_text(HEAD + GOOD)

    async def story() -> None:
        world = World(ToolSection(module=str(path)), python="/nowhere/python")
        await world.tools.open()
        (why,) = world.tools.problems.values()
        assert why.startswith("a process for tools.py could not be started with /nowhere/python: [Errno 2]")

    go(story())


@pytest.mark.parametrize(
    ("host", "why"),
    [("echo 'none here'; exit 3", r"exit status 3\); its last words: none here"), ("kill -9 $$", r"signal SIGKILL\)")],
    ids=["ends", "is killed"],
)
def test_a_process_that_does_not_come_to_the_file_is_no_fault_of_the_file_and_is_tried_again_by_itself(
    tmp_path: Path, host: str, why: str
) -> None:
    path, python = tmp_path / "tools.py", tmp_path / "python"
    path.write_text(HEAD + GOOD)
    python.write_text(f'#!/bin/sh\nif [ -e {tmp_path}/mended ]; then exec {sys.executable} "$@"; fi\n{host}\n')
    python.chmod(0o700)

    async def story() -> None:
        world = World(ToolSection(module=str(path)), python=str(python))
        await world.tools.open()
        (told,) = world.tools.problems.values()
        assert re.search(r"^a process for tools.py could not be started with .*/python: .* died \(" + why, told)
        (tmp_path / "mended").touch()
        assert "add" not in await world.list()  # its time has not come
        world.mock.advance(1.1)
        assert "add" in await world.list()
        assert world.tools.problems == {}
        await world.tools.close()

    go(story())


def test_a_call_that_gets_no_process_hears_that_the_file_is_not_at_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def exhausted(*_: Any, **__: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    async def story() -> None:
        async with world_of(tmp_path) as world:
            with pytest.raises(ModuleFault, match="SIGABRT"):
                await world.run("aborts")
            with monkeypatch.context() as patch:
                patch.setattr(asyncio, "create_subprocess_exec", exhausted)
                for advice in ("that is no fault of the file, and is tried again", "the next try is in 1 s"):
                    with pytest.raises(Stopping, match=f"temporarily unavailable; {advice}") as caught:
                        await world.run("add", a=1)
                    assert (caught.value.code, caught.value.retry_after) == ("tool_unavailable", 1.0)
            world.mock.advance(1.1)
            assert (await world.run("add", a=1)).content == "2"

    go(story())


def test_a_process_that_somebody_kills_while_it_loads_the_file_is_no_fault_of_the_file(tmp_path: Path) -> None:
    async def story() -> None:
        async with world_of(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)\n") as world:
            (why,) = world.tools.problems.values()
            assert why == (
                "the process of tools.py died (signal SIGKILL): "
                "killed by somebody, as by a machine that is out of memory"
            )
            assert world.tools._modules[0]._is_foreign

    go(story())


def test_a_file_that_does_not_load_costs_only_its_own_tools_and_is_tried_again_when_mended(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with world_of(tmp_path, "x = nothing\n") as world:
            path = tmp_path / "tools.py"
            (why,) = world.tools.problems.values()
            assert why == "tools.py cannot be loaded: NameError: name 'nothing' is not defined (line 3)"
            assert (await world.run("calculator", expression="1")).content == "1"
            path.write_text(HEAD + GOOD)
            assert (await world.list())[-2:] == ["add", "whoami"]
            assert world.tools.problems == {}

    go(story())


@asynccontextmanager
async def broken_world(folder: Path) -> AsyncIterator[World]:
    """The file of tools loaded once and does not any more, and no worker is left."""
    text = "if os.path.exists(__file__ + '.broken'): raise RuntimeError('no luck')\n" + GOOD + BAD
    async with world_of(folder, text) as world:
        (folder / "tools.py.broken").touch()
        with pytest.raises(ModuleFault, match="SIGABRT"):
            await world.run("aborts")
        yield world


def test_a_file_that_breaks_later_backs_off_and_says_why(tmp_path: Path) -> None:
    async def story() -> None:
        async with broken_world(tmp_path) as world:
            with pytest.raises(ModuleFault, match="no luck"):
                await world.run("add", a=1)
            with pytest.raises(ModuleFault, match="next try is in 1 s") as caught:
                await world.run("add", a=1)
            assert caught.value.retry_after == 1.0
            (tmp_path / "tools.py.broken").unlink()
            world.mock.advance(1.1)
            assert (await world.run("add", a=1)).content == "2"

    go(story())


def test_workers_that_fail_to_load_at_the_same_time_are_one_try(tmp_path: Path) -> None:
    async def story() -> None:
        async with broken_world(tmp_path) as world:
            calls = [world.push("add", a=n) for n in range(2)]
            await until(lambda: all(call.state in TERMINAL for call in calls))
            assert all("no luck" in error.message and error.retry_after is None for error in errors_of(calls))
            assert len(errors_of(calls)) == 2
            with pytest.raises(ModuleFault, match="next try is in 1 s"):
                await world.run("add", a=1)

    go(story())


def test_operators_are_told_why_a_file_has_no_tools_and_have_it_tried_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with world_of(tmp_path, "from helper import word\n" + GOOD) as world:
            assert (await world.tools_as(is_admin=False)).problems == {}
            why = "tools.py cannot be loaded: ModuleNotFoundError: No module named 'helper' (line 3)"
            assert (await world.tools_as(is_admin=True)).problems == {str(tmp_path / "tools.py"): why}
            (tmp_path / "helper.py").write_text("word = 'hi'\n")
            assert "add" not in await world.list()  # an agent that asks waits for no second try
            mended = await world.tools_as(is_admin=True)
            assert (mended.tools[-2].name, mended.problems) == ("add", {})

    go(story())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def one(word: Annotated[str, Meta(pattern='(?=x)')]) -> str: ...", "the parameters of tool 'one'"),
        ("def one(word: object) -> str: ...", "cannot be loaded: TypeError: @tool on 'one': parameter 'word"),
        ("def calculator() -> str: ...", "there is a tool called 'calculator' already"),
    ],
)
def test_a_file_whose_tools_cannot_be_taken_says_which_and_fails_no_call_with_its_callers_fault(
    tmp_path: Path, text: str, why: str
) -> None:
    bad = f"from typing import Annotated\nfrom msgspec import Meta\n@tool\n{text}\n"

    async def story() -> None:
        async with world_of(tmp_path, GOOD) as world:
            (tmp_path / "tools.py").write_text(HEAD + bad)
            with pytest.raises(ModuleFault, match=why) as caught:
                await world.run("add", a=1)
            assert "mend that; it is tried again when the file changes" in caught.value.message
            ((where, told),) = world.tools.problems.items()
            assert where == str(tmp_path / "tools.py")
            assert re.search(why, told)

    go(story())


def test_a_file_that_is_broken_for_days_is_tried_once_a_minute(tmp_path: Path) -> None:
    async def story() -> None:
        async with world_of(tmp_path, GOOD) as world:
            (module,) = world.tools._modules
            for _ in range(3000):
                world.mock.advance(LONGEST_BACK_OFF)
                module._failed("broken")
            assert module._not_before - world.clock.now() == LONGEST_BACK_OFF

    go(story())


def test_a_missing_file_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    world = World(ToolSection(module=str(tmp_path / "none.py")))
    with pytest.raises(ConfigError, match=r"there is no file .*none\.py"):
        asyncio.run(world.tools.open())


def test_a_name_that_is_taken_is_refused_and_the_first_stays(tmp_path: Path) -> None:
    async def story() -> None:
        text = "@tool\ndef calculator(expression: str) -> str:\n    return 'mine'\n"
        async with world_of(tmp_path, text) as world:
            (why,) = world.tools.problems.values()
            assert "'calculator' already" in why
            assert (await world.run("calculator", expression="1+1")).content == "2"

    go(story())


def test_the_example_in_the_repository_works() -> None:
    path = Path(__file__).parents[2] / "examples" / "tools" / "weather.py"

    async def story() -> None:
        world = World(ToolSection(module="weather.py"), folders=[path.parent])
        await world.tools.open()
        try:
            assert (await world.run("weather", city="Oslo")).content == "Oslo: 3 degrees celsius, snow"
            assert (await world.run("weather", city="Atlantis")).is_error
        finally:
            await world.tools.close()

    go(story())

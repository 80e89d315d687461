"""A program as an agent process: its environment, its process group, its end. Knows nothing of what it does."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from aios.abi.errors import AiosError, Denied, NotFound, Unauthorized
from aios.kernel import load
from aios.sdk import AsyncClient
from aios.sdk.client import default_url, home_path

from .confine import confine, undumpable
from .connect import async_client
from .console import note
from .state import key_names, read_state

PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
GRACE = 3.0
"""Seconds between asking a program to end and ending it."""
_REPLACED = ("OPENAI_", "ANTHROPIC_")
"""Names that begin so would speak of another server or account than the kernel."""
POLL = 30.0
"""Seconds of one wait for the process's end; then it is asked again."""
AWAY = 1.0
"""Seconds until a kernel that did not answer is asked again."""


def environment(url: str, key: str, pid: int, agent: str) -> dict[str, str]:
    """What a program of the process finds: this user's environment, with the kernel in place of OpenAI and Anthropic.

    All names here are those that the OpenAI and Anthropic SDKs read. The header and the project tell whoever looks at
    the program's requests which process they are of; the kernel reads neither, it knows the process by its key.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_REPLACED)}
    local = "127.0.0.1,localhost"  # a proxy of this user's would not reach the kernel
    for name in ("NO_PROXY", "no_proxy"):
        kept[name] = f"{kept[name]},{local}" if kept.get(name) else local
    return {
        **kept,
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_BASE": f"{url}/v1",
        "OPENAI_API_KEY": key,
        "OPENAI_CUSTOM_HEADERS": f"X-AIOS-Pid: {pid}",
        "OPENAI_PROJECT_ID": f"aios-{pid}",
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": key,
        "AIOS_URL": url,
        "AIOS_KEY": key,
        "AIOS_PID": str(pid),
        "AIOS_AGENT": agent,
    }


async def run_program(admin: AsyncClient, argv: list[str], pid: int, key: str, agent: str, is_unconfined: bool) -> int:
    """Run `argv` until it ends, or until the process is killed; its exit code, 128 + n for a signal n."""
    env = environment(default_url(), key, pid, agent)
    if is_unconfined:
        note(f"pid {pid} is unconfined: it can reach all that you can, the kernel's admin key included")
    else:
        confined = confine(argv, env, home_path(), _secrets())
        argv, env = confined.argv, confined.env
        undumpable()  # this process holds the admin key
    with _terminal() as hand_over:
        try:
            child = await asyncio.create_subprocess_exec(*argv, env=env, process_group=0)
        except OSError as error:
            raise NotFound(f"cannot start '{argv[0]}': {error.strerror}") from None
        hand_over(child.pid)
        with _passing_signals(child.pid):
            async with async_client(key) as own:
                return await _until_over(admin, own, child, pid)


def _secrets() -> list[str]:
    """Where keys of cores are: what the running kernel says, which may have another configuration than the home's."""
    state = read_state(home_path()) or {}
    return [*key_names(load()), *state.get("key_names", ())]


async def _until_over(admin: AsyncClient, own: AsyncClient, child: asyncio.subprocess.Process, pid: int) -> int:
    over = asyncio.ensure_future(child.wait())
    killed = asyncio.ensure_future(_ended(admin, own, pid))
    await asyncio.wait((over, killed), return_when=asyncio.FIRST_COMPLETED)
    if not over.done():
        note(f"pid {pid} was killed; its program is ended")
        _signal_group(child.pid, signal.SIGTERM)
        await asyncio.wait((over,), timeout=GRACE)
    _signal_group(child.pid, signal.SIGKILL)  # whoever it left behind goes with it
    killed.cancel()
    code = await over
    return code if code >= 0 else 128 - code


async def _ended(admin: AsyncClient, own: AsyncClient, pid: int) -> None:
    """Return when the kernel says that the process is over. One that is away may come back: the program goes on."""
    while True:
        try:
            if await _is_over(admin, own, pid):
                return
        except AiosError:  # stopping, gone, or in trouble: none of it says that the process is over
            await asyncio.sleep(AWAY)


async def _is_over(admin: AsyncClient, own: AsyncClient, pid: int) -> bool:
    """Wait for the end of the process, up to POLL seconds.

    A kernel that was started anew knows a process again when that calls: so one that is not there is asked about with
    its `own` key, which ends when it does.
    """
    try:
        return (await admin.proc_wait(pid, timeout=POLL)).state == "ended"
    except NotFound:
        pass
    try:
        await own.proc_list()
    except (Unauthorized, Denied):
        return True
    return False


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


@contextmanager
def _passing_signals(group: int) -> Iterator[None]:
    """Signals sent to this command are the program's."""
    loop = asyncio.get_running_loop()
    for number in PASSED_ON:
        loop.add_signal_handler(number, _signal_group, group, number)
    try:
        yield
    finally:
        for number in PASSED_ON:
            loop.remove_signal_handler(number)


@contextmanager
def _terminal() -> Iterator[Callable[[int], None]]:
    """Hand the terminal to the program's process group, as a shell does, and take it back afterwards.

    So ctrl-C reaches the program, and a program that asks its user something may read.
    """
    if not sys.stdin.isatty():
        yield lambda group: None
        return
    terminal, mine = sys.stdin.fileno(), os.getpgrp()
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)

    def hand_over(group: int) -> None:
        with suppress(OSError):
            os.tcsetpgrp(terminal, group)
        _signal_group(group, signal.SIGCONT)  # it may have been stopped for reading too early

    try:
        yield hand_over
    finally:
        with suppress(OSError):
            os.tcsetpgrp(terminal, mine)
        signal.signal(signal.SIGTTOU, before)

"""What the tests of the store share: calls to record, a store to record them in, faults to meet."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import apsw

from aios.abi.calls import CALLS, LLMGenerate
from aios.abi.errors import AiosError
from aios.abi.messages import Generation, Message, Usage
from aios.kernel.database import Database
from aios.kernel.journal import Journal
from aios.kernel.process import Process
from aios.kernel.syscall import State, Syscall
from aios.testing import MockClock

_ids = count(1)


@contextmanager
def opened(home: Path, **options: Any) -> Iterator[Database]:
    database = Database.open(home / "aios.db", **options)
    try:
        yield database
    finally:
        database.close()


def journal_of(database: Database, *, keep: float = 3600.0, max_bytes: int = 1 << 30, clock: Any = None) -> Journal:
    return Journal(database, clock or MockClock(), keep=keep, max_bytes=max_bytes)


def process_of(pid: int = 7, agent: str = "a", owner: str = "o") -> Process:
    return Process(pid, agent, owner, started_wall=1.0)


def call_of(
    name: str = "llm_generate", args: Any = None, *, key: str | None = None, process: Process | None = None
) -> Syscall:
    """A new call; `llm_generate` of one message without `args`."""
    args = args or LLMGenerate(messages=[Message(role="user", content="hello")])
    return Syscall(f"call_{next(_ids):06d}", CALLS[name], args, process or process_of(), 0.0, key)


def ended(call: Syscall, result: Any = None, error: AiosError | None = None) -> Syscall:
    """`call` as a worker leaves it."""
    call.result, call.error = result, error
    call.state = State.DONE if error is None else State.FAILED
    return call


def said(text: str) -> Generation:
    return Generation(Message(role="assistant", content=text), "stop", Usage.of(3, 1), "m", "core", seed=5)


async def told(start: Callable[[Callable[[AiosError | None], None]], None]) -> AiosError | None:
    """Call `start(then)` and wait for what `then` is told."""
    answer: asyncio.Future[AiosError | None] = asyncio.get_running_loop().create_future()
    start(answer.set_result)
    return await answer


async def recorded(journal: Journal, call: Syscall) -> None:
    assert await told(lambda then: journal.open(call, then)) is None


async def closed(journal: Journal, call: Syscall) -> None:
    assert await told(lambda then: journal.close(call, then)) is None


def full(_: object) -> None:
    """In the place of a step of the writer: the disk takes no more."""
    raise apsw.FullError("database or disk is full")


def in_child(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `script` in a process of its own, which may limit or kill itself."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

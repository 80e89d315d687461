"""Turns HTML and PDF into text, in a process of its own that is shut in (`host.py`). Knows no store.

What a file does to who reads it ends with that process: it is told as `Unreadable`, and the next file gets another.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ...clock import Clock
from . import host

MAX_TEXT = 8 << 20
"""Characters of one file."""
LATE = 120.0
"""Seconds that a file may take on a busy machine: those of the processor are counted by the system."""
PATIENCE = 5.0
"""Seconds for a process to end that was killed."""
_HERE = Path(__file__).with_name("host.py")


class Unreadable(Exception):
    """Why there is no text in a file, in words that go on from its name."""


class Program(NamedTuple):
    """What converts: a module, where it finds what it needs, and what it may take (see `host.py`)."""

    module: str
    seconds: int
    memory: int
    folders: tuple[str, ...] = ()


HTML = Program("html_text", 10, 512 << 20)


def pdf() -> Program | None:
    """None where pypdf is not installed."""
    specs = [importlib.util.find_spec(name) for name in ("pypdf", "cryptography")]
    if specs[0] is None:
        return None
    folders = [str(Path(spec.origin).parents[1]) for spec in specs if spec is not None and spec.origin]
    return Program("pdf_text", 30, 768 << 20, tuple(dict.fromkeys(folders)))


class Converted(NamedTuple):
    """`why` says what of it was not read, or is None."""

    text: str
    why: str | None


class Converter:
    """Converts one file at a time. Its process starts with the first one; `close` ends it. Used on the event loop."""

    def __init__(self, program: Program, clock: Clock) -> None:
        self._program = program
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None

    async def convert(self, pieces: Iterable[bytes], limit: int = MAX_TEXT) -> Converted:
        """The text in a file, which comes in pieces: at most `limit` characters. Raises Unreadable, and OSError when
        the machine starts no process."""
        process = self._process = self._process or await _start(self._program)
        is_late = False

        def give_up() -> None:
            nonlocal is_late
            is_late = True
            _kill(process)

        timer = self._clock.call_later(LATE, give_up)
        try:
            return await _asked(process, list(pieces), limit)
        except (asyncio.IncompleteReadError, ConnectionError):
            why = self._fate(await self._status())
            raise Unreadable(f"it took longer than {LATE:g} seconds" if is_late else why) from None
        except asyncio.CancelledError:
            await self.close()
            raise
        finally:
            timer.cancel()

    async def _status(self) -> int:
        process = self._process
        assert process is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), PATIENCE)
        await self.close()
        return process.returncode or 0

    def _fate(self, status: int) -> str:
        if status == -signal.SIGXCPU:
            return f"it took more than {self._program.seconds} seconds of the processor"
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"the process that read it {how}"

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _kill(process)
            await process.wait()
            await _let_go(process)


async def _start(program: Program) -> asyncio.subprocess.Process:
    words = (program.module, str(program.seconds), str(program.memory), *program.folders)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-B", str(_HERE), *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd="/",
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        start_new_session=True,
    )


async def _asked(process: asyncio.subprocess.Process, pieces: list[bytes], limit: int) -> Converted:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(host.REQUEST.pack(sum(map(len, pieces)), limit))
    for piece in pieces:
        process.stdin.write(piece)
        await process.stdin.drain()
    kind, size, more = host.ANSWER.unpack(await process.stdout.readexactly(host.ANSWER.size))
    if size > 4 * limit + 1000 or more > 4000 or kind not in (b"t", b"w"):  # a character takes four bytes at most
        raise _is_none(process)
    said, beside = await process.stdout.readexactly(size), await process.stdout.readexactly(more)
    try:
        text, why = said.decode(), beside.decode()
    except UnicodeDecodeError:
        raise _is_none(process) from None
    if kind == b"w":
        raise Unreadable(text)
    return Converted(text, why or None)


def _is_none(process: asyncio.subprocess.Process) -> asyncio.IncompleteReadError:
    """What it answered is no answer: nothing more is believed of it."""
    _kill(process)
    return asyncio.IncompleteReadError(b"", None)


async def _let_go(process: asyncio.subprocess.Process) -> None:
    """Close the pipes of a process that has ended: until both are, the event loop still has something to do for it."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    with contextlib.suppress(ConnectionError):
        await process.stdin.wait_closed()
    await process.stdout.read()


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()

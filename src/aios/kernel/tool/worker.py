"""The process of a worker: started, asked, killed with all that it started. Knows no tool and no queue."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aios
from aios.abi.errors import ModuleFault, Stopping

from . import scratch
from .frames import PREFIX, Hello, Here, Reply, Request, pack, size_of, unpack

_TAIL = 2000
"""Bytes of what a worker printed last that are kept."""
_FREE_OUTPUT = 1 << 20
_LAST_MOMENT = 1.0
"""Seconds for a keeper whose tools have gone to say how they ended."""
_GRACE = 5.0
"""Seconds in which a keeper ends what is below it and takes its folder away."""
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "VIRTUAL_ENV")


class Worker:
    """One process of a module, and all that it starts."""

    def __init__(self, name: str, stamp: tuple[int, int] | None) -> None:
        self.stamp = stamp
        """Of the file, when this worker was told to load it."""
        self._name = name
        self._folder = ""
        self._owner = -1
        self._tail = b""
        self._num_output = 0
        self._requests = 0
        self._is_contained = False
        self._launching: asyncio.Task[None] | None = None
        """Goes to its end, whoever waits or has gone: what is half made could not be taken back."""
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._printed: asyncio.ReadTransport | None = None
        self._drain: asyncio.Task[None] | None = None
        self._end: asyncio.Task[None] | None = None

    @property
    def is_alive(self) -> bool:
        return self._end is None and self._process is not None and self._process.returncode is None

    @property
    def is_gone(self) -> bool:
        """It was killed, and nothing is left of it."""
        return self._end is not None and self._end.done()

    async def start(self, python: str, path: Path) -> None:
        """Start the process, as far as it goes without the file. Raises Stopping: it does not start on this machine,
        or not now."""
        try:
            self._folder, self._owner = scratch.make()
        except OSError as error:
            raise self._kept(f": {error}") from None
        self._launching = asyncio.get_running_loop().create_task(self._launch(python, path))
        try:
            await asyncio.shield(self._launching)
            here: Here = await self._receive(Here)
        except (OSError, ModuleFault) as error:
            raise self._kept(f" with {python}: {error}") from None
        self._is_contained = here.is_contained

    def _kept(self, why: str) -> Stopping:
        return Stopping(f"a process for {self._name} could not be started{why}", code="tool_unavailable")

    async def load(self) -> Hello:
        """After `start`: what the process says of the file when it has loaded it. Raises ModuleFault, or Stopping when
        somebody else kept it from that."""
        try:
            hello: Hello = await self._receive(Hello)
        except ModuleFault as error:
            if self._was_killed():
                why = f"{error.message}: killed by somebody, as by a machine that is out of memory"
                raise Stopping(why, code="tool_unavailable") from None
            raise
        return hello

    async def _launch(self, python: str, path: Path) -> None:
        ours, theirs = socket.socketpair()
        output, printed = os.pipe()
        with theirs, os.fdopen(printed, "wb"):
            await self._listen(ours, output)
            handed = (theirs.fileno(), self._owner)
            host = ("aios.kernel.tool.host", str(theirs.fileno()), str(path), self._folder, str(self._owner))
            self._process = await asyncio.create_subprocess_exec(
                *(python, "-P", "-u", "-B", "-m", *host),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                cwd=self._folder,
                env=_environment(self._folder),
                pass_fds=handed,
                start_new_session=True,
            )

    async def _listen(self, link: socket.socket, output: int) -> None:
        self._reader, self._writer = await asyncio.open_unix_connection(sock=link)
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        self._printed, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", 0)
        )
        self._drain = loop.create_task(self._read_output(reader))

    async def ask(self, tool: str, arguments: Mapping[str, Any]) -> Reply:
        """Run one tool. Raises ModuleFault when the process died or does not keep to the protocol."""
        assert self._writer is not None
        self._requests += 1
        self._num_output = 0
        try:
            self._writer.write(pack(Request(self._requests, tool, dict(arguments))))
            await self._writer.drain()
        except ConnectionError:
            raise await self._died() from None
        reply: Reply = await self._receive(Reply)
        if reply.id != self._requests:
            raise self._lied(f"it answered request {reply.id} instead of {self._requests}")
        return reply

    async def _receive(self, kind: Any) -> Any:
        try:
            size = size_of(await self._reader.readexactly(PREFIX))
            return unpack(await self._reader.readexactly(size), kind)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise await self._died() from None
        except ValueError as error:
            raise self._lied(str(error)) from None

    async def _died(self) -> ModuleFault:
        """It closed its end. The keeper is given a moment to say how it ended; then it is ended in any case."""
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _LAST_MOMENT)
        self.kill()
        status = await self._process.wait()
        if self._drain is not None:
            await asyncio.wait([self._drain], timeout=_LAST_MOMENT)
        number = -status if status < 0 else status - 128
        how = f"signal {_signal(number)}" if number > 0 else f"exit status {status}"
        words = self._tail.decode("utf-8", "replace").strip()
        last = f"; its last words: {words[-400:]}" if words else ""
        return ModuleFault(f"the process of {self._name} died ({how}){last}", code="tool_crashed")

    def _was_killed(self) -> bool:
        """The tools, or their keeper."""
        killed = (-signal.SIGKILL, 128 + signal.SIGKILL)
        return self._process is not None and self._process.returncode in killed

    def _lied(self, what: str) -> ModuleFault:
        return ModuleFault(f"the process of {self._name} broke the protocol: {what}", code="tool_crashed")

    async def _read_output(self, printed: asyncio.StreamReader) -> None:
        """Keep the end of what is printed. Past a megabyte a request, read slowly: the printer waits, not we."""
        while piece := await printed.read(1 << 16):
            self._tail = (self._tail + piece)[-_TAIL:]
            self._num_output += len(piece)
            if self._num_output > _FREE_OUTPUT:
                await asyncio.sleep(0.02)

    # ── the end ──

    def kill(self) -> None:
        """Kill the process and whatever it started, now; clean up behind it later. May be called again."""
        if self._end is not None:
            return
        self._kill_process()
        self._end = asyncio.get_running_loop().create_task(self._clean_up())

    def _kill_process(self) -> None:
        if self._process is not None and self._process.returncode is None:
            kill_tree(self._process.pid, is_contained=self._is_contained)

    async def ended(self) -> None:
        """After `kill`: wait until nothing of it is left."""
        if self._end is not None:
            await self._end

    async def _clean_up(self) -> None:
        if self._launching is not None and not self._launching.done():
            # Else it would start in a folder that is gone, and nobody would end it.
            await asyncio.wait([self._launching])
            self._kill_process()
        if self._process is not None:
            await _ended(self._process)
        if self._writer is not None:
            self._writer.close()
        if self._drain is not None:
            self._drain.cancel()
        if self._printed is not None:
            self._printed.close()
        if self._folder:
            await asyncio.to_thread(scratch.remove, self._folder)  # if the keeper was killed before it came to that
            os.close(self._owner)


async def _ended(keeper: asyncio.subprocess.Process) -> None:
    """Wait until `keeper` has ended by itself, since then nobody below it is left; but not for ever."""
    try:
        await asyncio.wait_for(keeper.wait(), _GRACE)
    except TimeoutError:
        keeper.kill()
        await keeper.wait()


def kill_tree(keeper: int, *, is_contained: bool) -> None:
    """SIGKILL everything below the process `keeper`, and tell it to end.

    In a pid namespace its first process takes all others along. Otherwise each is stopped before its children are
    looked for, so that it cannot start more meanwhile; the keeper adopts what tries to leave, and kills it.
    """
    for each in _children(keeper) if is_contained else _stopped(keeper):
        _send(each, signal.SIGKILL)
    _send(keeper, signal.SIGTERM)


def _stopped(keeper: int) -> set[int]:
    """What is below `keeper`: all stopped, as far as they did not come faster than they could be counted."""
    below: set[int] = set()
    for _ in range(50):
        new = _descendants(keeper) - below
        if not new:
            break
        for each in new:
            _send(each, signal.SIGSTOP)
        below |= new
    return below


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        children = _children(waiting.pop()) - found
        found |= children
        waiting += children
    return found


def _children(pid: int) -> set[int]:
    """Of all its threads; none when it has ended."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found |= {int(word) for word in (task / "children").read_text().split()}
    return found


def _send(pid: int, what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, what)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _environment(folder: str) -> dict[str, str]:
    """What a tool may see of ours: where programs are, the language, the time zone. No keys, no home."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    ours = str(Path(aios.__file__).parents[1])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**kept, "HOME": folder, "PYTHONPATH": os.pathsep.join([*paths, ours])}

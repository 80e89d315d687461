"""A file of tools and the processes that run it: started on demand, killed with all they started. Knows no queue.

One worker runs one request at a time. A worker that was timed out, cancelled or lied is killed and never used again;
the next call starts a new one. When the file changes, idle workers are let go and new ones load what is there now.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

import aios
from aios.abi.calls import ToolResult
from aios.abi.errors import AiosError, ModuleFault, NotFound, Stopping
from aios.abi.tools import ToolManifest

from ..clock import Clock
from ..config import ToolSection
from .base import Caller, deadline, too_long
from .frames import PREFIX, Hello, Reply, Request, pack, size_of, unpack

START_LIMIT = 30.0
"""Seconds to load a module."""
LONGEST_BACK_OFF = 60.0
_TAIL = 2000
_FREE_OUTPUT = 1 << 20
_LAST_MOMENT = 1.0
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "VIRTUAL_ENV")


class WorkerTool:
    """A tool of a module, as the registry holds it."""

    def __init__(self, manifest: ToolManifest, module: Module) -> None:
        self.manifest = manifest
        self._module = module

    async def run(self, caller: Caller, arguments: Mapping[str, Any]) -> ToolResult:
        return await self._module.run(self.manifest, arguments)


class Module:
    """One configured file. `on_change` hears of new tools before they take the place of the old; it may refuse."""

    def __init__(
        self,
        section: ToolSection,
        path: Path,
        python: str,
        clock: Clock,
        on_change: Callable[[Module, list[WorkerTool]], None],
    ) -> None:
        self.path = path
        self.tools: list[WorkerTool] = []
        self.error: str | None = None
        """Why the file could not be loaded when last tried."""
        self._section = section
        self._python = python
        self._clock = clock
        self._on_change = on_change
        self._idle: list[Worker] = []
        self._workers: set[Worker] = set()
        self._is_closed = False
        self._stamp: tuple[int, int] | None = None
        self._num_failures = 0
        self._not_before = 0.0

    async def run(self, manifest: ToolManifest, arguments: Mapping[str, Any]) -> ToolResult:
        worker = await self._worker()
        if all(tool.manifest.name != manifest.name for tool in self.tools):
            self._give_back(worker)
            raise NotFound(f"there is no tool '{manifest.name}' in {self.path.name} any more", code="unknown_tool")
        try:
            async with deadline(self._clock, manifest.timeout, too_long(manifest)):
                reply = await worker.ask(manifest.name, arguments)
        except BaseException:
            worker.kill()
            raise
        self._give_back(worker)
        return ToolResult(content=reply.content, is_error=reply.is_error, data=reply.data)

    async def refresh(self) -> None:
        """Load the file, if it was not or has changed. Raises ModuleFault."""
        if self._stamp is None or self._stamp != self._stamp_now():
            self._give_back(await self._worker())

    def _give_back(self, worker: Worker) -> None:
        """`worker` is free: for the next call, unless the file has changed since it loaded it."""
        if worker.stamp == self._stamp:
            self._idle.append(worker)
        else:
            worker.kill()

    async def close(self) -> None:
        """End all workers. No new ones are started any more."""
        self._is_closed = True
        for worker in self._workers:
            worker.kill()
        await asyncio.gather(*(worker.ended() for worker in self._workers))

    async def _worker(self) -> Worker:
        """An idle worker that has loaded the file as it is now, or a new one."""
        stamp = self._stamp_now()
        if stamp != self._stamp:
            for worker in self._idle:
                worker.kill()
            self._idle.clear()
            self._num_failures, self._not_before = 0, 0.0
            self._stamp = stamp
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive:
                return worker
            worker.kill()
        return await self._start()

    async def _start(self) -> Worker:
        if self._is_closed:
            raise Stopping("the kernel is stopping; no tool is started any more")
        self._workers = {worker for worker in self._workers if not worker.is_gone}
        wait = self._not_before - self._clock.now()
        if wait > 0:
            raise self._cannot(f"the next try is in {wait:.0f} s", wait)
        worker = Worker(self.path.name, self._stamp)
        self._workers.add(worker)
        try:
            async with deadline(self._clock, START_LIMIT, f"{self.path.name} did not load in {START_LIMIT:g} s"):
                hello = await worker.start(self._python, self.path)
        except asyncio.CancelledError:
            worker.kill()  # whoever asked has gone; that says nothing of the file
            raise
        except BaseException as error:
            worker.kill()
            self._failed(str(error))
            raise
        if hello.error is not None:
            worker.kill()
            self._failed(hello.error)
            raise self._cannot("mend the file; it is looked at again when it changes")
        try:
            self._take(hello.tools)
        except AiosError as error:
            worker.kill()
            self._failed(str(error))
            raise
        self._num_failures, self.error = 0, None
        return worker

    def _take(self, manifests: list[ToolManifest]) -> None:
        section = self._section
        facts = {"max_instances": section.max_instances, "timeout": section.timeout}
        changes: dict[str, Any] = {name: value for name, value in facts.items() if value is not None}
        now = [msgspec.structs.replace(manifest, **changes) for manifest in manifests]
        if now != [tool.manifest for tool in self.tools]:
            tools = [WorkerTool(manifest, self) for manifest in now]
            self._on_change(self, tools)
            self.tools = tools

    def _failed(self, why: str) -> None:
        self.error = why
        self._num_failures += 1
        self._not_before = self._clock.now() + min(LONGEST_BACK_OFF, 0.5 * 2**self._num_failures)

    def _cannot(self, advice: str, retry_after: float | None = None) -> ModuleFault:
        return ModuleFault(
            f"the tools of {self.path.name} do not start: {self.error}; {advice}",
            code="tool_unavailable",
            retry_after=retry_after,
        )

    def _stamp_now(self) -> tuple[int, int]:
        try:
            stat = self.path.stat()
        except OSError:
            return (0, 0)
        return (stat.st_mtime_ns, stat.st_size)

    def statistics(self) -> dict[str, Any]:
        live = sum(worker.is_alive for worker in self._workers)
        return {"workers": live, "idle": len(self._idle), "error": self.error}


class Worker:
    """One process of a module, and all that it starts."""

    def __init__(self, name: str, stamp: tuple[int, int] | None) -> None:
        self.stamp = stamp
        """Of the file, when this worker was told to load it."""
        self._name = name
        self._folder = tempfile.mkdtemp(prefix="aios-tool-")
        self._tail = b""
        self._num_output = 0
        self._requests = 0
        self._is_contained = False
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

    async def start(self, python: str, path: Path) -> Hello:
        """Start the process; what it says of itself. Raises ModuleFault."""
        ours, theirs = socket.socketpair()
        output, printed = os.pipe()
        with theirs, os.fdopen(printed, "wb"):
            await self._listen(ours, output)
            self._process = await asyncio.create_subprocess_exec(
                *(
                    python,
                    "-P",
                    "-u",
                    "-B",
                    "-m",
                    "aios.kernel.tool.host",
                    str(theirs.fileno()),
                    str(path),
                    self._folder,
                ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                cwd=self._folder,
                env=_environment(self._folder),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        hello: Hello = await self._receive(Hello)
        self._is_contained = hello.is_contained
        return hello

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
        """It closed its end. The keeper is given a moment to say how it ended; then it is killed in any case."""
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _LAST_MOMENT)
        self.kill()
        status = await self._process.wait()
        if self._drain is not None:
            await asyncio.wait([self._drain], timeout=_LAST_MOMENT)
        how = f"signal {_signal(status - 128)}" if status > 128 else f"exit status {status}"
        words = self._tail[-_TAIL:].decode("utf-8", "replace").strip()
        last = f"; its last words: {words[-400:]}" if words else ""
        return ModuleFault(f"the process of {self._name} died ({how}){last}", code="tool_crashed")

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
        if self._process is not None and self._process.returncode is None:
            kill_tree(self._process.pid, is_contained=self._is_contained)
        self._end = asyncio.get_running_loop().create_task(self._clean_up())

    async def ended(self) -> None:
        """After `kill`: wait until nothing of it is left."""
        if self._end is not None:
            await self._end

    async def _clean_up(self) -> None:
        if self._process is not None:
            await self._process.wait()
        if self._writer is not None:
            self._writer.close()
        if self._drain is not None:
            self._drain.cancel()
        if self._printed is not None:
            self._printed.close()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


def kill_tree(pid: int, *, is_contained: bool) -> None:
    """SIGKILL `pid` and everything below it.

    In a pid namespace the kernel of the machine does that by itself. Otherwise each is stopped before its children
    are looked for, so that it cannot start more meanwhile; the keeper adopts what tries to leave.
    """
    below: set[int] = set()
    for _ in range(0 if is_contained else 50):
        new = _descendants(pid) - below
        if not new:
            break
        for child in new:
            _send(child, signal.SIGSTOP)
        below |= new
    for each in (pid, *below):
        _send(each, signal.SIGKILL)


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                children = {int(word) for word in (task / "children").read_text().split()} - found
                found |= children
                waiting += children
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

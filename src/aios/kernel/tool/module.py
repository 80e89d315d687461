"""A configured file of tools: loaded, loaded again when it changes, run by as many workers as are asked for at once.

A worker that was timed out, cancelled or lied is killed and never used again; the next call starts a new one. When the
file changes, idle workers are let go and new ones load what is there now. Knows no queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from aios.abi.calls import ToolResult
from aios.abi.errors import AiosError, ModuleFault, NotFound, Stopping, TimedOut
from aios.abi.tools import ToolManifest

from ..clock import Clock
from ..config import ToolSection
from .base import Caller, deadline, too_long
from .worker import Worker

START_LIMIT = 30.0
"""Seconds to load a module."""
LONGEST_BACK_OFF = 60.0
"""Seconds in which a file that did not load is not tried again, unless it changes or an operator asks."""


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
        self._is_foreign = False
        """That was no fault of the file: no process could be had for it."""
        self._section = section
        self._python = python
        self._clock = clock
        self._on_change = on_change
        self._idle: list[Worker] = []
        self._workers: set[Worker] = set()
        self._is_closed = False
        self._stamp: tuple[int, int] | None = None
        self._back_off = 0.0
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

    async def refresh(self, *, again: bool = False) -> None:
        """Load the file, if it was not or has changed; with `again`, also if that failed. Where it was no fault of the
        file, time may have mended it. Raises ModuleFault, Stopping."""
        is_retried = again and self.error is not None
        if is_retried:
            self._not_before = 0.0
        is_due = self.error is not None and self._is_foreign and self._clock.now() >= self._not_before
        if is_retried or is_due or self._stamp is None or self._stamp != self._stamp_now():
            self._give_back(await self._worker())

    def _give_back(self, worker: Worker) -> None:
        """`worker` is free: for the next call, unless the file has changed since it loaded it."""
        if self._is_current(worker):
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
            self._back_off, self._not_before = 0.0, 0.0
            self._stamp = stamp
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive:
                return worker
            worker.kill()
        return await self._start()

    async def _start(self) -> Worker:
        """A worker that has just loaded the file. Raises ModuleFault, or Stopping where that is not to blame; for a
        while without a try after one failed."""
        if self._is_closed:
            raise _closed()
        self._workers = {worker for worker in self._workers if not worker.is_gone}
        wait = self._not_before - self._clock.now()
        if wait > 0:
            raise self._cannot(str(self.error), f"the next try is in {wait:.0f} s", wait, is_foreign=self._is_foreign)
        worker = Worker(self.path.name, self._stamp)
        self._workers.add(worker)
        try:
            await self._load(worker)
        except BaseException as error:
            worker.kill()
            if not isinstance(error, AiosError):
                raise  # whoever asked has gone; that says nothing of the file
            if self._is_closed:
                raise _closed() from None
            raise self._blamed(worker, error) from None
        if self._is_current(worker):
            self._back_off, self.error = 0.0, None
        return worker

    async def _load(self, worker: Worker) -> None:
        """Start `worker`; what it says of its tools holds for the module. Raises what is wrong with them, or Stopping
        when it did not come to them."""
        try:
            async with deadline(self._clock, START_LIMIT, f"a process for {self.path.name} was not up in time"):
                await worker.start(self._python, self.path)
        except TimedOut as error:
            raise Stopping(error.message, code="tool_unavailable") from None
        async with deadline(self._clock, START_LIMIT, f"{self.path.name} did not load in {START_LIMIT:g} s"):
            hello = await worker.load()
        if hello.error is not None:
            raise ModuleFault(hello.error)
        if self._is_current(worker):
            self._take(hello.tools)

    def _is_current(self, worker: Worker) -> bool:
        """Whether what `worker` loaded holds for the module: not when the file changed meanwhile, since another then
        loads what is there now and may have been faster."""
        return worker.stamp == self._stamp

    def _take(self, manifests: list[ToolManifest]) -> None:
        section = self._section
        facts = {"max_instances": section.max_instances, "timeout": section.timeout}
        changes: dict[str, Any] = {name: value for name, value in facts.items() if value is not None}
        now = [msgspec.structs.replace(manifest, **changes) for manifest in manifests]
        if now != [tool.manifest for tool in self.tools]:
            tools = [WorkerTool(manifest, self) for manifest in now]
            self._on_change(self, tools)
            self.tools = tools

    def _blamed(self, worker: Worker, error: AiosError) -> AiosError:
        """What is told of `error`, which kept `worker` from loading the file."""
        is_foreign = isinstance(error, Stopping)
        if self._is_current(worker):
            self._failed(error.message, is_foreign=is_foreign)
        if not is_foreign:
            advice = "mend that; it is tried again when the file changes or an operator lists tools"
            return self._cannot(error.message, advice)
        advice = "that is no fault of the file, and is tried again"
        return self._cannot(error.message, advice, max(1.0, self._not_before - self._clock.now()), is_foreign=True)

    def _failed(self, why: str, *, is_foreign: bool = False) -> None:
        self.error, self._is_foreign = why, is_foreign
        now = self._clock.now()
        if now < self._not_before:
            return  # it began before another one failed: together they are one try
        self._back_off = min(LONGEST_BACK_OFF, max(1.0, 2 * self._back_off))
        self._not_before = now + self._back_off

    def _cannot(
        self, why: str, advice: str, retry_after: float | None = None, *, is_foreign: bool = False
    ) -> AiosError:
        kind = Stopping if is_foreign else ModuleFault
        return kind(
            f"the tools of {self.path.name} do not start: {why}; {advice}",
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


def _closed() -> AiosError:
    return Stopping("the kernel is stopping; no tool is started any more")

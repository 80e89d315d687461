"""What `tool_list` and `tool_run` mean, and the map of running instances. Knows no policy."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from aios.abi.calls import ToolInfo, ToolList, ToolResult, ToolRun, Tools
from aios.abi.errors import AiosError, KernelFault, NotFound
from aios.abi.tools import ToolManifest

from ..clock import Clock
from ..config import ConfigError, ToolSection
from ..syscall import Syscall
from . import scratch
from .base import Caller, Files, Notes, Tool
from .module import Module, WorkerTool
from .registry import Registry
from .trusted import Handler, TrustedTool, builtin_tools

log = logging.getLogger("aios.tool")
_SLOT = "tools"


class ToolManager:
    """Runs tools. The queue's runner for "tool".

    A call whose tool has `max_instances` runs under way does not fit: the queue passes over it and others go
    on. `limit` bounds all runs together.
    """

    def __init__(
        self,
        files: Files,
        notes: Notes,
        sections: Sequence[ToolSection] = (),
        python: str = sys.executable,
        *,
        clock: Clock,
        folders: Sequence[Path] = (),
        limit: int = 256,
    ) -> None:
        self.registry = Registry()
        self.running: Counter[str] = Counter()
        self._clock = clock
        self._limit = limit
        self._modules = [
            Module(section, _find(section.module, folders), python, clock, self._changed) for section in sections
        ]
        for tool in builtin_tools(files, notes, clock):
            self.registry.add(tool)

    async def open(self) -> None:
        """Load the configured modules, each in a process of its own. Raises ConfigError when one is not there.

        A module that does not load keeps nobody from booting: its tools are missing, and `problems` says why.
        """
        for module in self._modules:
            if not module.path.is_file():
                advice = "put it into the home, or name it with its whole path"
                raise ConfigError(f"[[tool]] module: there is no file {module.path}; {advice}")
        await asyncio.to_thread(scratch.sweep)
        await self._refresh()

    async def close(self) -> None:
        """End all worker processes."""
        await asyncio.gather(*(module.close() for module in self._modules))

    async def _refresh(self, *, again: bool = False) -> None:
        for module in self._modules:
            try:
                await module.refresh(again=again)
            except AiosError as error:
                log.warning("%s", error)

    def _changed(self, module: Module, tools: list[WorkerTool]) -> None:
        """A module was loaded and its tools are not what they were. Raises when a name is taken."""
        self.registry.replace(module.tools, tools)

    @property
    def problems(self) -> dict[str, str]:
        """Why modules are without tools, by file."""
        return {str(module.path): module.error for module in self._modules if module.error}

    def add(self, manifest: ToolManifest, handler: Handler) -> None:
        """Register a function that is trusted to run in the kernel's own process."""
        self.registry.add(TrustedTool(manifest, handler, self._clock))

    # ── the queue's runner ──

    def check(self, call: Syscall) -> None:
        if isinstance(call.args, ToolRun):
            self.registry.checker(call.args.name).check(call.args.arguments)

    def free(self) -> Iterable[str]:
        return (_SLOT,) if self.running.total() < self._limit else ()

    def fits(self, call: Syscall, slot: str) -> bool:
        if not isinstance(call.args, ToolRun):
            return True
        name = call.args.name
        # A tool that is gone fits: running the call is what tells its caller.
        if name not in self.registry:
            return True
        return self.running[name] < self.registry.get(name).manifest.max_instances

    def take(self, call: Syscall, slot: str) -> None:
        self.running[_name(call)] += 1

    def release(self, call: Syscall, slot: str) -> None:
        name = _name(call)
        self.running[name] -= 1
        if not self.running[name]:
            del self.running[name]

    async def run(self, call: Syscall, slot: str, quantum: int | None) -> Tools | ToolResult:
        args: ToolList | ToolRun = call.args
        if isinstance(args, ToolList):
            # What keeps a file from loading is the operator's business, and so is waiting for the next try.
            is_admin = call.principal is not None and call.principal.is_admin
            await self._refresh(again=is_admin)
            return Tools(tools=self.infos(args.query), problems=self.problems if is_admin else {})
        process = call.process
        caller = Caller(process.owner, process.agent, process.pid)
        return await self.registry.get(args.name).run(caller, args.arguments)

    def drop(self, call: Syscall) -> None:
        """A tool's run has no snapshot."""

    # ── what the kernel and people ask ──

    def side_effect(self, call: Syscall) -> bool:
        """Whether running `call` a second time could do harm. What is not known could."""
        if not isinstance(call.args, ToolRun):
            return False
        try:
            return self.registry.get(call.args.name).manifest.changes_the_world
        except NotFound:
            return True

    def infos(self, query: str | None = None) -> list[ToolInfo]:
        return [self._info(tool) for tool in self.registry.search(query)]

    def _info(self, tool: Tool) -> ToolInfo:
        manifest = tool.manifest
        return ToolInfo(
            name=manifest.name,
            description=manifest.description,
            parameters=manifest.parameters,
            effect=manifest.effect.value,
            is_idempotent=manifest.is_idempotent,
            max_instances=manifest.max_instances,
            timeout=manifest.timeout,
            running=self.running[manifest.name],
        )

    def statistics(self) -> dict[str, Any]:
        workers = {module.path.name: module.statistics() for module in self._modules}
        return {"tools": len(self.registry), "running": dict(self.running), "workers": workers}

    def check_integrity(self) -> None:
        """When idle, no instance is taken."""
        if self.running.total():
            raise KernelFault(f"tools are taken while nothing runs: {dict(self.running)}")


def _name(call: Syscall) -> str:
    return call.args.name if isinstance(call.args, ToolRun) else call.spec.name


def _find(module: str, folders: Sequence[Path]) -> Path:
    """`module` in the first of `folders` that has it, else below the current folder."""
    path = Path(module).expanduser()
    places = [folder / path for folder in folders] if not path.is_absolute() else []
    return next((place for place in places if place.is_file()), path).absolute()

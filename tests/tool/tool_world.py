"""A tool manager with a queue in front of it, an agent's files and notes as plain dicts, and calls to make."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, TypeVar

from aios.abi.calls import ToolList, ToolRun, Tools, spec_of
from aios.abi.errors import AiosError, NotFound
from aios.kernel.clock import Clock
from aios.kernel.config import ToolSection
from aios.kernel.process import Principal, Process
from aios.kernel.scheduler import POLICIES, Queue
from aios.kernel.syscall import Syscall
from aios.kernel.tool.manager import ToolManager
from aios.kernel.trace import Trace
from aios.testing.clock import MockClock

T = TypeVar("T")


class DictFiles:
    def __init__(self, files: dict[tuple[str, str], dict[str, str]]) -> None:
        self.files = files
        self.is_all = True

    async def paths(self, owner: str, agent: str, limit: int) -> list[str]:
        return sorted(self.files.get((owner, agent), {}))[:limit]

    async def over_texts(self, owner: str, agent: str, use: Callable[[Mapping[str, str], bool], T]) -> T:
        return await asyncio.to_thread(use, self.files.get((owner, agent), {}), self.is_all)

    async def read_text(self, owner: str, agent: str, path: str) -> str:
        try:
            return self.files.get((owner, agent), {})[path]
        except KeyError:
            raise NotFound(f"no file '{path}'") from None


class ListNotes:
    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], list[str]] = {}

    async def remember(self, owner: str, agent: str, content: str) -> str:
        await asyncio.sleep(0)
        self.kept.setdefault((owner, agent), []).append(content)
        return "1"

    async def over_lines(self, owner: str, agent: str, use: Callable[[Sequence[str], bool], T]) -> T:
        return await asyncio.to_thread(use, self.kept.get((owner, agent), []), True)


class World:
    def __init__(self, *sections: ToolSection, clock: Clock | None = None, policy: str = "fifo", **more: Any) -> None:
        self.mock = MockClock()
        self.clock = clock or self.mock
        self.files = DictFiles({("o", "a"): {"rivers.txt": "the Ob is long\nthe Po is short"}})
        self.notes = ListNotes()
        self.tools = ToolManager(self.files, self.notes, list(sections), clock=self.clock, **more)
        self.ended: list[Syscall] = []
        self.queue = Queue(
            "tool",
            POLICIES[policy](),
            self.tools,
            clock=self.clock,
            trace=Trace(),
            on_end=self._end,
            max_waiting=5000,
        )
        self._ids = count(1)
        self.process = Process(1, "a", "o")

    def call(self, name: str, process: Process | None = None, **arguments: Any) -> Syscall:
        """A call of `tool_run`, checked as the kernel does and not queued."""
        args = ToolRun(name=name, arguments=arguments)
        call = Syscall(f"c{next(self._ids)}", spec_of("tool_run"), args, process or self.process, 0.0)
        self.tools.check(call)
        return call

    def push(self, name: str, process: Process | None = None, **arguments: Any) -> Syscall:
        call = self.call(name, process, **arguments)
        call.future = asyncio.get_running_loop().create_future()
        self.queue.push(call)
        return call

    async def run(self, name: str, process: Process | None = None, **arguments: Any) -> Any:
        """Through the queue: the result, or what the call failed with."""
        call = self.push(name, process, **arguments)
        assert call.future is not None
        return await call.future

    async def list(self, query: str | None = None) -> list[str]:
        return [info.name for info in (await self.tools_as(is_admin=False, query=query)).tools]

    async def tools_as(self, *, is_admin: bool, query: str | None = None) -> Tools:
        asks = Principal("o", "a", is_admin=is_admin)
        call = Syscall("c", spec_of("tool_list"), ToolList(query=query), self.process, 0.0, None, asks)
        found = await self.tools.run(call, "tools", None)
        assert isinstance(found, Tools)
        return found

    def _end(self, call: Syscall) -> None:
        self.ended.append(call)
        if call.future is not None and not call.future.done():
            if call.error is not None:
                call.future.set_exception(call.error)
                call.future.exception()  # a test may look at the call instead
            else:
                call.future.set_result(call.result)

    def check(self) -> None:
        self.queue.check_integrity()
        self.tools.check_integrity()


def errors_of(calls: Sequence[Syscall]) -> list[AiosError]:
    return [call.error for call in calls if call.error is not None]

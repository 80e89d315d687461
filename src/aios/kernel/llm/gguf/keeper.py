"""Keeps a gguf core's process running: starts it again when it dies, though not for ever. Knows no slot and no call."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from aios.abi.errors import AiosError

from ..base import Tell
from ..remote.connection import Unreachable
from .process import Process

log = logging.getLogger("aios.llm")

MAX_CRASHES, CRASH_WINDOW = 5, 600.0
"""So many in so many seconds, and the process is not started again."""
FIRST_PAUSE = 0.5
"""Seconds before it is started again; doubled with each crash in the window."""


class Keeper:
    """`order` is what the process is to serve (see `host`). `tell` hears how it is, `on_loss` that what was in it is
    gone, before anybody is given the next one."""

    def __init__(self, core: str, order: dict[str, Any], tell: Tell, on_loss: Callable[[], None]) -> None:
        self.process = Process(core, order)
        self.num_restarts = 0
        self.given_up: str | None = None
        """Why it is not started again."""
        self._core = core
        self._order = order
        self._tell = tell
        self._on_loss = on_loss
        self._is_up = asyncio.Event()
        self._crashes: deque[float] = deque()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises ModuleFault: the model cannot be loaded, and why."""
        await self._start()
        self._task = asyncio.get_running_loop().create_task(self._keep_up())
        self._task.add_done_callback(self._kept)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self.given_up = self.given_up or "it was closed"
        self._is_up.set()  # whoever waits for it hears that
        await self.process.stop()

    async def serving(self, *, is_patient: bool) -> Process:
        """The process, which `is_patient` waits for while it is started again. Raises Unreachable when it is not there,
        or never will be."""
        if is_patient:
            await self._is_up.wait()
        if self.given_up is not None or not self._is_up.is_set():
            raise Unreachable(f"core '{self._core}' has no process")
        return self.process

    async def _start(self) -> None:
        try:
            await self.process.start()
        except BaseException:
            await self.process.stop()
            raise
        self._is_up.set()

    async def _keep_up(self) -> None:
        while True:
            await self.process.ended()
            self._is_up.clear()
            self._on_loss()
            why: str | None = self.process.how()
            while why is not None:
                if (often := self._count()) > MAX_CRASHES:
                    self._give_up(f"{why}, {often} times in {CRASH_WINDOW:g} s; it is not started again")
                    return
                log.warning("core '%s': %s; it is started again", self._core, why)
                self._tell("restarting", f"{why}; it is started again")
                await self.process.stop()
                await asyncio.sleep(FIRST_PAUSE * 2 ** (often - 1))
                why = await self._restart()
            self.num_restarts += 1
            self._tell("ready", None)

    def _kept(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (bug := task.exception()) is not None:
            log.error("core '%s' is not watched any more", self._core, exc_info=bug)
            self._give_up(f"a bug in watching it: {bug!r}")

    def _count(self) -> int:
        """Crashes in the window, with the one that was now."""
        now = time.monotonic()
        self._crashes.append(now)
        while self._crashes[0] < now - CRASH_WINDOW:
            self._crashes.popleft()
        return len(self._crashes)

    async def _restart(self) -> str | None:
        """Why it could not be started again: that counts as one more crash."""
        self.process = Process(self._core, self._order)
        try:
            await self._start()
        except AiosError:
            return f"it could not be started again: {self.process.reason()}"
        except (OSError, msgspec.MsgspecError) as error:
            return f"it could not be started again: {error}"
        return None

    def _give_up(self, why: str) -> None:
        self.given_up = why
        self._is_up.set()  # nobody is to wait for it
        self._tell("failed", why)

"""A kernel to ask, which can end with calls open and begin again: in this process, or in another. Judges nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

import msgspec

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError
from aios.abi.messages import Generation
from aios.kernel import Kernel, parse
from aios.sdk.transport import HTTP, NoKernel
from aios.testing import principal

READY_SECONDS = 120.0
STOP_SECONDS = 60.0


class World(Protocol):
    """One kernel on one home, from its first life to its last. `covered` counts what happened in all of them."""

    covered: Counter[str]

    async def start(self) -> None: ...

    async def end(self, *, is_killed: bool = False) -> None:
        """End this life. Calls that are open raise Stopping or NoKernel; those with a key go on in the next one."""

    async def ask(self, agent: str, args: LLMGenerate, key: str | None) -> Generation:
        """Raises what the call ended with. Cancelled, so is the call, unless it has a key."""

    def story(self) -> str:
        """What is known of a kernel that does not answer."""


class InProcess:
    """A `Kernel` in this process. It cannot be killed, only stopped with no time to finish anything."""

    def __init__(self, home: Path, config: str) -> None:
        self.covered: Counter[str] = Counter()
        self._home = home
        self._config = parse(config)
        self._kernel: Kernel | None = None

    async def start(self) -> None:
        self._kernel = await Kernel.boot(self._config, self._home)

    async def end(self, *, is_killed: bool = False) -> None:
        kernel = self._alive()
        for row in kernel.trace.rows:
            self.covered["resumed after a restart"] += row.why == "resumed from disk"
        for core in kernel.llm.statistics().values():
            count(core, self.covered)
        await kernel.stop(0.0)

    async def ask(self, agent: str, args: LLMGenerate, key: str | None) -> Generation:
        kernel = self._alive()
        answer: Generation = await kernel.call(principal(kernel, agent), "llm_generate", args, key=key)
        return answer

    def story(self) -> str:
        kernel = self._alive()
        rows = [f"{row.call_id} {row.state} {row.why or ''}" for row in list(kernel.trace.rows)[-40:]]
        return "\n".join([str(kernel.statistics()), *rows])

    def _alive(self) -> Kernel:
        assert self._kernel is not None
        return self._kernel


class Served:
    """`aios up` in a process of its own, asked over HTTP."""

    def __init__(self, home: Path, config: str) -> None:
        self.covered: Counter[str] = Counter()
        self._home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        home.mkdir(parents=True, exist_ok=True)
        (home / "aios.toml").write_text(f"[server]\nport = {self._port}\ndrain = 0.01\n{config}")
        self._child: subprocess.Popen[bytes] | None = None
        self._is_to_live = False
        self._clients: dict[str, HTTP] = {}
        self._admin: HTTP | None = None

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        self._child = self._launched()
        self._is_to_live = True
        async with asyncio.timeout(READY_SECONDS):
            while not await self._is_ready():
                self._check_alive()
                await asyncio.sleep(0.01)

    def _check_alive(self) -> None:
        """Raise RuntimeError when it died of itself."""
        assert self._child is not None
        if self._is_to_live and self._child.poll() is not None:
            raise RuntimeError(f"'aios up' ended with code {self._child.returncode}:\n{self.story()}")

    def story(self) -> str:
        said = (self._home / "kernel.log").read_text()
        crash = said.rfind("Fatal Python error")
        return said[crash : crash + 4000] if crash >= 0 else said[-4000:]

    def _launched(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "from aios.cli.main import main; main()", "up"]
        environment = {**os.environ, "AIOS_HOME": str(self._home), "PYTHONFAULTHANDLER": "1"}
        with (self._home / "kernel.log").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    async def _is_ready(self) -> bool:
        with contextlib.suppress(AiosError, OSError):
            self._admin = self._admin or HTTP(self._url, (self._home / "admin.key").read_text().strip())
            await self._admin.fetch("GET", "/readyz")
            return True
        return False

    async def end(self, *, is_killed: bool = False) -> None:
        if self._child is None or self._child.poll() is not None:
            return
        await self._look()
        self._is_to_live = False
        if is_killed:
            self._child.kill()
        else:
            self._child.terminate()
        await asyncio.to_thread(self._child.wait, STOP_SECONDS)

    async def _look(self) -> None:
        assert self._admin is not None
        with contextlib.suppress(AiosError):
            for core in (await self._admin.fetch("GET", "/aios/v1/cores"))["cores"]:
                count(core["detail"], self.covered)

    async def ask(self, agent: str, args: LLMGenerate, key: str | None) -> Generation:
        try:
            client = await self._client(agent)
            return await client.call(Generation, "llm_generate", msgspec.to_builtins(args), key, None)
        except NoKernel:
            self._check_alive()
            raise

    async def _client(self, agent: str) -> HTTP:
        if agent not in self._clients:
            assert self._admin is not None
            made = await self._admin.fetch("POST", "/aios/v1/keys", {"name": agent})
            self._clients[agent] = HTTP(self._url, made["key"])
        return self._clients[agent]

    async def close(self) -> None:
        """Leave no process and no connection behind, whatever happened."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            await asyncio.to_thread(self._child.wait)
        for client in (*self._clients.values(), *([self._admin] if self._admin else [])):
            await client.close()


COUNTED = {
    "switches": "switches",
    "restores_pool": "resumed in the pool",
    "restores_ram": "from host memory",
    "restores_disk": "from disk",
    "restores_text": "from text",
    "prefix_hit_tokens": "prefix tokens reused",
}
"""Figures of a core that show that something was put to the test."""


def count(core: dict[str, Any], into: Counter[str]) -> None:
    for name, said in COUNTED.items():
        into[said] += core.get(name, 0)


__all__ = ["InProcess", "NoKernel", "Served", "World"]

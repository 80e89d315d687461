"""The process of a gguf core, seen from the kernel: started, asked over HTTP, ended. Knows no slot and no agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import msgspec

import aios
from aios.abi.errors import ModuleFault

from ..remote.connection import OnData, Pool, Response

_TAIL = 8000
"""Bytes of what the process printed last that are kept."""
_LAST_MOMENT = 1.0
"""Seconds for a process whose connections broke to end, and to say how."""
_PASSED_ON = (
    *("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
)
_REASONS = (r"error loading model: (.+)", r"(GGML_ASSERT.+)", r"\w+Error: (.+)", r" E .*?: (.+)")
"""Where in what was printed the reason stands, the best first."""


class _Hello(msgspec.Struct):
    address: str
    version: str


class Process:
    """One llama.cpp server. `order` is what it is to serve (see `host`)."""

    def __init__(self, name: str, order: dict[str, Any]) -> None:
        self.version = ""
        self._name = name
        self._key = secrets.token_urlsafe(32)
        self._order = {**order, "key": self._key}
        self._child: asyncio.subprocess.Process | None = None
        self._link: asyncio.StreamWriter | None = None
        self._drain: asyncio.Task[None] | None = None
        self._tail = b""
        self._address = ""
        self._pools: dict[str, Pool] = {}

    async def start(self) -> None:
        """Returns when the model is loaded and the server listens. Raises ModuleFault: it cannot be loaded, and why."""
        ours, theirs = socket.socketpair()
        with theirs:
            reader, self._link = await asyncio.open_unix_connection(sock=ours)
            self._child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-B", "-m", "aios.kernel.llm.gguf.host", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=_environment(),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._drain = asyncio.get_running_loop().create_task(self._read_output())
        self._link.write(msgspec.json.encode(self._order) + b"\n")
        line = b""
        with contextlib.suppress(ConnectionError):
            line = await reader.readline()
        if not line:
            await self.ended()
            raise ModuleFault(f"core '{self._name}' cannot be loaded: {self.reason()}", code="core_unloadable")
        hello = msgspec.json.decode(line, type=_Hello)
        self._address, self.version = hello.address, hello.version

    async def post(self, path: str, body: bytes, timeout: float, on_data: OnData | None = None) -> Response:
        """Ask the server. See Pool.post."""
        pool = self._pools.get(path)
        if pool is None:
            headers = {
                "accept": "application/json, text/event-stream",
                "content-type": "application/json",
                "authorization": f"Bearer {self._key}",
            }
            pool = self._pools[path] = Pool(self._address + path, headers)
        return await pool.post(body, timeout, on_data)

    async def ended(self) -> None:
        """Wait until the process has ended, and what it printed is read."""
        assert self._child is not None
        await self._child.wait()
        if self._drain is not None:
            await asyncio.wait([self._drain], timeout=_LAST_MOMENT)
        for pool in self._pools.values():
            pool.close()

    async def end(self) -> str | None:
        """How it ended, if it has or does within a moment; None where it runs on."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended(), _LAST_MOMENT)
        return None if self._child is None or self._child.returncode is None else self.how()

    async def stop(self) -> None:
        """Kill it and wait until it is gone. May be called again, and where it could not even be started."""
        try:
            if self._child is not None:
                if self._child.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        self._child.kill()
                await self.ended()
        finally:
            if self._link is not None:
                self._link.close()

    def reason(self) -> str:
        """Why it ended, for people: what it printed of it, else how."""
        words = re.sub(r"\x1b\[[0-9;]*m", "", self._tail.decode("utf-8", "replace"))
        for pattern in _REASONS:
            if found := re.findall(pattern, words):
                return str(found[-1]).strip()[:400]
        return self.how()

    def how(self) -> str:
        """How it ended."""
        status = None if self._child is None else self._child.returncode
        if status is None:
            return "its process has not ended"
        if status >= 0:
            return f"its process ended with exit status {status}"
        with contextlib.suppress(ValueError):
            return f"its process was ended by {signal.Signals(-status).name}"
        return f"its process was ended by signal {-status}"

    async def _read_output(self) -> None:
        assert self._child is not None
        assert self._child.stdout is not None
        while piece := await self._child.stdout.read(1 << 16):
            self._tail = (self._tail + piece)[-_TAIL:]


def _environment() -> dict[str, str]:
    """No keys and no home: where programs are, the language, which devices may be used."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    ours = str(Path(aios.__file__).parents[1])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**kept, "OMP_WAIT_POLICY": "passive", "PYTHONPATH": os.pathsep.join([*paths, ours])}

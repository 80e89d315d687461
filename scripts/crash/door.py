"""A kernel in a process of its own that may be killed at any instant, asked over a socket. Knows no load.

The process is forked off one that has loaded and run a kernel before, so a new one is there in some milliseconds.
Many requests are under way at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import socket
import struct
import tempfile
import traceback
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from aios.abi.calls import CALLS, convert_args
from aios.abi.errors import AiosError
from aios.kernel import Config, Kernel
from aios.kernel.config import ByteSize, GroupSection, JournalSection, MemorySection, MountSection
from aios.kernel.process import Principal
from aios.kernel.storage import chunker

from . import inside
from .clients import MOUNT
from .disk import Disk, Plan
from .power import Power

TEAM = "team"
"""A block that is shared, of the group of all agents."""
_HEAD = struct.Struct("<I")
_forks = multiprocessing.get_context("fork")


class Dead(Exception):
    """The kernel was killed before it answered."""


class Setting(msgspec.Struct, frozen=True):
    """What kernel to start. With a `plan` its disk fails, from when that is armed on; or it may `lose_power`."""

    mode: str = "fast"
    agents: tuple[str, ...] = ("a",)
    mounted: tuple[str, ...] = ()
    """Those of them that have a mounted folder."""
    plan: Plan | None = None
    can_lose_power: bool = False
    files_from: int = 200_000
    """Contents of so many bytes are kept in files from there on."""


def prepare() -> None:
    """Once, before the first kernel: do here what each of them would do for the first time."""
    with tempfile.TemporaryDirectory() as home:
        asyncio.run(_come_and_go(Path(home)))


async def _come_and_go(home: Path) -> None:
    kernel = await Kernel.boot(config_of(Setting()), home, cores={})
    for name, args in (("mem_write", {"content": "a"}), ("sto_write", {"path": "a", "content": "a"})):
        await kernel.call(Principal("o", "a"), name, convert_args(CALLS[name], args))
    await kernel.stop(0.0)


class Door:
    """One life of a kernel: `start`, `ready`, `ask` and `look`, and `kill`."""

    def __init__(self, home: Path, setting: Setting) -> None:
        self._home = home
        self._setting = setting
        self._ids = count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._is_lost = False

    async def start(self) -> None:
        """Ready or not."""
        ours, theirs = socket.socketpair()
        self._process = _forks.Process(target=_serve, args=(theirs, self._home, self._setting), daemon=True)
        self._process.start()
        theirs.close()
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        self._hearing = asyncio.create_task(self._hear())
        self._booted: asyncio.Future[Any] = self._expect(0)

    async def ready(self) -> None:
        """Until it takes calls. Raises Dead, and AiosError or OSError as it was told why it does not start."""
        await self._booted

    async def ask(self, agent: str, name: str, args: dict[str, Any], key: str | None = None) -> dict[str, Any]:
        """The result of a call. Raises AiosError, Dead."""
        return await self._request("ask", agent, name, args, key)

    async def look(self, what: str) -> Any:
        """What `crash.inside` says about the running kernel."""
        return await self._request("look", what)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._hearing.cancel()
        self._writer.close()
        self._lose()

    async def lose_power(self, seed: str) -> None:
        """As `kill`, and what the kernel had not synced is lost, kept or torn."""
        with contextlib.suppress(Dead):
            await self._request("lose power", seed)
        self.kill()

    def _expect(self, id: int) -> asyncio.Future[Any]:
        future = self._waiting[id] = asyncio.get_running_loop().create_future()
        return future

    async def _request(self, *asked: Any) -> Any:
        if self._is_lost:
            raise Dead
        id = next(self._ids) + 1
        answer = self._expect(id)
        try:
            self._writer.write(_packed((id, *asked)))
        except OSError:
            raise Dead from None
        return await answer

    async def _hear(self) -> None:
        try:
            while True:
                id, is_well, told = await _next(self._reader)
                waiting = self._waiting.pop(id)
                if waiting.done():
                    continue
                if is_well:
                    waiting.set_result(told)
                else:
                    waiting.set_exception(_as_error(told))
        except (asyncio.IncompleteReadError, OSError):
            self._lose()

    def _lose(self) -> None:
        self._is_lost = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Dead())
                waiting.exception()  # nobody may be left to hear it
        self._waiting.clear()


def _as_error(told: dict[str, Any]) -> AiosError:
    from aios.abi.errors import from_dict

    return from_dict(int(told["status"]), told)


def _packed(value: Any) -> bytes:
    data = msgspec.msgpack.encode(value)
    return _HEAD.pack(len(data)) + data


async def _next(reader: asyncio.StreamReader) -> Any:
    (length,) = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    return msgspec.msgpack.decode(await reader.readexactly(length))


# ── in the kernel's process ──


def _serve(connection: socket.socket, home: Path, setting: Setting) -> None:
    disk, power = Disk(home), Power(home)
    if setting.plan is not None:
        disk.install(setting.plan)
    elif setting.can_lose_power:
        power.install()
    chunker.RANGES = ((0, chunker.RANGES[0][1]), (setting.files_from, chunker.Sizes(70 << 10, 72 << 10, 100 << 10)))
    log = os.open(home.parent / "kernel.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # Nothing of this process is to be put in order at its end, whatever that is.
    code = 1
    try:
        asyncio.run(_Server(home, setting, disk, power).run(connection))
        code = 0
    finally:
        if code:
            traceback.print_exc()
        os._exit(code)


def config_of(setting: Setting) -> Config:
    """So little memory that entries leave it and come back all the time."""
    may = [f"{call}:{TEAM}" for call in ("mem_read", "mem_write", "mem_clear", "mem_alloc")]
    group = GroupSection(name="all", members=[f"o:{agent}" for agent in setting.agents], may=may)
    memory = MemorySection(limit=ByteSize(64 << 10), total=ByteSize(256 << 10))
    mounts = [MountSection(name=MOUNT, agent=f"o:{agent}") for agent in setting.mounted]  # folders in the home
    mode = "durable" if setting.mode == "durable" else "fast"
    changes = {"group": [group], "memory": memory, "journal": JournalSection(mode=mode), "mount": mounts}
    return msgspec.structs.replace(Config(), **changes)


class _Server:
    def __init__(self, home: Path, setting: Setting, disk: Disk, power: Power) -> None:
        self._home, self._setting, self._disk = home, setting, disk
        self._work = {"ask": self._ask, "look": self._look, "lose power": power.fail}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, connection: socket.socket) -> None:
        reader, self._writer = await asyncio.open_connection(sock=connection)
        self._kernel = Kernel.__new__(Kernel)
        if not await self._tell(0, self._boot):
            await self._writer.drain()
            return
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                id, how, *more = await _next(reader)
                task = asyncio.create_task(self._answer(id, self._work[how], more))
                self._tasks.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            traceback.print_exception(task.exception())
            os._exit(1)

    async def _answer(self, id: int, work: Callable[..., Awaitable[Any]], more: list[Any]) -> None:
        await self._tell(id, lambda: work(*more))

    async def _tell(self, id: int, work: Callable[[], Awaitable[Any]]) -> bool:
        try:
            answer = (id, True, await work())
        except AiosError as error:
            answer = (id, False, {**error.to_dict(), "status": error.status})
        self._writer.write(_packed(answer))
        return answer[1]

    async def _boot(self) -> None:
        self._kernel = await Kernel.boot(config_of(self._setting), self._home, cores={})

    async def _ask(self, agent: str, name: str, args: dict[str, Any], key: str | None) -> Any:
        who = Principal("o", agent, key_id=agent)  # its processes are told apart by their keys
        result = await self._kernel.call(who, name, convert_args(CALLS[name], args), key=key)
        return msgspec.to_builtins(result)

    async def _look(self, what: str) -> Any:
        if what == "stop":
            await self._kernel.stop(0.0)
            return None
        if what in ("arm", "disarm"):
            return getattr(self._disk, what)()
        return await inside.LOOKS[what](self._kernel)

"""What is sent as a stream waits for its call, though the same is sent once more meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from storage_world import World

from aios.abi.calls import CALLS, Args, StoWrite
from aios.abi.errors import Conflict
from aios.kernel.process import Place, Principal, Process
from aios.kernel.storage import uploads
from aios.kernel.syscall import Syscall
from aios.kernel.transfers import Transfers

pytestmark = pytest.mark.anyio
WHO = Place("o", "a")
CONTENT = b"z" * 100_000


async def source() -> AsyncIterator[bytes]:
    yield CONTENT


class Door:
    """Takes the first write, which then waits, and refuses those after it."""

    is_ready = True

    def __init__(self) -> None:
        self.taken: list[Syscall] = []

    def vet(self, principal: Principal, name: str, args: Args) -> Process:
        return Process(1, "a", "o")

    def submit(self, principal: Principal, name: str, args: Args, **more: Any) -> Syscall:
        if self.taken:
            raise Conflict("the key was used with another body")
        call = Syscall("call_1", CALLS[name], args, Process(1, "a", "o"), 0.0, "k")
        call.future = asyncio.get_running_loop().create_future()
        self.taken.append(call)
        return call

    async def wait(self, call: Syscall) -> Any:
        raise AssertionError


async def test_what_a_waiting_call_will_name_outlives_that_the_same_is_sent_again_and_refused(world: World) -> None:
    door = Door()
    transfers = Transfers(door, world.storage.streams)
    await transfers.put(Principal("o", "a"), "one", source(), key="k")
    with pytest.raises(Conflict):
        await transfers.put(Principal("o", "a"), "two", source(), key="k")
    await world.call(door.taken[0].args)
    assert await world.read("one") == CONTENT.decode()
    assert world.count("uploads") == 0


async def test_what_is_refused_at_once_leaves_nothing_behind(world: World) -> None:
    door = Door()
    door.taken.append(Syscall("", CALLS["sto_write"], StoWrite(path="x", content=""), Process(1, "a", "o"), 0.0))
    with pytest.raises(Conflict):
        await Transfers(door, world.storage.streams).put(Principal("o", "a"), "one", source(), key="k")
    await world.database.run(lambda c: None)
    assert world.count("uploads") == 0


async def test_what_a_waiting_call_will_name_outlives_a_second_sender_who_leaves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await _left(world, monkeypatch) == 0
    name, _ = await world.storage.streams.take_in(WHO, "one", source(), "mark")
    assert await _left(world, monkeypatch) == 1
    await world.call(StoWrite(path="one", content="", upload=name))
    assert await world.read("one") == CONTENT.decode()


async def _left(world: World, monkeypatch: pytest.MonkeyPatch) -> int:
    """Uploads there are after a sender left at the very moment when what it sent was kept."""
    loop, keep = asyncio.get_running_loop(), uploads.keep

    def kept(*args: Any) -> bool:
        loop.call_soon_threadsafe(sending.cancel)
        return keep(*args)

    with monkeypatch.context() as patched:
        patched.setattr(uploads, "keep", kept)
        sending = asyncio.create_task(world.storage.streams.take_in(WHO, "one", source(), "mark"))
        with pytest.raises(asyncio.CancelledError):
            await sending
    await world.database.run(lambda c: None)
    return world.count("uploads")

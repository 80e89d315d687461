"""A gguf core and its process where one of them cannot go on. No llama.cpp is needed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from upstream import event

from aios.abi.calls import LLMGenerate
from aios.abi.messages import Message
from aios.kernel.config import CoreSection
from aios.kernel.llm.base import Request
from aios.kernel.llm.gguf.core import GgufCore
from aios.kernel.llm.gguf.process import Process
from aios.kernel.llm.remote.connection import OnData, Response
from aios.kernel.syscall import Suspended
from aios.testing import settle, until

pytestmark = pytest.mark.anyio


async def test_a_process_that_could_not_be_started_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_process(*_: Any, **__: Any) -> Any:
        raise OSError("no more processes")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", no_process)
    before = len(os.listdir("/dev/fd"))
    process = Process("g", {})
    with pytest.raises(OSError, match="no more processes"):
        await process.start()
    await process.stop()
    await settle()
    assert len(os.listdir("/dev/fd")) == before


class Server:
    """Says a word and then nothing, and puts a slot in a file when a test lets it."""

    num_restarts = 0

    def __init__(self) -> None:
        self.is_saving = asyncio.Event()
        self.may_save = asyncio.Event()

    async def serving(self, *, is_patient: bool) -> Server:
        return self

    async def end(self) -> None:
        """It runs on."""

    async def post(self, path: str, body: bytes, timeout: float, on_data: OnData | None = None) -> Response:
        if on_data is not None:
            on_data(event({"content": "word"}))
            await asyncio.Event().wait()
        self.is_saving.set()
        await self.may_save.wait()
        response = Response()
        response.status, response.body = 200, b'{"n_written": 5}'
        return response


async def test_a_call_that_is_cancelled_twice_gives_up_its_slot_only_when_that_is_saved(tmp_path: Path) -> None:
    server: Any = Server()
    core = GgufCore(CoreSection(name="g", kind="gguf", path="m.gguf", slots=1), tmp_path)
    core._keeper = server
    args = LLMGenerate(messages=[Message(role="user", content="hi")], seed=1)
    first = await core.run(Request("first", args, lambda chunk: None), 1)
    assert isinstance(first, Suspended)
    second = asyncio.ensure_future(core.run(Request("second", args, lambda chunk: None), 1))
    await server.is_saving.wait()
    for _ in range(2):
        second.cancel()
        await settle()
    assert not second.done()
    server.may_save.set()
    await until(second.done)
    assert second.cancelled()
    assert core.statistics()["saved"] == 1

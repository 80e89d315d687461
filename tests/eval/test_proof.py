"""`aios cores test`: what is said of a core that works, of one that lacks something, and of one that lies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from aios.abi.calls import LLMGenerate
from aios.abi.errors import BadRequest, ModuleFault, NotFound, UpstreamFault
from aios.abi.messages import Generation
from aios.eval import proof
from aios.eval.proof import Check, prove
from aios.gateway import bind, serve, url_of
from aios.kernel import Kernel
from aios.kernel.config import CoreSection
from aios.kernel.llm.base import Request
from aios.kernel.llm.folder import FolderCore
from aios.kernel.llm.nano import NanoCore
from aios.kernel.process import ProcessState
from aios.kernel.syscall import Suspended
from aios.sdk import AsyncClient
from aios.testing import ScriptedCore, booted, until
from aios.testing.models import write_model

pytestmark = pytest.mark.anyio


class At(NamedTuple):
    kernel: Kernel
    admin: AsyncClient
    url: str


@asynccontextmanager
async def subject(core: Any) -> AsyncIterator[At]:
    async with booted(cores=[core], quantum=8) as kernel:
        _, key = kernel.access.mint(owner="admin", agent="admin", is_admin=True)
        sock = bind("127.0.0.1", 0)
        ready = asyncio.Event()
        serving = asyncio.create_task(serve(kernel, sock, on_ready=ready.set))
        await ready.wait()
        try:
            async with AsyncClient(url_of(sock), key) as admin:
                yield At(kernel, admin, url_of(sock))
        finally:
            serving.cancel()
            await asyncio.wait([serving])


async def proved(at: At, name: str) -> dict[str, Check]:
    found = prove(at.admin, lambda key: AsyncClient(at.url, key), name)
    return {check.what: check async for check in found}


async def test_the_packaged_model_does_all_that_is_tried_and_nothing_is_left_behind() -> None:
    async with subject(NanoCore("nano", slots=2)) as at:
        found = await proved(at, "nano")
        states = {what: check.state for what, check in found.items()}
        assert states == {**dict.fromkeys([*proof.CHECKS, "cost"], "works"), "embeddings": "no"}
        assert "kv_exact: the same answer, 96 tokens" in found["resume"].detail
        assert "4096 tokens" in found["context"].detail
        assert not at.kernel.statistics()["open_calls"]
        assert [p.agent for p in at.kernel.processes.list() if p.agent == proof.AGENT] == []


async def test_what_a_core_does_not_offer_is_no_failure() -> None:
    core = ScriptedCore("plain words and nothing more", resume="none")
    async with subject(core) as at:
        found = await proved(at, "scripted")
        states = {what: check.state for what, check in found.items()}
        assert states == {
            "chat": "works",
            "stream": "works",
            "tools": "no",
            "schema": "no",
            "abort": "works",
            "resume": "no",
            "context": "no",
            "embeddings": "no",
            "cost": "works",
        }


class Choosy(ScriptedCore):
    """Refuses tools and schemas, and breaks on all else."""

    def check(self, args: LLMGenerate) -> None:
        if args.tools or args.response_format:
            raise BadRequest("not here", code="unsupported")


async def test_a_refusal_of_tools_is_no_failure_and_a_fault_is_one() -> None:
    async with subject(Choosy(UpstreamFault("it is broken"))) as at:
        found = await proved(at, "scripted")
        assert found["tools"].state == found["schema"].state == "no"
        assert "unsupported: not here" in found["tools"].detail
        assert found["chat"].state == found["stream"].state == found["abort"].state == "fails"
        assert "it is broken" in found["chat"].detail


async def test_a_core_whose_server_is_not_there_is_not_asked_for_everything() -> None:
    async with subject(ScriptedCore(UpstreamFault("nobody listens", code="upstream_unreachable"))) as at:
        found = await proved(at, "scripted")
        assert list(found) == ["chat"]
        assert found["chat"].state == "fails"


async def test_a_core_with_a_small_window_is_asked_for_what_fits(tmp_path: Path) -> None:
    write_model(tmp_path / "small", "qwen3")
    section = CoreSection(name="small", kind="local", path=str(tmp_path / "small"), context_length=512)
    async with subject(FolderCore(section)) as at:
        found = await proved(at, "small")
        assert found["abort"].state == "works", found["abort"].detail
        assert found["resume"].state == "works", found["resume"].detail


class Llama(ScriptedCore):
    """Knows no `min_tokens`, and goes on with other draws."""

    kind = "gguf"

    def check(self, args: LLMGenerate) -> None:
        if args.min_tokens or (args.max_tokens == proof.LONG and args.temperature):
            raise BadRequest("not so")


async def test_a_gguf_core_is_asked_for_what_it_can_promise() -> None:
    async with subject(Llama(tokens=2000)) as at:
        found = await proved(at, "scripted")
        assert found["abort"].state == "works", found["abort"].detail
        assert found["resume"].state != "fails", found["resume"].detail


class Forgetful(ScriptedCore):
    """Says something else after an interrupt. The second long answer takes until its process is stopped."""

    kernel: Kernel
    num_long = 0

    async def run(self, request: Request, quantum: int | None) -> Generation | Suspended:
        if request.snapshot is None and request.args.max_tokens == proof.LONG:
            self.num_long += 1
            if self.num_long == 2:
                await until(lambda: any(p.state is ProcessState.STOPPED for p in self.kernel.processes.list()))
        outcome = await super().run(request, quantum)
        if isinstance(outcome, Generation) and request.num_switches:
            return msgspec.structs.replace(outcome, message=msgspec.structs.replace(outcome.message, content="else"))
        return outcome


async def test_a_core_that_does_not_keep_its_promise_to_go_on_exactly_fails() -> None:
    core = Forgetful(tokens=2000)
    async with subject(core) as at:
        core.kernel = at.kernel
        found = await proved(at, "scripted")
        assert found["resume"].state == "fails"
        assert 'interrupted, it said "else", not' in found["resume"].detail


async def test_only_a_core_that_is_ready_is_tested() -> None:
    async with subject(ScriptedCore()) as at:
        with pytest.raises(NotFound, match="no core 'nonesuch'"):
            await proved(at, "nonesuch")
        at.kernel.cores.drain("scripted")
        with pytest.raises(ModuleFault, match="is draining"):
            await proved(at, "scripted")

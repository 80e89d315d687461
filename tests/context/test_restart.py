"""Suspended and running generations outlive the kernel: they go on from where they were, and say the same."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.llm import tiny_model

from aios.abi.calls import LLMGenerate
from aios.abi.errors import Stopping
from aios.abi.messages import Chunk, Generation, Message
from aios.kernel import Kernel, Syscall
from aios.kernel.llm.nano import NanoCore
from aios.testing import booted, principal

pytestmark = pytest.mark.anyio

WINDOW = 262_144
"""Bytes of KV of a sequence of full length."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("model"))


def ask(n: int, **more: Any) -> LLMGenerate:
    settings: dict[str, Any] = {"seed": n, "temperature": 0.9, "max_tokens": 200, "min_tokens": 200, "logprobs": True}
    return LLMGenerate(messages=[Message("user", "a" * 40 * (n + 1))], **(settings | more))


ASKED = [ask(0), ask(1), ask(2, temperature=0.0, beam_width=3, max_tokens=150, min_tokens=150), ask(3)]


def core(folder: Path, **more: Any) -> NanoCore:
    return NanoCore(folder=folder, slots=2, kv_bytes=3 * WINDOW, **more)


class Heard:
    """A listener that knows when it has heard so many tokens."""

    def __init__(self) -> None:
        self.text = ""
        self.tokens = 0
        self.bell = asyncio.Event()

    def __call__(self, chunk: Chunk) -> None:
        self.text += chunk.text
        self.tokens += chunk.tokens
        self.bell.set()

    async def wait_for(self, tokens: int) -> None:
        while self.tokens < tokens:
            self.bell.clear()
            await self.bell.wait()


async def solo(folder: Path) -> list[Generation]:
    async with booted(cores=[core(folder)], policy="fifo") as kernel:
        me = principal(kernel)
        return [await kernel.call(me, "llm_generate", args) for args in ASKED]


async def begin(kernel: Kernel, heard: list[Heard]) -> list[Syscall]:
    """Each as an agent of its own: turns are given to agents."""
    return [
        kernel.submit(principal(kernel, f"agent{n}"), "llm_generate", args, key="k", on_chunk=heard[n])
        for n, args in enumerate(ASKED)
    ]


def work(kernel: Kernel) -> int:
    """Tokens computed so far, of prompts and answers."""
    found = kernel.llm.statistics()["nano"]
    return int(found["prefilled_tokens"] + found["tokens"] + found["replayed_tokens"])


def lasting(answer: Generation) -> tuple[Any, ...]:
    return answer.message, answer.logprobs, answer.finish_reason, answer.usage.completion_tokens


@pytest.mark.parametrize("form", ["logits", "text"])
async def test_generations_go_on_after_a_restart_from_where_they_were(folder: Path, tmp_path: Path, form: Any) -> None:
    alone = await solo(folder)
    async with booted(cores=[core(folder, snapshot=form)], home=tmp_path, policy="rr", quantum=5) as kernel:
        heard = [Heard() for _ in ASKED]
        calls = await begin(kernel, heard)
        for n in (0, 1, 3):
            await heard[n].wait_for(100)
        before = work(kernel)
        await kernel.stop(drain=0.0)
        for call in calls:
            with pytest.raises(Stopping):
                await kernel.wait(call)
    assert len(list((tmp_path / "swap" / "context").iterdir())) == len(ASKED)
    async with booted(cores=[core(folder, snapshot=form)], home=tmp_path, policy="rr", quantum=5) as kernel:
        heard = [Heard() for _ in ASKED]
        answers = await asyncio.gather(*map(kernel.wait, await begin(kernel, heard)))
        after = work(kernel)
        assert [lasting(answer) for answer in answers] == list(map(lasting, alone))
        assert [each.text for each in heard] == [answer.message.text() for answer in alone]
        assert kernel.contexts.statistics()["stored"] == 0
    assert list((tmp_path / "swap" / "context").iterdir()) == []
    fresh = sum(a.usage.prompt_tokens + a.usage.completion_tokens for a in alone)
    if form == "logits":
        assert after < fresh - 300, f"{before} tokens were computed before and {after} after, of about {fresh}"

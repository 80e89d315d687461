"""A server that refuses, breaks, hangs and cuts: each call ends in an answer or one honest error; no slot leaks."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from upstream import DONE, HEAD, LAST, NOT_THERE, Step, chat, event, framed, whole

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError
from aios.abi.messages import Chunk, Message
from aios.kernel.config import CoreSection
from aios.kernel.llm import pace
from aios.kernel.llm.openai import OpenAICore
from aios.testing import booted, principal

pytestmark = pytest.mark.anyio
CALLS = 240
FAULTS = ("refuse", "break", "hang", "cut")


@dataclass
class Flaky:
    """Answers `capacity` requests at once and refuses the others; a share of the rest goes wrong."""

    capacity: int
    share: float
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    active: int = 0
    num_full: int = 0
    num_asked: int = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                if head.startswith("get "):
                    writer.write(NOT_THERE)
                    continue
                length = next(int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:"))
                body = await reader.readexactly(length)
                self.num_asked += 1
                self.active += 1
                try:
                    await self._answer(reader, writer, is_streamed=b'"stream":true' in body)
                finally:
                    self.active -= 1
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_streamed: bool) -> None:
        fault = self.rng.choice(FAULTS) if self.rng.random() < self.share else None
        if self.active > self.capacity or fault == "refuse":
            self.num_full += self.active > self.capacity
            writer.write(_bytes(whole({"error": {"message": "slow down"}}, "429 Busy")))
        elif fault == "break":
            writer.write(_bytes(whole({"error": {"message": "oops"}}, "500 Oops")))
        elif fault == "hang":
            await reader.read(1)  # until the client gives up
            raise ConnectionError
        else:
            await asyncio.sleep(0.005)  # a server that takes no time could not be overloaded
            writer.write(HEAD + framed(event({"content": "he"})) if is_streamed else b"")
            if fault == "cut":
                await writer.drain()
                raise ConnectionError
            rest = framed(event({"content": "llo"})) + framed(event({}, "stop")) + framed(DONE) + LAST
            writer.write(rest if is_streamed else _bytes(whole(chat({"content": "hello"}))))


def _bytes(steps: list[Step]) -> bytes:
    return b"".join(step for step in steps if isinstance(step, bytes))


@contextlib.asynccontextmanager
async def serving(flaky: Flaky) -> AsyncIterator[str]:
    server = await asyncio.start_server(flaky.handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(pace, "LONGEST_PAUSE", 0.05)


async def ask_all(flaky: Flaky, *, slots: int, timeout: float = 0.5) -> tuple[list[str | AiosError], OpenAICore]:
    async with serving(flaky) as url:
        core = OpenAICore(CoreSection(name="far", kind="openai", base_url=url, slots=slots, timeout=timeout))
        core_section_timeout_factor(core)
        async with booted(cores={"far": core}) as kernel:
            who = principal(kernel)

            async def one(n: int) -> str | AiosError:
                said: list[str] = []

                def hear(chunk: Chunk) -> None:
                    said.append(chunk.text)

                args = LLMGenerate(messages=[Message("user", "hi")])
                try:
                    done = await kernel.call(who, "llm_generate", args, on_chunk=hear if n % 2 else None)
                except AiosError as error:
                    return error
                text = done.message.text()
                assert not said or "".join(said) == text
                return text

            found = await asyncio.gather(*(one(n) for n in range(CALLS)))
            assert core.statistics()["active"] == 0
            kernel.check_integrity()
        return list(found), core


def core_section_timeout_factor(core: OpenAICore) -> None:
    """Whole answers get five times the silence; here as much as a stream, so that the test is short."""
    core._upstream.timeout /= 5


async def test_every_call_to_a_flaky_server_ends_in_an_answer_or_one_honest_error() -> None:
    found, _ = await ask_all(Flaky(capacity=1000, share=0.2), slots=32)
    errors = [each for each in found if isinstance(each, AiosError)]
    assert all(each == "hello" for each in found if isinstance(each, str))
    assert {error.status for error in errors} <= {502, 504}
    assert len(errors) < CALLS * 0.15  # those cut in mid-stream cannot be said again; the others nearly all go well


async def test_a_servers_limit_is_found_and_kept_without_a_storm_of_refusals() -> None:
    flaky = Flaky(capacity=8, share=0.0)
    found, core = await ask_all(flaky, slots=64, timeout=5.0)
    assert all(each == "hello" for each in found)
    assert 4 <= core.statistics()["limit"] <= 16
    assert flaky.num_full < 64 + CALLS * 0.3

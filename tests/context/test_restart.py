"""Suspended and running generations outlive the kernel: they go on from where they were, and say the same."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.llm import tiny_model

from aios.abi.calls import LLMGenerate
from aios.abi.errors import CutShort, Stopping
from aios.abi.messages import Chunk, Generation, Message, TokenLogprob
from aios.kernel import Kernel, Syscall
from aios.kernel.config import Config, ContextSection
from aios.kernel.llm.nano import NanoCore
from aios.testing import booted, principal

pytestmark = pytest.mark.anyio

WINDOW = 262_144
"""Bytes of KV of a sequence of full length."""


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
        self.logprobs: list[TokenLogprob] = []
        self.bell = asyncio.Event()

    def __call__(self, chunk: Chunk) -> None:
        self.text += chunk.text
        self.tokens += chunk.tokens
        self.logprobs += chunk.logprobs or []
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


def told(kernel: Kernel) -> list[str]:
    """Why things went as they did, in the trace: the call itself may be over before anybody asks for it again."""
    return [row.why for row in kernel.trace.rows if row.why]


def lasting(answer: Generation) -> tuple[Any, ...]:
    return answer.message, answer.logprobs, answer.finish_reason, answer.usage.completion_tokens


@pytest.mark.parametrize("form", ["logits", "text"])
async def test_generations_go_on_after_a_restart_from_where_they_were(folder: Path, tmp_path: Path, form: Any) -> None:
    alone = await solo(folder)
    async with booted(cores=[core(folder, snapshot=form)], home=tmp_path, policy="rr", quantum=20) as kernel:
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
    async with booted(cores=[core(folder, snapshot=form)], home=tmp_path, policy="rr", quantum=20) as kernel:
        heard = [Heard() for _ in ASKED]
        answers = await asyncio.gather(*map(kernel.wait, await begin(kernel, heard)))
        after = work(kernel)
        assert [lasting(answer) for answer in answers] == list(map(lasting, alone))
        assert [each.text for each in heard] == [answer.message.text() for answer in alone]
        assert [each.logprobs for each in heard] == [answer.logprobs for answer in alone]
        assert [each.tokens for each in heard[:2]] == [200, 200]
        assert kernel.contexts.statistics()["stored"] == 0
    assert list((tmp_path / "swap" / "context").iterdir()) == []
    fresh = sum(a.usage.prompt_tokens + a.usage.completion_tokens for a in alone)
    if form == "logits":
        assert after < fresh - 300, f"{before} tokens were computed before and {after} after, of about {fresh}"


Spoil = Callable[[Path], None]


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def damaged(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1000] ^= 1
    file.write_bytes(data)


def headless(file: Path) -> None:
    file.write_bytes(b"\0" * 300)


@pytest.mark.parametrize(
    ("spoil", "why", "is_begun_anew"),
    [
        (truncated, "recomputed: .* damaged", False),
        (damaged, "recomputed: .* damaged", False),
        (headless, "begun anew: these bytes are not a snapshot", True),
    ],
)
async def test_a_snapshot_that_is_damaged_meanwhile_is_told_in_the_trace_and_changes_no_byte(
    folder: Path, tmp_path: Path, spoil: Spoil, why: str, is_begun_anew: bool
) -> None:
    want = (await solo(folder))[0]
    await interrupted(folder, tmp_path, tokens=100)
    (file,) = (tmp_path / "swap" / "context").iterdir()
    spoil(file)
    async with booted(cores=[core(folder)], home=tmp_path, policy="fifo") as kernel:
        assert lasting(await kernel.wait(one(kernel))) == lasting(want)
        assert any(re.fullmatch(why + ".*", each) for each in told(kernel)), told(kernel)
        replayed = kernel.llm.statistics()["nano"]["replayed_tokens"]
        assert (replayed == 0) is is_begun_anew


async def test_a_snapshot_under_the_name_of_another_call_is_not_given_to_it(folder: Path, tmp_path: Path) -> None:
    alone = await solo(folder)
    async with booted(cores=[core(folder)], home=tmp_path, policy="rr", quantum=20) as kernel:
        heard = [Heard() for _ in ASKED]
        await begin(kernel, heard)
        for n in (0, 1, 3):
            await heard[n].wait_for(50)
        await kernel.stop(drain=0.0)
    names = list((tmp_path / "swap" / "context").iterdir())
    contents = [file.read_bytes() for file in names]
    for file, other in zip(names, contents[1:] + contents[:1], strict=True):
        file.write_bytes(other)
    async with booted(cores=[core(folder)], home=tmp_path, policy="rr", quantum=20) as kernel:
        calls = await begin(kernel, [Heard() for _ in ASKED])
        answers = await asyncio.gather(*map(kernel.wait, calls))
        assert [lasting(answer) for answer in answers] == list(map(lasting, alone))
        told = [str(row.why) for row in kernel.trace.rows if "begun anew" in str(row.why)]
        assert told == ["begun anew: its snapshot is of another call"] * len(ASKED)


async def test_a_snapshot_of_another_engine_goes_on_from_its_text_and_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = (await solo(folder))[0]
    await interrupted(folder, tmp_path, tokens=100)
    other = core(folder)
    open_it = other.open

    async def opened() -> None:
        await open_it()
        other._engine.decoder.fingerprint = "elsewhere"

    monkeypatch.setattr(other, "open", opened)
    async with booted(cores=[other], home=tmp_path, policy="fifo") as kernel:
        assert lasting(await kernel.wait(one(kernel))) == lasting(want)
        why = r"recomputed: its snapshot was made by engine \w+, and this is elsewhere"
        assert any(re.fullmatch(why, each) for each in told(kernel)), told(kernel)
        assert kernel.llm.statistics()["nano"]["restores_text"] == 1


async def test_a_snapshot_whose_core_is_gone_is_dropped(folder: Path, tmp_path: Path) -> None:
    want = (await solo(folder))[0]
    await interrupted(folder, tmp_path, tokens=100)
    other = core(folder)
    other.name = "another"
    async with booted(cores=[other], home=tmp_path, policy="fifo") as kernel:
        assert kernel.contexts.statistics()["stored"] == 0
        assert lasting(await kernel.wait(one(kernel))) == lasting(want)


async def test_a_snapshot_of_a_call_that_is_over_is_swept_away(folder: Path, tmp_path: Path) -> None:
    await interrupted(folder, tmp_path, tokens=100)
    (file,) = (tmp_path / "swap" / "context").iterdir()
    file.rename(file.with_name("call_of_long_ago@nano@0.swap"))
    async with booted(cores=[core(folder)], home=tmp_path) as kernel:
        assert kernel.contexts.statistics()["stored"] == 0
        await kernel.wait(one(kernel))
    assert list(file.parent.iterdir()) == []


async def test_a_call_that_is_cut_short_again_before_its_turn_keeps_what_it_had(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = (await solo(folder))[0]
    await interrupted(folder, tmp_path, tokens=100)
    busy = core(folder)
    monkeypatch.setattr(busy, "can_take", lambda snapshot, active=0: False)
    async with booted(cores=[busy], home=tmp_path) as kernel:
        await kernel.stop(drain=0.0)
    assert len(list((tmp_path / "swap" / "context").iterdir())) == 1
    async with booted(cores=[core(folder)], home=tmp_path) as kernel:
        assert lasting(await kernel.wait(one(kernel))) == lasting(want)
        assert work(kernel) < 150


async def test_what_a_call_without_a_key_had_computed_is_not_kept(folder: Path, tmp_path: Path) -> None:
    async with booted(cores=[core(folder)], home=tmp_path) as kernel:
        heard = Heard()
        call = kernel.submit(principal(kernel), "llm_generate", ASKED[0], on_chunk=heard)
        await heard.wait_for(50)
        await kernel.stop(drain=0.0)
        with pytest.raises(CutShort):
            await kernel.wait(call)
    assert list((tmp_path / "swap" / "context").iterdir()) == []


async def test_with_no_room_on_disk_the_text_outlives_the_kernel(folder: Path, tmp_path: Path) -> None:
    want = (await solo(folder))[0]
    await interrupted(folder, tmp_path, tokens=100, disk_bytes=40_000)
    (file,) = (tmp_path / "swap" / "context").iterdir()
    assert file.stat().st_size < 40_000
    async with booted(cores=[core(folder)], home=tmp_path) as kernel:
        call = one(kernel)
        assert lasting(await kernel.wait(call)) == lasting(want)
        assert kernel.llm.statistics()["nano"]["restores_text"] == 1


async def test_a_home_whose_swap_cannot_be_used_boots_all_the_same(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "swap").write_text("in the way")
    want = (await solo(folder))[0]
    await interrupted(folder, tmp_path, tokens=100)
    assert "not kept on disk" in caplog.text
    async with booted(cores=[core(folder)], home=tmp_path) as kernel:
        assert lasting(await kernel.wait(one(kernel))) == lasting(want)


async def interrupted(folder: Path, home: Path, *, tokens: int, **settings: Any) -> None:
    """A kernel that was stopped when the first call had so many tokens."""
    config = Config(context=ContextSection(**settings))
    async with booted(cores=[core(folder)], home=home, config=config) as kernel:
        heard = Heard()
        one(kernel, heard)
        await heard.wait_for(tokens)
        await kernel.stop(drain=0.0)


def one(kernel: Kernel, heard: Heard | None = None) -> Syscall:
    """The first call."""
    return kernel.submit(principal(kernel, "agent0"), "llm_generate", ASKED[0], key="k", on_chunk=heard)

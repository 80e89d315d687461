"""A model in a GGUF file, run by a real llama.cpp server in a process of its own: what is said, held, resumed, lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aios.abi.calls import LLMEmbed, LLMGenerate
from aios.abi.errors import BadRequest, ContextLengthExceeded, ModuleFault
from aios.abi.messages import Chunk, FunctionSpec, Generation, Message, ToolSpec
from aios.kernel import Config, CoreSection, Kernel, Scheduler
from aios.kernel.llm.base import NotBegun, Request, Said
from aios.kernel.llm.cores import make_core
from aios.kernel.llm.gguf import core as gguf
from aios.kernel.llm.gguf import keeper, process
from aios.kernel.llm.gguf.core import GgufCore
from aios.kernel.llm.gguf.embed import GgufEmbedCore
from aios.kernel.llm.remote.connection import Broken
from aios.kernel.syscall import Suspended
from aios.testing.kernel import principal

pytest.importorskip("xllamacpp")
from llama_server import slots_of
from tiny_gguf import TEXT_OF_A_CALL, THINKING, TRIMMING, write_gguf

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@asynccontextmanager
async def opened(model: Path, home: Path, **section: Any) -> AsyncIterator[GgufCore]:
    given = {"slots": 2, "context_length": 512, **section}
    core = GgufCore(CoreSection(name="g", kind="gguf", path=str(model), **given), home)
    await core.open()
    try:
        yield core
    finally:
        await core.close()


def args(text: str = "hi there", **more: Any) -> LLMGenerate:
    given = {"temperature": 0.0, "max_tokens": 60, "seed": 1, **more}
    return LLMGenerate(messages=[Message(role="user", content=text)], **given)


def long(text: str = "hi there") -> LLMGenerate:
    """An answer that cannot all have been sent before somebody looks: each token comes with the likeliest others."""
    return args(text, max_tokens=1900, logprobs=True, top_logprobs=20)


async def whole(core: GgufCore, given: LLMGenerate, heard: list[Chunk] | None = None) -> Generation:
    done = await core.run(Request("c", given, (heard if heard is not None else []).append, None, True), None)
    assert isinstance(done, Generation)
    return done


async def begin(core: GgufCore, given: LLMGenerate, quantum: int, heard: list[Chunk] | None = None) -> Suspended:
    held = await core.run(Request("c", given, (heard if heard is not None else []).append, None, True), quantum)
    assert isinstance(held, Suspended)
    return held


async def rest(core: GgufCore, given: LLMGenerate, snapshot: Any, heard: list[Chunk] | None = None) -> Generation:
    request = Request("c", given, (heard if heard is not None else []).append, snapshot, True)
    done = await core.run(request, None)
    assert isinstance(done, Generation)
    return done


def slots(core: GgufCore) -> list[dict[str, Any]]:
    """What the server says of its slots."""
    assert core._keeper is not None
    process = core._keeper.process
    return slots_of(process._address, process._key)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.001)


def said(heard: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in heard)


# ── chat ──


async def test_an_answer_is_streamed_and_adds_up(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path) as core:
        heard: list[Chunk] = []
        done = await whole(core, args(max_tokens=20), heard)
        assert said(heard) == done.message.content
        assert len(said(heard)) == 20
        assert (done.finish_reason, done.usage.completion_tokens) == ("length", 20)
        assert heard[-1].finish_reason == "length"
        assert heard[-1].usage == done.usage
        assert sum(chunk.tokens for chunk in heard) == 20
        assert not any(chunk.raw for chunk in heard)
        assert core.context_length == 512


async def test_tools_are_called_in_the_servers_own_form(model: Path, tmp_path: Path) -> None:
    city = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
    spec = ToolSpec(FunctionSpec("weather", parameters={**city, "additionalProperties": False}))
    async with opened(model, tmp_path) as core:
        given = args(tools=[spec], tool_choice="required", logit_bias=TEXT_OF_A_CALL, max_tokens=120)
        heard: list[Chunk] = []
        held = await core.run(Request("c", given, heard.append, None, True), 1)
        while isinstance(held, Suspended):
            held = await core.run(Request("c", given, heard.append, held.snapshot, True), 1)
        call = (held.message.tool_calls or [])[0]
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")
        assert held.finish_reason == "tool_calls"


SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "x",
        "schema": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Rome", "Oslo"]},
                "n": {"type": "integer", "minimum": 100, "maximum": 999},
            },
            "required": ["city", "n"],
            "additionalProperties": False,
        },
    },
}


async def test_an_answer_held_to_a_schema_goes_on_within_it(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path, slots=1) as core:
        given = args(response_format=SCHEMA)
        solo = await whole(core, given)
        assert json.loads(solo.message.text())["city"] in ("Rome", "Oslo")
        for quantum in (1, 5, 9):
            held = await begin(core, given, quantum)
            await whole(core, args("somebody else"))
            done = await rest(core, given, held.snapshot)
            assert done.message.content == solo.message.content


# ── held and resumed ──


@pytest.mark.parametrize("quantum", [1, 7, 59])
async def test_a_greedy_answer_interrupted_by_others_is_the_uninterrupted_one(
    quantum: int, model: Path, tmp_path: Path
) -> None:
    async with opened(model, tmp_path, slots=1) as core:
        solo = await whole(core, args())
        heard: list[Chunk] = []
        held = await begin(core, args(), quantum, heard)
        await whole(core, args("somebody else"))  # needs the only slot
        assert core.statistics()["saved"] == 1
        done = await rest(core, args(), held.snapshot, heard)
        assert core.statistics()["restored"] == 1
        assert done.message.content == solo.message.content == said(heard)
        assert done.usage.completion_tokens == 60 == sum(chunk.tokens for chunk in heard)
        assert done.usage.prompt_tokens == solo.usage.prompt_tokens
        assert core.statistics()["files"] == 0


async def test_an_answer_may_be_cut_after_any_token(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path, slots=1) as core:
        solo = await whole(core, args("b"))
        for quantum in range(1, 60):
            held = await begin(core, args("b"), quantum)
            await whole(core, args("somebody else", max_tokens=1))
            assert (await rest(core, args("b"), held.snapshot)).message.content == solo.message.content, quantum


async def test_blanks_and_characters_of_many_tokens_are_said_once(tmp_path: Path) -> None:
    words = {"enum": ["schön   ist die 日本語 🙂🙂"]}
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": words}}
    trimming = write_gguf(tmp_path / "trimming.gguf", template=TRIMMING)
    async with opened(trimming, tmp_path, slots=1) as core:
        given = args(response_format=schema)
        solo = await whole(core, given)
        assert json.loads(solo.message.text()) == words["enum"][0]
        for quantum in range(1, 20):
            heard: list[Chunk] = []
            held = await begin(core, given, quantum, heard)
            await whole(core, args("somebody else", max_tokens=1))
            done = await rest(core, given, held.snapshot, heard)
            assert done.message.content == solo.message.content == said(heard)
            assert done.usage.completion_tokens == solo.usage.completion_tokens
            assert done.usage.prompt_tokens == solo.usage.prompt_tokens


async def test_a_stop_string_is_found_wherever_the_answer_is_cut(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path, slots=1) as core:
        text = (await whole(core, args())).message.text()
        given = args(stop=text[20:24])
        solo = await whole(core, given)
        assert text.startswith(solo.message.text())
        assert solo.finish_reason == "stop"
        for quantum in range(1, len(solo.message.text())):
            done: Any = await begin(core, given, quantum)
            await whole(core, args("somebody else", max_tokens=1))
            done = await rest(core, given, done.snapshot)
            assert (done.message.content, done.finish_reason) == (solo.message.content, "stop")


async def test_thoughts_are_cut_and_gone_on_with_as_thoughts(tmp_path: Path) -> None:
    thinker = write_gguf(tmp_path / "thinker.gguf", template=THINKING)
    async with opened(thinker, tmp_path, slots=1) as core:
        solo = await whole(core, args())
        assert (solo.message.content, len(solo.message.reasoning_content or "")) == ("", 60)
        heard: list[Chunk] = []
        held = await begin(core, args(), 20, heard)
        await whole(core, args("somebody else"))
        done = await rest(core, args(), held.snapshot, heard)
        assert done.message.reasoning_content == solo.message.reasoning_content
        assert "".join(chunk.reasoning for chunk in heard) == solo.message.reasoning_content
        assert said(heard) == ""


async def test_an_answer_as_long_as_it_may_be_is_not_held_before_its_end(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path, slots=1) as core:
        solo = await whole(core, args())
        done = await core.run(Request("c", args(), [].append, None, True), 60)
        assert isinstance(done, Generation)
        assert done.message.content == solo.message.content


async def test_half_an_answer_of_another_core_is_gone_on_with(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path) as core:
        solo = await whole(core, args())
        half = Said(solo.message.text()[:25], 25)
        assert core.can_continue(args(), half)
        assert not core.can_continue(args(extra={"grammar": 'root ::= "a"'}), half)
        heard: list[Chunk] = []
        done = await core.run(Request("c", args(), heard.append, None, True, half), None)
        assert isinstance(done, Generation)
        assert done.message.content == solo.message.content == half.text + said(heard)
        assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (solo.usage.prompt_tokens, 60)


async def test_an_answer_whose_slot_nobody_needs_goes_on_in_its_stream(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path, slots=1) as core:
        solo = await whole(core, args())
        task, held = slots(core)[0]["id_task"], await begin(core, args(), 5)
        done: Any = held
        while isinstance(done, Suspended):
            done = await core.run(Request("c", args(), [].append, done.snapshot, True), 5)
        assert done.message.content == solo.message.content
        assert core.statistics()["saved"] == 0
        assert slots(core)[0]["id_task"] > task


async def test_an_answer_whose_stream_was_closed_goes_on_in_its_slot(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "LINGER", 0.0)
    async with opened(model, tmp_path, slots=1) as core:
        solo = await whole(core, args())
        held = await begin(core, args(), 5)
        await until(lambda: held.snapshot.stream is None and not slots(core)[0]["is_processing"])
        done = await rest(core, args(), held.snapshot)
        assert done.message.content == solo.message.content
        assert core.statistics()["saved"] == core.statistics()["restored"] == 0


async def test_what_is_not_kept_is_read_again_and_goes_on(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path, slots=1, kv_bytes=1 << 20) as core:
        core._seats._budget = 1000
        solo = await whole(core, args())
        held = await begin(core, args(), 9)
        await whole(core, args("somebody else"))
        assert core.statistics()["file_bytes"] == 0
        done = await rest(core, args(), held.snapshot)
        assert done.message.content == solo.message.content
        assert core.statistics()["read_again"] == 1


async def test_a_sampled_answer_goes_on_to_its_length(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path, slots=1) as core:
        heard: list[Chunk] = []
        given = args(temperature=1.0)
        held = await begin(core, given, 10, heard)
        await whole(core, args("somebody else"))
        done = await rest(core, given, held.snapshot, heard)
        assert done.message.content == said(heard)
        assert done.usage.completion_tokens == 60


async def test_many_answers_share_few_slots_and_all_are_their_solo_runs(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path, slots=2) as core:
        prompts = [f"agent {n}" for n in range(6)]
        solos = [(await whole(core, args(prompt))).message.content for prompt in prompts]
        waiting: list[tuple[int, Any]] = [(n, None) for n in range(6)]
        got: dict[int, str | None] = {}
        room = asyncio.Semaphore(2)

        async def turn(n: int, snapshot: Any) -> None:
            async with room:
                done = await core.run(Request(str(n), args(prompts[n]), [].append, snapshot, True), 7)
            if isinstance(done, Suspended):
                waiting.append((n, done.snapshot))
            else:
                got[n] = done.message.text()

        while waiting:
            turns, waiting = waiting, []
            await asyncio.gather(*(turn(n, snapshot) for n, snapshot in turns))
        assert [got[n] for n in range(6)] == solos
        assert core.statistics()["files"] == core.statistics()["kept"] == 0


# ── aborted, dropped ──


async def test_an_aborted_call_frees_the_servers_slot(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path, context_length=2048) as core:
        heard: list[Chunk] = []
        task = asyncio.create_task(whole(core, long(), heard))
        await until(lambda: bool(heard))
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        began = asyncio.get_running_loop().time()
        await until(lambda: not any(slot["is_processing"] for slot in slots(core)))
        took = asyncio.get_running_loop().time() - began
        assert took < 5  # about 1 ms on an idle machine; the bound is for a loaded one


async def test_a_call_aborted_while_its_prompt_is_read_is_not_read_to_the_end(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path, slots=1, context_length=2048) as core:
        given = args("y" * 1900, max_tokens=1)
        task = asyncio.create_task(whole(core, given))
        await until(lambda: slots(core)[0]["is_processing"])
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        usage = (await whole(core, given)).usage
        assert usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens - 1


async def test_a_cancelled_calls_file_is_removed(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path, slots=1) as core:
        held = await begin(core, args(), 9)
        await whole(core, args("somebody else"))
        folder = tmp_path / "slots" / "g"
        assert len(list(folder.iterdir())) == 1
        assert folder.stat().st_mode & 0o777 == 0o700
        core.drop(held.snapshot)
        assert list(folder.iterdir()) == []
        with pytest.raises(ModuleFault, match="dropped"):
            await rest(core, args(), held.snapshot)
    assert not folder.exists()


async def test_a_dropped_answers_slot_is_free_at_once(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path, slots=1, context_length=2048) as core:
        held = await begin(core, long(), 9)
        core.drop(held.snapshot)
        await until(lambda: not slots(core)[0]["is_processing"])
        assert core.statistics()["kept"] == 0
        await whole(core, args())
        assert core.statistics()["saved"] == 0


# ── the process ──


def pid_of(core: GgufCore) -> int:
    assert core._keeper is not None
    assert core._keeper.process._child is not None
    return core._keeper.process._child.pid


async def test_a_killed_process_is_one_honest_error_and_the_core_comes_back(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "FIRST_PAUSE", 0.001)
    async with opened(model, tmp_path, context_length=2048) as core:
        solo = await whole(core, args())
        held = await begin(core, args(), 9)
        heard: list[Chunk] = []

        def kill_at_once(chunk: Chunk) -> None:  # a little later all of it may have been sent
            if not heard:
                os.kill(pid_of(core), signal.SIGKILL)
            heard.append(chunk)

        with pytest.raises(ModuleFault, match=r"core 'g'.*SIGKILL") as caught:
            await core.run(Request("c", long(), kill_at_once, None, True), None)
        assert heard
        assert caught.value.code == "core_crashed"
        with pytest.raises(NotBegun, match="being started again"):
            await whole(core, args())
        await until(lambda: core.statistics()["restarts"] == 1)
        assert (await whole(core, args())).message.content == solo.message.content
        assert (await rest(core, args(), held.snapshot)).message.content == solo.message.content


async def test_a_connection_that_breaks_while_the_process_lives_is_not_told_as_its_end(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def post(*args: Any) -> Any:
        raise Broken("its server cut the answer short")

    async with opened(model, tmp_path) as core:
        assert core._keeper is not None
        monkeypatch.setattr(process, "_LAST_MOMENT", 0.0)
        with monkeypatch.context() as here:
            here.setattr(core._keeper.process, "post", post)
            with pytest.raises(ModuleFault) as caught:
                await whole(core, args())
        assert str(caught.value) == (
            "core 'g': the connection to its process broke while this ran (its server cut the answer short); ask again"
        )
        assert caught.value.code == "connection_broken"
        await whole(core, args())


async def test_a_process_that_dies_again_and_again_is_given_up_and_calls_may_go_to_another_core(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(keeper, "MAX_CRASHES", 2)
    async with opened(model, tmp_path) as core:
        for n in range(3):
            await until(lambda n=n: core.statistics()["restarts"] == n)  # type: ignore[misc]
            os.kill(pid_of(core), signal.SIGKILL)
        await until(lambda: core._keeper.given_up is not None)  # type: ignore[union-attr]
        with pytest.raises(NotBegun, match="not started again") as caught:
            await whole(core, args())
        assert caught.value.error.code == "core_down"
        assert not caught.value.is_busy


async def test_a_core_given_up_since_its_file_was_cut_short_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(keeper, "MAX_CRASHES", 1)
    path = write_gguf(tmp_path / "cut.gguf")
    async with opened(path, tmp_path) as core:
        os.truncate(path, path.stat().st_size // 2)
        os.kill(pid_of(core), signal.SIGKILL)
        await until(lambda: core._keeper.given_up is not None)  # type: ignore[union-attr]
        with pytest.raises(NotBegun, match=r"started again: .*within the file bounds"):
            await whole(core, args())


async def test_the_process_ends_with_its_kernel(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path) as core:
        pid = pid_of(core)
        assert core._keeper is not None
        process = core._keeper.process
        assert process._link is not None
        core._keeper._task.cancel()  # type: ignore[union-attr]
        process._link.transport.abort()  # as when the kernel is killed: its end of the socket closes
        await process.ended()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


# ── bad input ──


async def test_a_prompt_longer_than_the_window_is_refused(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path) as core:
        with pytest.raises(ContextLengthExceeded):
            await whole(core, args("x" * 600))
        assert (await whole(core, args())).message.content


async def test_what_the_server_cannot_do_is_refused_before_it_is_asked(model: Path, tmp_path: Path) -> None:
    core = GgufCore(CoreSection(name="g", kind="gguf", path=str(model)), tmp_path)
    with pytest.raises(BadRequest, match="beam"):
        core.check(args(beam_width=3))
    with pytest.raises(BadRequest, match="min_tokens"):
        core.check(args(min_tokens=3))


def corrupt(path: Path) -> list[tuple[bytes, str]]:
    data = path.read_bytes()
    return [
        (b"hello, world", "no GGUF file"),
        (b"", "no GGUF file"),
        (data[:4] + b"\x09\0\0\0" + data[8:], "version 9"),
        (data[:300], "truncated"),
        (data[:200_000], "incomplete"),
        (data.replace(b"llama", b"lamma"), "lamma"),
        (data[:16] + b"\xff" * 8 + data[24:], "corrupt"),
        (data[:24] + b"\xff" * 8 + data[32:], "corrupt"),
    ]


@pytest.mark.parametrize("case", range(8))
async def test_a_file_that_is_not_sound_is_one_clear_error(case: int, model: Path, tmp_path: Path) -> None:
    data, said = corrupt(model)[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(ModuleFault, match=said) as caught:
        async with opened(path, tmp_path):
            pass
    assert caught.value.message.startswith("core 'g' cannot be loaded: ")


async def test_a_missing_file_and_a_missing_xllamacpp_are_told(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModuleFault, match="No such file"):
        async with opened(tmp_path / "none.gguf", tmp_path):
            pass
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleFault, match=r"pip install 'aios-kernel\[gguf\]'"):
        async with opened(model, tmp_path):
            pass


async def test_the_window_and_the_slots_fit_the_memory_given(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path, slots=4, context_length=None) as core:
        assert (core.context_length, core.slots) == (2048, 4)
    async with opened(model, tmp_path, slots=4, context_length=None, kv_bytes=1 << 20) as core:
        assert (core.context_length, core.slots) == (1024, 4)  # 256 bytes a token
    async with opened(model, tmp_path, slots=4, context_length=2048, kv_bytes=1 << 20) as core:
        assert (core.context_length, core.slots) == (2048, 2)
    async with opened(model, tmp_path, slots=300, context_length=16) as core:
        assert (core.context_length, core.slots) == (16, 256)
    with pytest.raises(ModuleFault, match="made for 2048"):
        async with opened(model, tmp_path, context_length=4096):
            pass


# ── embedding ──


async def test_a_core_for_embedding_turns_texts_into_vectors(model: Path, tmp_path: Path) -> None:
    core = make_core(CoreSection(name="e", kind="gguf", path=str(model), slots=2, embeddings=True), tmp_path)
    assert isinstance(core, GgufEmbedCore)
    await core.open()
    try:
        one = await core.embed(LLMEmbed(input=["hi there", "x" * 700, "hi there"]))
        first, other, again = (np.array(item.embedding) for item in one.data)
        assert first.shape == other.shape == (64,)
        assert np.allclose(first, again, atol=1e-6)
        assert not np.allclose(first, other, atol=1e-2)
        assert one.usage.prompt_tokens > 700
        with pytest.raises(ContextLengthExceeded):
            await core.embed(LLMEmbed(input="x" * 3000))
        with pytest.raises(BadRequest, match="does not chat"):
            core.check(args())
        assert core.statistics()["failed"] == 1
    finally:
        await core.close()


# ── under the kernel ──


async def test_agents_take_turns_on_one_slot_and_each_gets_its_solo_answer(model: Path, tmp_path: Path) -> None:
    section = CoreSection(name="g", kind="gguf", path=str(model), slots=1, context_length=2048)
    kernel = await Kernel.boot(Config(core=[section], scheduler=Scheduler(quantum=7)), tmp_path)
    try:
        prompts = [f"agent {n}" for n in range(3)]
        agents = [principal(kernel, f"a{n}") for n in range(3)]
        solos = [await kernel.call(agents[0], "llm_generate", args(prompt)) for prompt in prompts]
        calls = [kernel.submit(agents[n], "llm_generate", args(prompts[n])) for n in range(3)]
        dones = [await kernel.wait(call) for call in calls]
        assert [done.message.content for done in dones] == [solo.message.content for solo in solos]
        assert all(call.num_switches > 3 for call in calls)
        assert kernel.statistics()["cores"]["g"]["restored"] > 9

        endless = [kernel.submit(agent, "llm_generate", long()) for agent in agents[:2]]
        await until(lambda: sum(call.num_switches for call in endless) > 2)
        for call in endless:
            kernel.cancel(call)
        await asyncio.wait([call.future for call in endless if call.future is not None])
        assert list((tmp_path / "slots" / "g").iterdir()) == []
        kernel.check_integrity()
    finally:
        await kernel.stop(0.0)


async def test_what_paused_answers_had_said_outlives_a_kernel_that_is_stopped(model: Path, tmp_path: Path) -> None:
    section = CoreSection(name="g", kind="gguf", path=str(model), slots=1, context_length=2048)
    config = Config(core=[section], scheduler=Scheduler(quantum=7))
    asked = [args(f"agent {n}", max_tokens=200) for n in range(2)]
    kernel = await Kernel.boot(config, tmp_path)
    try:
        agents = [principal(kernel, f"a{n}") for n in range(2)]
        solos = [await kernel.call(agents[0], "llm_generate", given) for given in asked]
        calls = [kernel.submit(agents[n], "llm_generate", asked[n], key="k") for n in range(2)]
        await until(lambda: all(call.num_switches > 2 for call in calls))
    finally:
        await kernel.stop(0.0)
    assert len(list((tmp_path / "swap" / "context").iterdir())) == 2
    kernel = await Kernel.boot(config, tmp_path)
    try:
        heard: list[list[Chunk]] = [[], []]
        again = [kernel.submit(agents[n], "llm_generate", asked[n], key="k", on_chunk=heard[n].append) for n in (0, 1)]
        dones = [await kernel.wait(call) for call in again]
        assert [row.why for row in kernel.trace.rows].count("resumed from its text") == 2
    finally:
        await kernel.stop(0.0)
    assert [done.message.content for done in dones] == [solo.message.content for solo in solos]
    assert [done.usage.total_tokens for done in dones] == [solo.usage.total_tokens for solo in solos]
    assert [said(each) for each in heard] == [done.message.content for done in dones]


async def test_a_killed_kernel_takes_the_process_along(model: Path, tmp_path: Path) -> None:
    program = f"""
import asyncio, sys
from pathlib import Path
from aios.kernel.config import CoreSection
from aios.kernel.llm.cores import make_core
from aios.kernel.llm.gguf.core import GgufCore
from aios.kernel.llm.gguf.embed import GgufEmbedCore
from aios.kernel.llm.remote.connection import Broken
async def main():
    core = GgufCore(CoreSection(name="g", kind="gguf", path={str(model)!r}, slots=1), Path({str(tmp_path)!r}))
    await core.open()
    print(core._keeper.process._child.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    kernel = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert kernel.stdout is not None
    child = int(await kernel.stdout.readline())
    kernel.kill()
    await kernel.wait()

    def is_gone() -> bool:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return True
        return Path(f"/proc/{child}/stat").read_text().split()[2] == "Z"

    await until(is_gone)


async def test_groups_that_share_nothing_read_their_prompts_anew(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path, slots=1) as core:
        first = await whole(core, args(cache_salt="one"))
        again = await whole(core, args(cache_salt="one"))
        other = await whole(core, args(cache_salt="two"))
        cached = [done.usage.prompt_tokens_details.cached_tokens for done in (first, again, other)]
        assert cached == [0, first.usage.prompt_tokens - 1, 0]


async def test_a_conversation_goes_on_in_the_slot_that_read_it(model: Path, tmp_path: Path) -> None:
    async with opened(model, tmp_path, slots=2) as core:
        await whole(core, args("agent one says something long"))
        await whole(core, args("agent two says something else"))
        for text in ("agent one says something long", "agent two says something else"):
            again = await whole(core, args(text))
            assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1

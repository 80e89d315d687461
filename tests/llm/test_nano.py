"""The packaged core behind its interface, on a tiny random model: it streams, is interrupted, calls tools, refuses."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny_model

from aios.abi.calls import LLMGenerate, ProcSignal, ProcSpawn
from aios.abi.errors import BadRequest, ContextLengthExceeded, ModuleFault
from aios.abi.messages import Chunk, FunctionSpec, Generation, Message, ToolSpec, Usage
from aios.eval.bench import nano
from aios.kernel.context import ContextManager
from aios.kernel.llm.base import Request, Said
from aios.kernel.llm.nano import NanoCore
from aios.kernel.storage import Swap
from aios.kernel.syscall import State, Suspended
from aios.testing import booted, principal

pytestmark = pytest.mark.anyio

WEATHER = ToolSpec(
    FunctionSpec(
        "weather",
        "Tells the weather",
        {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]},
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def core(folder: Path) -> AsyncIterator[NanoCore]:
    core = NanoCore(folder=folder, kv_bytes=1 << 26)
    await core.open()
    yield core
    assert core.statistics()["kv_sequences"] == 0, "a sequence was left behind"
    await core.close()


def ask(text: str = "hello", **more: Any) -> LLMGenerate:
    return LLMGenerate(messages=[Message("user", text)], **{"seed": 1, "max_tokens": 20, **more})


def lasting(answer: Generation) -> Generation:
    """What is the same however a call was run: all but how much of its prompt was computed for an earlier one."""
    usage = answer.usage
    return msgspec.structs.replace(answer, usage=Usage.of(usage.prompt_tokens, usage.completion_tokens))


class Listener:
    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.heard = asyncio.Event()

    def __call__(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self.heard.set()

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)


def stall(core: NanoCore) -> None:
    """After one more step that says something, the model falls silent: what runs then is under way for ever."""
    assert core._engine is not None
    step = core._engine.step
    said: list[Any] = []

    def stalling() -> list[Any]:
        if said:
            time.sleep(0)
            return []
        said.extend(moved := step())
        return moved

    core._engine.step = stalling


async def finish(
    core: NanoCore, args: LLMGenerate, *, id: str = "c", quantum: int | None = None, listener: Listener | None = None
) -> tuple[Generation, int]:
    """The answer, and how many slices it took."""
    listener = listener or Listener()
    snapshot, slices = None, 0
    while True:
        outcome = await core.run(Request(id, args, listener, snapshot, is_streamed=True), quantum)
        slices += 1
        if not isinstance(outcome, Suspended):
            return outcome, slices
        assert outcome.tokens == quantum
        snapshot = outcome.snapshot


async def test_an_answer_is_streamed_piece_by_piece_and_given_whole(core: NanoCore) -> None:
    listener = Listener()
    answer, _ = await finish(core, ask(min_tokens=20, temperature=1.0), listener=listener)
    assert answer.finish_reason == "length"
    assert answer.usage.completion_tokens == 20 == sum(chunk.tokens for chunk in listener.chunks)
    assert listener.text == answer.message.content
    assert listener.chunks[-1].finish_reason == "length"
    assert listener.chunks[-1].usage == answer.usage


async def test_slices_of_many_calls_give_what_each_gives_alone(core: NanoCore) -> None:
    wanted = [
        ask("a" * (30 * i + 1), seed=i, temperature=0.8, min_tokens=20, logprobs=True, top_logprobs=2) for i in range(8)
    ]
    alone = [(await finish(core, args))[0] for args in wanted]
    together = await asyncio.gather(
        *(finish(core, args, id=str(i), quantum=1 + i % 4) for i, args in enumerate(wanted))
    )
    assert [lasting(answer) for answer, _ in together] == list(map(lasting, alone))
    assert sum(slices for _, slices in together) > 60


async def test_a_cancelled_call_frees_its_memory_before_it_leaves(core: NanoCore) -> None:
    stall(core)
    listener = Listener()
    request = Request("c", ask(max_tokens=400, min_tokens=400), listener, is_streamed=True)
    task = asyncio.create_task(core.run(request, None))
    await listener.heard.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert core.statistics()["kv_sequences"] == 0
    assert core.statistics()["decoding"] == 0


async def test_a_listener_that_breaks_breaks_its_own_call_only(core: NanoCore) -> None:
    def broken(chunk: Chunk) -> None:
        raise RuntimeError("no ear")

    args = ask(min_tokens=20)
    bad = asyncio.create_task(core.run(Request("bad", args, broken, is_streamed=True), None))
    good, _ = await finish(core, args)
    with pytest.raises(RuntimeError, match="no ear"):
        await bad
    assert good.usage.completion_tokens == 20


async def test_a_dropped_snapshot_frees_its_memory_and_is_not_resumed(core: NanoCore) -> None:
    outcome = await core.run(Request("c", ask(min_tokens=20), Listener()), 3)
    assert isinstance(outcome, Suspended)
    core.drop(outcome.snapshot)
    with pytest.raises(ModuleFault, match="dropped"):
        await core.run(Request("c", ask(), Listener(), outcome.snapshot), 3)


def keeper(path: Path, *, ram: int = 1 << 26, disk: int = 0) -> ContextManager:
    swap = Swap(path / "swap", disk)
    manager = ContextManager(swap, ram_bytes=ram, now=lambda: 0.0)
    manager.open()
    return manager


async def test_suspended_calls_make_room_for_new_ones_and_go_on_with_the_same_bytes(
    folder: Path, tmp_path: Path
) -> None:
    """The pool holds one sequence; three are interrupted again and again, so two are always moved aside."""
    core = NanoCore(folder=folder, slots=1, kv_bytes=340_000)
    core.contexts = keeper(tmp_path)
    await core.open()
    assert core.slots == 1
    wanted = [ask("a" * 30 * (2 + n), seed=n, temperature=0.8, max_tokens=220, min_tokens=220) for n in range(3)]
    alone = [(await finish(core, args))[0] for args in wanted]
    snapshots: list[Any] = [None] * 3
    answers: dict[int, Generation] = {}
    while len(answers) < 3:
        for n, args in enumerate(wanted):
            assert core.can_take(snapshots[n])
            outcome = await core.run(Request(str(n), args, Listener(), snapshots[n]), 37)
            if isinstance(outcome, Suspended):
                snapshots[n] = outcome.snapshot
            else:
                answers[n] = outcome
        if not answers:
            assert core.statistics()["suspended_ram"] == 2
            assert core.statistics()["kv_reserved_bytes"] <= 340_000
    assert [lasting(answers[n]) for n in range(3)] == list(map(lasting, alone))
    assert core.statistics()["suspended_ram_bytes"] == core.statistics()["kv_reserved_bytes"] == 0
    await core.close()


async def test_new_calls_wait_when_there_is_no_room_left_for_suspended_ones(folder: Path, tmp_path: Path) -> None:
    core = NanoCore(folder=folder, slots=1, kv_bytes=400_000)
    core.contexts = keeper(tmp_path, ram=200_000)
    await core.open()
    args = ask(max_tokens=300, min_tokens=300)  # 196608 bytes each; a sequence of full length takes 262144
    snapshots = []
    for n in range(2):
        assert core.can_take(None)
        outcome = await core.run(Request(str(n), args, Listener()), 3)
        assert isinstance(outcome, Suspended)
        snapshots.append(outcome.snapshot)
    assert not core.can_take(None)
    assert all(map(core.can_take, snapshots))
    answer = await core.run(Request("0", args, Listener(), snapshots[0]), None)
    assert isinstance(answer, Generation)
    assert core.can_take(None)
    assert not core.can_take(None, active=2), "a call with a slot that has not begun may need as much"
    core.drop(snapshots[1])
    assert core.statistics()["suspended_pool"] == core.statistics()["kv_sequences"] == 0
    await core.close()


async def test_a_wide_search_moved_aside_waits_for_the_room_that_another_one_holds(
    folder: Path, tmp_path: Path
) -> None:
    """Two slots have room for two lines of full length, and each search has three lines of half of it."""
    core = NanoCore(folder=folder, slots=2, kv_bytes=2 * 262_144)
    core.contexts = keeper(tmp_path)
    await core.open()
    asked = [ask("a" * 200 + str(n), beam_width=3, min_tokens=20) for n in range(2)]
    alone = [(await finish(core, args))[0] for args in asked]
    begun = [await core.run(Request(str(n), args, Listener()), 6) for n, args in enumerate(asked)]
    assert core.statistics()["suspended_ram"] == 1

    async def go_on(number: int) -> Generation:
        outcome = begun[number]
        while isinstance(outcome, Suspended):
            outcome = await core.run(Request(str(number), asked[number], Listener(), outcome.snapshot), 6)
        return outcome

    together = await asyncio.gather(go_on(1), go_on(0))
    assert list(map(lasting, together)) == [lasting(alone[1]), lasting(alone[0])]
    assert core.statistics()["kv_reserved_bytes"] == 0
    await core.close()


async def test_a_generation_moved_aside_can_be_dropped(folder: Path, tmp_path: Path) -> None:
    core = NanoCore(folder=folder, slots=1, kv_bytes=300_000)
    core.contexts = keeper(tmp_path)
    await core.open()
    args = ask(max_tokens=300, min_tokens=300)
    first, second = [await core.run(Request(id, args, Listener()), 3) for id in "ab"]
    assert isinstance(first, Suspended)
    assert isinstance(second, Suspended)
    assert core.statistics()["suspended_ram"] == 1
    core.drop(first.snapshot)
    assert core.statistics()["suspended_ram_bytes"] == 0
    with pytest.raises(ModuleFault, match="dropped"):
        await core.run(Request("a", args, Listener(), first.snapshot), 3)
    core.drop(second.snapshot)
    assert core.statistics()["kv_reserved_bytes"] == 0
    await core.close()


async def test_a_paused_process_holds_no_core(folder: Path) -> None:
    core = NanoCore(folder=folder, slots=8, kv_bytes=300_000)
    args = ask(temperature=0.8, max_tokens=250, min_tokens=250)
    async with booted(cores={"nano": core}, policy="rr", quantum=4) as kernel:
        assert core.slots == 1
        admin = principal(kernel, "admin", is_admin=True)
        alone = await kernel.call(admin, "llm_generate", args)
        spawned = await kernel.call(admin, "proc_spawn", ProcSpawn(agent="ann"))
        listener = Listener()
        paused = kernel.submit(kernel.authenticate(spawned.key), "llm_generate", args, on_chunk=listener)
        await listener.heard.wait()
        await kernel.call(admin, "proc_signal", ProcSignal(pid=spawned.pid, signal="stop"))
        async with asyncio.timeout(60):  # a core that is held would let this wait for ever
            assert await kernel.call(admin, "llm_generate", args) == alone
        assert paused.state is State.BLOCKED
        await kernel.call(admin, "proc_signal", ProcSignal(pid=spawned.pid, signal="cont"))
        assert await kernel.wait(paused) == alone


async def test_there_are_no_more_slots_than_memory_can_fill(folder: Path) -> None:
    core = NanoCore(folder=folder, slots=8, kv_bytes=1_000_000)
    await core.open()
    assert core.slots == 3
    await core.close()


async def test_memory_for_not_even_one_sequence_is_refused_at_the_start(folder: Path) -> None:
    with pytest.raises(ModuleFault, match="at least"):
        await NanoCore(folder=folder, kv_bytes=1000).open()


async def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModuleFault, match=str(tmp_path)):
        await NanoCore(folder=tmp_path).open()


async def test_in_a_kernel_round_robin_on_two_slots_changes_no_byte(folder: Path) -> None:
    """Sixteen agents, quantum 4, two slots, temperature 0.8: what each says alone under fifo."""
    wanted = [
        ask(f"agent {n} " + "x" * n * 7, seed=n, temperature=0.8, min_tokens=64, max_tokens=80) for n in range(16)
    ]

    async def said(policy: str, slots: int, *, together: bool) -> tuple[list[Generation], int]:
        core = NanoCore(folder=folder, slots=slots, kv_bytes=1 << 26)
        async with booted(cores={"nano": core}, policy=policy, quantum=4) as kernel:
            agents = [principal(kernel, f"agent{n}") for n in range(len(wanted))]
            calls = [
                functools.partial(kernel.call, who, "llm_generate", args)
                for who, args in zip(agents, wanted, strict=True)
            ]
            answers = await asyncio.gather(*(c() for c in calls)) if together else [await c() for c in calls]
            assert core.statistics()["kv_sequences"] == 0
            return answers, sum(process.num_switches for process in kernel.processes.list(ended=True))

    alone, none = await said("fifo", 1, together=False)
    shared, switches = await said("rr", 2, together=True)
    assert none == 0
    assert switches >= 100
    assert list(map(lasting, shared)) == list(map(lasting, alone))
    assert all(answer.usage.completion_tokens >= 64 for answer in shared)


# ── tools and schemas ──


async def test_a_required_call_comes_as_a_tool_call_that_fits_the_schema(core: NanoCore) -> None:
    args = ask(tools=[WEATHER], tool_choice="required", temperature=1.0, max_tokens=200)
    listener = Listener()
    answer, _ = await finish(core, args, quantum=3, listener=listener)
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    (call,) = answer.message.tool_calls or []
    assert call.function.name == "weather"
    assert isinstance(json.loads(call.function.arguments)["days"], int)
    (delta,) = listener.chunks[-1].tool_calls or []
    assert (delta.index, delta.id) == (0, call.id)
    assert listener.text == ""
    again, _ = await finish(core, args, id="another id")
    assert again.message == answer.message


async def test_a_named_tool_is_the_only_one_called(core: NanoCore) -> None:
    other = ToolSpec(FunctionSpec("other", parameters={"type": "object", "properties": {}}))
    choice = {"type": "function", "function": {"name": "other"}}
    answer, _ = await finish(core, ask(tools=[WEATHER, other], tool_choice=choice, temperature=1.0, max_tokens=99))
    (call,) = answer.message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("other", "{}")


async def test_with_tool_choice_none_no_tool_is_called(core: NanoCore) -> None:
    bias = {str(tiny_model.TOKENIZER.special["<|call|>"]): 100.0}
    plain = ToolSpec(FunctionSpec("plain", parameters={"type": "object", "properties": {}}))
    called, _ = await finish(core, ask(tools=[plain], logit_bias=bias, max_tokens=99))
    free, _ = await finish(core, ask(tools=[plain], logit_bias=bias, tool_choice="none"))
    assert called.message.tool_calls
    assert free.message.tool_calls is None


async def test_an_unconstrained_call_that_is_no_json_stays_visible_as_text(core: NanoCore) -> None:
    loose = ToolSpec(FunctionSpec("weather", strict=False))
    listener = Listener()
    answer, _ = await finish(core, ask(tools=[loose], tool_choice="required"), listener=listener)
    assert answer.message.tool_calls is None
    assert answer.message.content
    assert listener.text == answer.message.content


async def test_a_json_schema_is_followed(core: NanoCore) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    answer, _ = await finish(core, ask(response_format=wanted, temperature=1.0, max_tokens=100))
    assert answer.message.content in ('{"ok":true}', '{"ok":false}')
    assert answer.finish_reason == "stop"


async def test_stop_strings_are_left_out_and_end_the_answer(core: NanoCore) -> None:
    whole, _ = await finish(core, ask(temperature=1.0, min_tokens=20))
    text = whole.message.text()
    stop = text[5:7]
    listener = Listener()
    cut, _ = await finish(core, ask(temperature=1.0, stop=[stop]), listener=listener)
    assert cut.message.content == text[: text.index(stop)] == listener.text
    assert cut.finish_reason == "stop"


# ── bad input ──


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tool_choice": "required"}, "no tools"),
        ({"tools": [WEATHER], "tool_choice": {"function": {"name": "wether"}}}, "did you mean 'weather'"),
        ({"tools": [WEATHER], "tool_choice": {}}, "must be"),
        ({"tools": [WEATHER, WEATHER]}, r"tools\[1\].function.name is 'weather', and so is that of tools\[0\]"),
        ({"response_format": {"type": "xml"}}, "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "schema is missing"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "http://x/y"}}}}, "inside it"),
        ({"stop": ""}, "stop string"),
        ({"stop": ["a" * 5000]}, "stop string"),
        ({"min_tokens": 21}, "min_tokens"),
        ({"top_logprobs": 3}, "logprobs"),
        ({"logit_bias": {"x": 1.0}}, "logit_bias"),
        ({"logit_bias": {"99999": 1.0}}, "logit_bias"),
    ],
)
async def test_what_can_never_be_answered_is_refused_before_it_waits(
    core: NanoCore, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadRequest, match=words):
        core.check(ask(**more))


def function(name: str) -> ToolSpec:
    return ToolSpec(FunctionSpec(name))


@pytest.mark.parametrize("name", ["", "get.weather", "two words", "x" * 65, "wetter für morgen", "a\n", "天气"])
async def test_a_name_that_no_function_may_have_is_told_with_its_place_and_what_to_do(
    core: NanoCore, name: str
) -> None:
    with pytest.raises(BadRequest, match=r"tools\[1\].function.name is .* must be 1 to 64 of a-z") as caught:
        core.check(ask(tools=[WEATHER, function(name)]))
    assert (caught.value.param, caught.value.code) == ("tools[1].function.name", "bad_tool_name")
    if name:
        better = caught.value.message.rpartition("; call it '")[2].rstrip("'")
        core.check(ask(tools=[WEATHER, function(better)]))


async def test_the_second_of_two_functions_of_one_name_is_told_though_none_may_be_called(core: NanoCore) -> None:
    with pytest.raises(BadRequest, match=r"and so is that of tools\[0\]; give each") as caught:
        core.check(ask(tools=[WEATHER, function("x" * 64), WEATHER], tool_choice="none"))
    assert caught.value.param == "tools[2].function.name"


async def test_pictures_are_refused(core: NanoCore) -> None:
    with pytest.raises(BadRequest, match="image_url"):
        core.check(LLMGenerate(messages=[Message("user", [{"type": "image_url", "image_url": {}}])]))


@pytest.mark.parametrize("more", [{"text": "x" * 600}, {"text": "x" * 1_000_000}, {"text": "hi", "max_tokens": 511}])
async def test_what_does_not_fit_the_window_is_refused_with_the_counts(core: NanoCore, more: dict[str, Any]) -> None:
    with pytest.raises(ContextLengthExceeded, match="512 tokens"):
        await core.run(Request("c", ask(**more), Listener()), None)


async def test_a_schema_that_cannot_be_followed_is_the_agents_fault(core: NanoCore) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": {"type": "strin"}}}
    with pytest.raises(BadRequest, match="strin"):
        await core.run(Request("c", ask(response_format=wanted), Listener()), None)


async def test_calls_under_way_fail_when_the_core_closes(folder: Path) -> None:
    core = NanoCore(folder=folder, kv_bytes=1 << 26)
    await core.open()
    stall(core)
    listener = Listener()
    request = Request("c", ask(max_tokens=400, min_tokens=400), listener, is_streamed=True)
    task = asyncio.create_task(core.run(request, None))
    await listener.heard.wait()
    await core.close()
    with pytest.raises(ModuleFault):
        await task


async def test_the_benchmark_measures_all_it_promises(folder: Path) -> None:
    found = await nano.measure(rounds=1, tokens=2, folder=folder)
    assert set(found["speed"]) == {"bare, unpadded", "bare", "engine", "kernel", "kernel, streamed"}
    assert all(set(by_batch) == {1, 8, 32} for by_batch in found["speed"].values())
    assert len(found["ratios"]) == 5


async def test_a_beam_search_interrupted_after_every_few_tokens_says_what_it_says_alone(core: NanoCore) -> None:
    args = ask(beam_width=3, max_tokens=24, logprobs=True, top_logprobs=1)
    alone = await core.run(Request("a", args, Listener(), is_streamed=True), None)
    assert isinstance(alone, Generation)
    listener, outcome, slices = Listener(), None, 0
    while not isinstance(outcome, Generation):
        snapshot = None if outcome is None else outcome.snapshot
        outcome = await core.run(Request("b", args, listener, snapshot, is_streamed=True), 5)
        slices += 1
    assert slices > 5
    assert outcome.message == alone.message
    assert outcome.logprobs == alone.logprobs
    assert listener.text == alone.message.text()


async def test_a_beam_search_that_could_never_fit_is_refused_with_the_numbers(folder: Path) -> None:
    core = NanoCore(folder=folder, kv_bytes=1 << 19)
    await core.open()
    with pytest.raises(BadRequest, match="lower beam_width or max_tokens"):
        await core.run(Request("a", ask(beam_width=16, max_tokens=400), Listener()), None)
    with pytest.raises(BadRequest, match="draws nothing"):
        core.check(ask(beam_width=2, temperature=0.5))
    await core.close()


async def test_a_prompt_that_begins_like_an_earlier_one_says_how_much_it_did_not_compute(core: NanoCore) -> None:
    first = await core.run(Request("a", ask("x" * 200), Listener()), None)
    second = await core.run(Request("b", ask("x" * 200), Listener()), None)
    apart = await core.run(Request("c", ask("x" * 200, cache_salt="mine"), Listener()), None)
    assert isinstance(first, Generation)
    assert isinstance(second, Generation)
    assert isinstance(apart, Generation)
    cached = [done.usage.prompt_tokens_details.cached_tokens for done in (first, second, apart)]
    assert cached[0] == cached[2] == 0
    assert cached[1] == (first.usage.prompt_tokens - 1) // 64 * 64 > 0
    assert first.message == second.message == apart.message


# ── half an answer of another core ──


@pytest.mark.parametrize("quantum", [None, 3])
async def test_what_another_core_has_said_is_gone_on_with(core: NanoCore, quantum: int | None) -> None:
    args, said = ask(max_tokens=40), Said("Well, hello", 4)
    whole, _ = await finish(core, args)
    assert core.can_continue(args, said)
    listener = Listener()
    outcome = await core.run(Request("r", args, listener, is_streamed=True, said=said), quantum)
    while isinstance(outcome, Suspended):
        outcome = await core.run(Request("r", args, listener, outcome.snapshot, is_streamed=True), quantum)
    assert outcome.message.text() == said.text + listener.text
    assert len(listener.text) > 1
    assert outcome.usage.prompt_tokens == whole.usage.prompt_tokens
    assert 11 < outcome.usage.completion_tokens <= 40


async def test_what_text_cannot_hold_is_not_gone_on_with(core: NanoCore) -> None:
    said = Said("one two", 2)
    assert core.can_continue(ask(), said)
    assert core.can_continue(ask(response_format={"type": "json_object"}), Said("", 0))
    assert core.can_continue(ask(stop="xyz"), said)
    for more in ({"response_format": {"type": "json_object"}}, {"logprobs": True}, {"beam_width": 2}, {"stop": "o me"}):
        assert not core.can_continue(ask(**more), said)

"""Runtime memory: what a process said is kept when it asks for that, and told again when it fits a question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from aios.abi import calls as abi
from aios.abi.errors import ModuleFault
from aios.abi.messages import Generation, Message
from aios.kernel import Kernel
from aios.kernel.config import Config, MemorySection
from aios.kernel.process import Principal
from aios.testing import ScriptedCore, booted, principal, tool_call

pytestmark = pytest.mark.anyio

QUESTION = "which colour does the lighthouse have"


def ask(text: str, memory: Any = "auto", **more: Any) -> abi.LLMGenerate:
    return abi.LLMGenerate(messages=[Message("system", "be kind"), Message("user", text)], memory=memory, **more)


async def generate(kernel: Kernel, who: Principal, args: abi.LLMGenerate, key: str | None = None) -> Generation:
    answer: Generation = await kernel.call(who, "llm_generate", args, key=key)
    return answer


async def entries(kernel: Kernel, who: Principal) -> list[abi.Entry]:
    found: abi.Entries = await kernel.call(who, "mem_list", abi.MemList())
    return found.entries[::-1]


async def test_an_exchange_is_kept_and_told_when_it_fits_and_the_answer_says_what_was_told() -> None:
    core = ScriptedCore("noted")
    async with booted(cores=[core]) as kernel:
        who = principal(kernel, "a")
        first = await generate(kernel, who, ask("the lighthouse is red and white"))
        assert first.memory is not None
        assert first.memory.recalled == []
        kept = await entries(kernel, who)
        assert [(e.kind, e.content, e.metadata["role"]) for e in kept] == [
            ("dialogue", "the lighthouse is red and white", "user"),
            ("dialogue", "noted", "assistant"),
        ]
        second = await generate(kernel, who, ask(QUESTION))
        assert second.memory is not None
        assert kept[0].id in second.memory.recalled
        assert second.memory.tokens > 0
        assert "user said: the lighthouse is red and white" in core.seen[1].messages[1].text()
        assert core.seen[1].messages[1].text().endswith(QUESTION)
        assert core.seen[1].messages[0].text() == "be kind"


async def test_what_was_recalled_is_not_kept_as_if_the_agent_had_said_it() -> None:
    async with booted() as kernel:
        who = principal(kernel, "a")
        await kernel.call(who, "mem_write", abi.MemWrite(content="the lighthouse is red"))
        await generate(kernel, who, ask(QUESTION))
        assert [e.content for e in await entries(kernel, who)][1] == QUESTION


async def test_without_asking_for_it_nothing_is_kept_and_nothing_told() -> None:
    core = ScriptedCore()
    async with booted(cores=[core]) as kernel:
        who = principal(kernel, "a")
        await kernel.call(who, "mem_write", abi.MemWrite(content="the lighthouse is red"))
        for memory in (None, "off"):
            answer = await generate(kernel, who, ask(QUESTION, memory))
            assert answer.memory is None
        assert core.seen[0].messages[1].text() == QUESTION
        assert len(await entries(kernel, who)) == 1


async def test_an_agent_is_told_nothing_of_anothers_memory() -> None:
    core = ScriptedCore()
    async with booted(cores=[core]) as kernel:
        await generate(kernel, principal(kernel, "a"), ask("the lighthouse is red"))
        answer = await generate(kernel, principal(kernel, "b"), ask(QUESTION))
        assert answer.memory is not None
        assert answer.memory.recalled == []


async def test_tool_calls_and_their_results_are_kept() -> None:
    call = tool_call("add", a=1)
    async with booted(cores=[ScriptedCore([call, "it is 2"])]) as kernel:
        who = principal(kernel, "a")
        before = [Message("user", "what is 1 + 1?")]
        answer = await generate(kernel, who, abi.LLMGenerate(messages=before, memory="auto"))
        more = [*before, answer.message, Message("tool", "2", tool_call_id="call_1")]
        await generate(kernel, who, abi.LLMGenerate(messages=more, memory="auto"))
        kept = [(e.kind, e.content) for e in await entries(kernel, who)]
        assert kept == [
            ("dialogue", "what is 1 + 1?"),
            ("tool_call", 'add({"a":1})'),
            ("observation", "2"),
            ("dialogue", "it is 2"),
        ]


async def test_a_process_or_the_configuration_may_ask_for_it_and_a_call_overrules() -> None:
    auto = msgspec.structs.replace(Config(), memory=MemorySection(auto=True))
    async with booted(config=auto) as kernel:
        who = principal(kernel, "a")
        assert (await generate(kernel, who, ask("hello", None))).memory is not None
        assert (await generate(kernel, who, ask("hello", "off"))).memory is None
    async with booted() as kernel:
        spawn = abi.ProcSpawn(agent="a", memory="auto")
        spawned = await kernel.call(principal(kernel, is_admin=True), "proc_spawn", spawn)
        assert (await generate(kernel, kernel.authenticate(spawned.key), ask("hello", None))).memory is not None


async def test_it_outlives_the_kernel(tmp_path: Path) -> None:
    core = ScriptedCore()
    async with booted(home=tmp_path) as kernel:
        _, key = kernel.access.mint(owner="o", agent="a")
        await generate(kernel, kernel.authenticate(key), ask("the lighthouse is red"), key="k")
    async with booted(cores=[core], home=tmp_path) as kernel:
        await generate(kernel, kernel.authenticate(key), ask(QUESTION))
        assert "the lighthouse is red" in core.seen[0].messages[1].text()


async def test_an_answer_that_is_repeated_for_its_key_is_kept_once() -> None:
    async with booted() as kernel:
        who = principal(kernel, "a")
        for _ in range(2):
            await generate(kernel, who, ask("once"), key="k")
        assert len(await entries(kernel, who)) == 2


async def test_a_generation_that_fails_is_not_kept() -> None:
    async with booted(cores=[ScriptedCore(ModuleFault("broken"))]) as kernel:
        who = principal(kernel, "a")
        with pytest.raises(ModuleFault):
            await generate(kernel, who, ask("hello"))
        assert await entries(kernel, who) == []


async def test_a_memory_that_cannot_be_asked_keeps_nobody_from_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with booted() as kernel:

        async def broken(whose: Any, args: Any) -> abi.Entries:
            raise ModuleFault("the index is damaged")

        monkeypatch.setattr(kernel.memory, "_search", broken)
        answer = await generate(kernel, principal(kernel, "a"), ask("hello"))
        assert answer.memory is not None
        assert answer.memory.is_failed


NOTES = {
    "notes": [{"content": "Ann's door code is 4712.", "tags": ["door", "ann"], "importance": 0.9}],
    "links": [],
    "merged": [],
}


async def test_a_model_makes_notes_links_and_merges_and_the_history_has_what_was() -> None:
    script: list[Any] = []
    core = ScriptedCore(lambda args: script.pop(0))
    async with booted(cores=[core]) as kernel:
        who = principal(kernel, "a")
        old = (await kernel.call(who, "mem_write", abi.MemWrite(content="The door code of Ann is 4711."))).id
        merged = [{"id": old, "content": "The door code of Ann was 4711; it is 4712 now."}]
        script.append(msgspec.json.encode({**NOTES, "links": [old], "merged": merged}).decode())
        text = "Ann told me that her door code has changed: it is 4712."
        made = await kernel.call(who, "mem_write", abi.MemWrite(content=text, distil=True))
        kept = {e.id: e for e in await entries(kernel, who)}
        assert kept[made.id].content == text
        assert kept[made.id].metadata == {"links": [old]}
        note, changed = made.derived
        assert (kept[note].kind, kept[note].content) == ("fact", "Ann's door code is 4712.")
        assert kept[note].metadata == {"of": made.id, "tags": ["door", "ann"]}
        assert kept[note].importance == 0.9
        assert changed == old
        assert kept[old].content == merged[0]["content"]
        (was,) = (await kernel.call(who, "mem_history", abi.MemHistory(id=old))).entries
        assert was.content == "The door code of Ann is 4711."
        schema = core.seen[0].response_format
        assert schema is not None
        assert schema["json_schema"]["schema"]["properties"]["links"]["items"]["enum"] == [old]


@pytest.mark.parametrize("answer", ["no JSON", '{"notes": "many"}', ModuleFault("broken")])
async def test_a_model_that_makes_nothing_useful_costs_the_notes_never_the_text(answer: Any) -> None:
    async with booted(cores=[ScriptedCore(answer)]) as kernel:
        who = principal(kernel, "a")
        made = await kernel.call(who, "mem_write", abi.MemWrite(content="a text", distil=True))
        assert made.derived == []
        assert "no notes were made" in made.problem
        assert [e.content for e in await entries(kernel, who)] == ["a text"]


async def test_a_model_can_change_no_entry_that_it_was_not_shown() -> None:
    script: list[Any] = []
    async with booted(cores=[ScriptedCore(lambda args: script.pop(0))]) as kernel:
        who, other = principal(kernel, "a"), principal(kernel, "b")
        theirs = (await kernel.call(other, "mem_write", abi.MemWrite(content="the safe is blue"))).id
        merged = [{"id": theirs, "content": "the safe is mine"}]
        script.append(msgspec.json.encode({**NOTES, "merged": merged}).decode())
        await kernel.call(who, "mem_write", abi.MemWrite(content="the safe is blue, too", distil=True))
        assert [e.content for e in await entries(kernel, other)] == ["the safe is blue"]


async def test_a_call_that_is_cancelled_while_memory_is_asked_ends_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with booted(cores=[ScriptedCore(tokens=50)]) as kernel:
        core = next(iter(kernel.cores._roster)).core
        core.gate.clear()
        who = principal(kernel, "a")
        call = kernel.submit(who, "mem_write", abi.MemWrite(content="a text", distil=True))
        await core.entered(1)
        assert call.why == "a model makes notes of it"
        kernel.cancel(call)
        core.gate.set()
        assert call.state.value == "cancelled"
    assert await_nothing_left(kernel)


def await_nothing_left(kernel: Kernel) -> bool:
    return not len(kernel.preparation)

"""`tool_list` and `tool_run`: what runs when, what a caller is told. Tools here run in the test's own process."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

import pytest
from tool_world import World

from aios.abi.calls import Effect
from aios.abi.errors import Cancelled, Conflict, ModuleFault, NotFound, TimedOut
from aios.abi.tools import ToolManifest
from aios.kernel.process import Process
from aios.kernel.tool import trusted
from aios.kernel.tool.base import MAX_RESULT, Caller
from aios.testing import until


def go(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


class Gate:
    """A tool that lets nobody out until `open`ed."""

    def __init__(self) -> None:
        self.inside: list[Any] = []
        self.most = 0
        self._event = asyncio.Event()

    def open(self) -> None:
        self._event.set()

    async def __call__(self, caller: Caller, arguments: Mapping[str, Any]) -> str:
        self.inside.append(arguments)
        self.most = max(self.most, len(self.inside))
        try:
            await self._event.wait()
            await asyncio.sleep(0)
        finally:
            self.inside.remove(arguments)
        return "out"


ANY: dict[str, Any] = {"type": "object"}


def test_built_in_tools_work_on_the_callers_own_data() -> None:
    async def story() -> None:
        world = World()
        assert (await world.run("calculator", expression="6*7")).content == "42"
        assert (await world.run("convert", value=1, from_unit="km", to_unit="m")).content == "1000 m"
        assert (await world.run("date_add", date="2024-02-28", days=2)).content == "2024-03-01"
        assert (await world.run("read_file", path="rivers.txt")).content.startswith("the Ob")
        assert (await world.run("read_file", path="rivers.txt", query="short river Po")).content == "the Po is short"
        nothing = await world.run("read_file", path="rivers.txt", query="Don")
        assert nothing.content == "error: nothing found for 'Don'"
        assert (await world.run("search_notes", query="short river Po")).content == "the Po is short"
        assert (await world.run("remember", content="the key is red")).content == "remembered"
        assert (await world.run("recall", query="key")).content == "the key is red"
        stranger = Process(2, "b", "o")
        assert (await world.run("recall", stranger, query="key")).is_error
        assert (await world.run("read_file", stranger, path="rivers.txt")).is_error
        world.check()

    go(story())


def test_a_search_in_more_than_it_reads_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        world = World()
        world.files.is_all = False
        assert (await world.run("search_notes", query="Po")).content == f"the Po is short\n{trusted.NOT_ALL}"
        nothing = await world.run("search_notes", query="Don")
        assert nothing.content == f"error: nothing found for 'Don' {trusted.NOT_ALL}"
        world.files.is_all = True
        monkeypatch.setattr(trusted, "MAX_LINES", 1)
        assert (await world.run("search_notes", query="river long")).content == f"the Ob is long\n{trusted.NOT_ALL}"
        for fact in ("old key", "new key"):
            await world.run("remember", content=fact)
        assert (await world.run("recall", query="key")).content == f"new key\n{trusted.NOT_ALL}"

    go(story())


def test_a_missing_file_is_compared_with_no_more_names_than_a_moment_allows() -> None:
    known = ["a" * 1000, *("b" * 100 for _ in range(1000))]
    near = trusted._comparable("c" * 100, known)
    assert near == ["b" * 100] * (trusted.MAX_STEPS // 10_000)
    assert trusted._comparable("notes.txt", ["a.txt", "b.txt"]) == ["a.txt", "b.txt"]


def test_what_a_tool_could_not_do_is_told_to_the_model_and_the_call_is_done() -> None:
    async def story() -> None:
        world = World()
        world.tools.add(ToolManifest(name="raises"), lambda *_: [][0])
        result = await world.run("calculator", expression="1/0")
        assert (result.content, result.is_error) == ("error: division by zero", True)
        missing = await world.run("read_file", path="river.txt")
        assert missing.content == "error: no file called 'river.txt'; nearest: 'rivers.txt'"
        assert (await world.run("raises")).content == "error: IndexError: list index out of range"
        assert [call.state.value for call in world.ended] == ["done"] * 3

    go(story())


def test_a_bug_in_a_trusted_tool_fails_its_call_and_nothing_else() -> None:
    async def story() -> None:
        world = World()
        world.tools.add(ToolManifest(name="buggy"), lambda *_: None + 1)
        with pytest.raises(ModuleFault, match="TypeError"):
            await world.run("buggy")
        assert (await world.run("calculator", expression="1")).content == "1"
        world.check()

    go(story())


def test_an_unknown_tool_is_not_found_and_the_nearest_is_named() -> None:
    with pytest.raises(NotFound, match="did you mean 'calculator'") as caught:
        World().call("calculater", expression="1")
    assert caught.value.param == "name"
    with pytest.raises(NotFound, match="there are: calculator, convert"):
        World().call("zzz")


def test_a_name_is_given_once() -> None:
    with pytest.raises(Conflict, match="'calculator' already"):
        World().tools.add(ToolManifest(name="calculator"), lambda *_: 1)


def test_tools_are_listed_by_the_words_of_a_query_best_first() -> None:
    async def story() -> None:
        world = World()
        assert (await world.list())[:3] == ["calculator", "convert", "date_add"]
        assert (await world.list("date"))[0] == "date_add"
        assert await world.list("xylophone") == []

    go(story())


def test_a_busy_tool_holds_up_only_its_own_calls() -> None:
    async def story() -> None:
        world, gate = World(), Gate()
        world.tools.add(ToolManifest(name="one", parameters=ANY), gate)
        waiting = [world.push("one", n=n) for n in range(1000)]
        await until(lambda: gate.inside)
        for n in range(50):
            assert (await world.run("calculator", expression=f"{n}+1")).content == str(n + 1)
        assert len(gate.inside) == 1
        assert [call.state.value for call in waiting[:2]] == ["running", "queued"]
        gate.open()
        await until(lambda: all(call.state.value == "done" for call in waiting))
        assert gate.most == 1
        order = [call.id for call in world.ended if call.args.name == "one"]
        assert order == [call.id for call in waiting]
        world.check()

    go(story())


def test_instances_are_never_more_than_the_manifest_allows() -> None:
    async def story() -> None:
        world = World(policy="rr")
        gates = {f"t{n}": Gate() for n in range(1, 4)}
        for n, (name, gate) in enumerate(gates.items(), 1):
            world.tools.add(ToolManifest(name=name, parameters=ANY, max_instances=n), gate)
        for round in range(30):
            for name in gates:
                world.push(name, Process(round + 1, "a", "o"), round=round)
        await until(lambda: sum(len(gate.inside) for gate in gates.values()) == 6)
        for gate in gates.values():
            gate.open()
        await until(lambda: len(world.ended) == 90)
        assert [gate.most for gate in gates.values()] == [1, 2, 3]
        world.check()

    go(story())


def test_a_tool_past_its_timeout_is_ended_and_its_instance_is_free() -> None:
    async def story() -> None:
        world, gate = World(), Gate()
        world.tools.add(ToolManifest(name="slow", parameters=ANY, timeout=5), gate)
        first, second = world.push("slow", n=1), world.push("slow", n=2)
        await until(lambda: gate.inside)
        world.mock.advance(4.9)
        await until(lambda: world.mock.num_timers == 1)
        assert first.state.value == "running"
        world.mock.advance(0.2)
        await until(lambda: second.state.value == "running")
        assert isinstance(first.error, TimedOut)
        assert "not done after 5 s" in first.error.message
        gate.open()
        await until(lambda: second.state.value == "done")
        assert world.mock.num_timers == 0
        world.check()

    go(story())


def test_a_cancelled_run_ends_cancelled_even_when_its_deadline_passes_too() -> None:
    async def story() -> None:
        world, gate = World(), Gate()
        world.tools.add(ToolManifest(name="slow", parameters=ANY, timeout=5), gate)
        call = world.push("slow", n=1)
        await until(lambda: gate.inside)
        world.queue.abort(call, Cancelled("no more"))
        world.mock.advance(6)
        await until(lambda: call.state.value == "cancelled")
        assert gate.inside == []
        world.check()

    go(story())


def test_a_result_is_text_with_its_data_beside_it_and_is_cut_when_huge() -> None:
    async def story() -> None:
        world = World()
        values: dict[str, Any] = {
            "map": {"a": [1, 2.5, None]},
            "none": None,
            "huge": "x" * (MAX_RESULT + 10),
            "half": "a\ud800b",
        }
        for name, value in values.items():
            world.tools.add(ToolManifest(name=name), lambda *_, value=value: value)
        mapped = await world.run("map")
        assert (mapped.content, mapped.data) == ('{"a":[1,2.5,null]}', {"a": [1, 2.5, None]})
        assert (await world.run("none")).content == "done"
        huge = (await world.run("huge")).content
        assert huge.endswith("[cut: these are the first 1,048,576 of 1,048,586 characters]")
        assert (await world.run("half")).content == "a?b"

    go(story())


@pytest.mark.parametrize(
    ("effect", "is_idempotent", "expected"),
    [
        (Effect.PURE, False, False),
        (Effect.READ, False, False),
        (Effect.WRITE, False, True),
        (Effect.EGRESS, False, True),
        (Effect.IRREVERSIBLE, False, True),
        (Effect.IRREVERSIBLE, True, False),
    ],
)
def test_only_what_may_not_run_twice_has_a_side_effect(effect: Effect, is_idempotent: bool, expected: bool) -> None:
    world = World()
    world.tools.add(ToolManifest(name="t", effect=effect, is_idempotent=is_idempotent), lambda *_: "x")
    assert world.tools.side_effect(world.call("t")) is expected


def test_a_tool_that_nobody_knows_any_more_counts_as_having_a_side_effect() -> None:
    world = World()
    call = world.call("calculator", expression="1")
    call.args = type(call.args)(name="gone")
    assert world.tools.side_effect(call) is True
    assert world.tools.fits(call, "tools")

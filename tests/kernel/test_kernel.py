"""The kernel as a whole, on scripted cores and real rooms: a call's life, keys, signals, bounds, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aios.abi import calls as abi
from aios.abi.errors import (
    BadRequest,
    Cancelled,
    Conflict,
    CutShort,
    Denied,
    Full,
    NotFound,
    Stopping,
    TimedOut,
    Unauthorized,
)
from aios.abi.messages import Chunk, Message
from aios.kernel import Config, Kernel, State
from aios.kernel.config import Scheduler
from aios.kernel.control import MAX_CHILDREN
from aios.kernel.process import Principal, ProcessState
from aios.testing import MockClock, ScriptedCore, booted, principal, settle, until

pytestmark = pytest.mark.anyio


def ask(text: str = "hello", **more: Any) -> abi.LLMGenerate:
    return abi.LLMGenerate(messages=[Message(role="user", content=text)], **more)


async def test_a_call_is_answered_and_leaves_its_story_in_the_trace() -> None:
    async with booted(cores={"one": ScriptedCore("four words are said")}) as kernel:
        call = kernel.submit(principal(kernel), "llm_generate", ask())
        answer = await kernel.wait(call)
        assert answer.message.content == "four words are said"
        assert [row.state for row in kernel.trace.story(call.id)] == ["queued", "running", "done"]
        assert (call.process.num_calls, call.process.tokens_out, call.process.open_calls) == (1, 4, {})


async def test_the_kernel_draws_a_seed_when_the_agent_names_none_and_keeps_one_that_it_names() -> None:
    core = ScriptedCore()
    async with booted(cores={"one": core}) as kernel:
        who = principal(kernel)
        await kernel.call(who, "llm_generate", ask())
        await kernel.call(who, "llm_generate", ask(seed=7))
        assert core.seen[0].seed is not None
        assert core.seen[1].seed == 7


async def test_round_robin_interrupts_and_the_answer_is_whole() -> None:
    core = ScriptedCore("a", tokens=40, slots=1)
    core.gate.clear()
    async with booted(cores={"one": core}, policy="rr", quantum=4) as kernel:
        calls = [kernel.submit(principal(kernel, f"agent{n}"), "llm_generate", ask()) for n in range(3)]
        await until(lambda: len(kernel.queues["llm"].policy) == 2)
        core.gate.set()
        answers = [await kernel.wait(call) for call in calls]
        assert len({a.message.content for a in answers}) == 1
        assert all(call.num_switches >= 8 for call in calls)


async def test_a_repeated_call_with_the_same_key_joins_the_first_and_hears_it_from_the_start() -> None:
    core = ScriptedCore("one two three")
    core.gate.clear()
    async with booted(cores={"one": core}) as kernel:
        who, heard = principal(kernel), list[Chunk]()
        first = kernel.submit(who, "llm_generate", ask(), key="k")
        await core.entered(1)
        again = kernel.submit(who, "llm_generate", ask(), key="k", on_chunk=heard.append)
        assert again is first
        core.gate.set()
        await kernel.wait(again)
        assert "".join(chunk.text for chunk in heard) == "one two three"
        assert len(core.seen) == 1


async def test_a_keyed_call_that_is_done_answers_from_the_journal_also_after_a_restart(tmp_path: Path) -> None:
    core = ScriptedCore(["first", "second"])
    async with booted(cores={"one": core}, home=tmp_path) as kernel:
        first = await kernel.call(principal(kernel), "llm_generate", ask(), key="k")
        assert await kernel.call(principal(kernel), "llm_generate", ask(), key="k") == first
    async with booted(cores={"one": core}, home=tmp_path) as kernel:
        heard = list[Chunk]()
        again = await kernel.call(principal(kernel), "llm_generate", ask(), key="k", on_chunk=heard.append)
        assert again == first
        assert [chunk.text for chunk in heard] == ["first"]
    assert len(core.seen) == 1


async def test_the_same_key_with_another_body_is_a_conflict_and_another_agents_key_is_another_key() -> None:
    async with booted(cores={"one": ScriptedCore(["first", "second"])}) as kernel:
        ann = principal(kernel, "ann")
        await kernel.call(ann, "llm_generate", ask("a"), key="k")
        with pytest.raises(Conflict, match="another call or body"):
            kernel.submit(ann, "llm_generate", ask("b"), key="k")
        answer = await kernel.call(principal(kernel, "bob"), "llm_generate", ask("b"), key="k")
        assert answer.message.content == "second"


async def test_agents_of_two_owners_that_share_a_name_share_neither_keys_nor_processes() -> None:
    core = ScriptedCore()
    core.gate.clear()
    async with booted(cores={"one": core}) as kernel:
        ann, bob = (principal(kernel, "writer", owner=owner) for owner in ("ann", "bob"))
        calls = [kernel.submit(who, "llm_generate", ask(), key="k") for who in (ann, bob)]
        assert calls[0] is not calls[1]
        assert [kernel.visible(who) for who in (ann, bob)] == [[call.process] for call in calls]
        core.gate.set()
        await asyncio.gather(*map(kernel.wait, calls))


async def test_a_call_whose_waiter_is_cancelled_ends_and_frees_its_slot_unless_it_has_a_key() -> None:
    core = ScriptedCore(slots=2)
    core.gate.clear()
    async with booted(cores={"one": core}) as kernel:
        who = principal(kernel)
        plain, keyed = (kernel.submit(who, "llm_generate", ask(), key=key) for key in (None, "k"))
        await core.entered(2)
        for call in (plain, keyed):
            waiter = asyncio.create_task(kernel.wait(call))
            await settle()
            waiter.cancel()
        await settle()
        assert (plain.state, keyed.state) == (State.CANCELLED, State.RUNNING)
        assert core.inside == {keyed.id}
        core.gate.set()
        assert (await kernel.wait(keyed)).message.content == "ok"


async def test_a_call_that_is_not_done_in_time_fails_with_the_state_it_was_in() -> None:
    clock, core = MockClock(), ScriptedCore()
    core.gate.clear()
    async with booted(cores={"one": core}, clock=clock) as kernel:
        call = kernel.submit(principal(kernel), "llm_generate", ask(), timeout=5)
        await core.entered(1)
        clock.advance(5)
        with pytest.raises(TimedOut, match="not done after 5 s"):
            await kernel.wait(call)
        assert core.inside == set()


@pytest.mark.parametrize("asked", [None, 86_000.0])
async def test_no_call_is_given_more_time_than_the_configuration_allows(asked: float | None) -> None:
    clock, core = MockClock(), ScriptedCore()
    core.gate.clear()
    async with booted(cores={"one": core}, clock=clock, config=Config(scheduler=Scheduler(timeout=7))) as kernel:
        call = kernel.submit(principal(kernel), "llm_generate", ask(), timeout=asked)
        await core.entered(1)
        clock.advance(7)
        await settle()
        assert (call.state, core.inside) == (State.FAILED, set())
        with pytest.raises(TimedOut, match="not done after 7 s"):
            await kernel.wait(call)


async def test_killing_a_process_cancels_its_calls_and_revokes_its_key() -> None:
    core = ScriptedCore()
    core.gate.clear()
    async with booted(cores={"one": core}) as kernel:
        admin = principal(kernel, "admin", is_admin=True)
        spawned = await kernel.call(admin, "proc_spawn", abi.ProcSpawn(agent="ann"))
        ann = kernel.authenticate(spawned.key)
        call = kernel.submit(ann, "llm_generate", ask())
        await core.entered(1)
        await kernel.call(admin, "proc_signal", abi.ProcSignal(pid=spawned.pid, signal="kill"))
        with pytest.raises(Cancelled, match="process was killed"):
            await kernel.wait(call)
        assert core.inside == set()
        with pytest.raises(Unauthorized):
            kernel.authenticate(spawned.key)
        with pytest.raises(Denied, match="has ended"):
            kernel.submit(ann, "llm_generate", ask())


async def test_an_ended_process_can_be_neither_signalled_nor_reordered_and_the_error_says_so() -> None:
    async with booted() as kernel:
        admin = principal(kernel, "admin", is_admin=True)
        pid = (await kernel.call(admin, "proc_spawn", abi.ProcSpawn(agent="ann"))).pid
        await kernel.call(admin, "proc_signal", abi.ProcSignal(pid=pid, signal="exit", code=3))
        for signal in ("stop", "cont", "kill", "exit"):
            with pytest.raises(Conflict, match=f"process {pid} has ended with exit code 3") as caught:
                await kernel.call(admin, "proc_signal", abi.ProcSignal(pid=pid, signal=signal))
            assert (caught.value.status, caught.value.code, caught.value.param) == (409, "process_ended", "pid")
        with pytest.raises(Conflict, match="has ended"):
            await kernel.call(admin, "proc_nice", abi.ProcNice(pid=pid, nice=5))
        assert kernel.processes.get(pid).nice == 0
        assert (await kernel.call(admin, "proc_wait", abi.ProcWait(pid=pid))).exit_code == 3


async def test_a_process_that_exits_takes_its_calls_along_but_for_those_with_a_key() -> None:
    core = ScriptedCore()
    core.gate.clear()
    async with booted(cores={"one": core}) as kernel:
        admin = principal(kernel, "admin", is_admin=True)
        spawned = await kernel.call(admin, "proc_spawn", abi.ProcSpawn(agent="ann"))
        ann = kernel.authenticate(spawned.key)
        plain, keyed = (kernel.submit(ann, "llm_generate", ask(), key=key) for key in (None, "k"))
        await core.entered(2)
        await kernel.call(admin, "proc_signal", abi.ProcSignal(pid=spawned.pid, signal="exit", code=0))
        await settle()
        assert (plain.state, plain.error and plain.error.code) == (State.CANCELLED, "process_ended")
        assert core.inside == {keyed.id}
        core.gate.set()
        assert (await kernel.wait(keyed)).message.content == "ok"


async def test_a_stopped_process_waits_and_goes_on_when_continued() -> None:
    async with booted() as kernel:
        admin = principal(kernel, "admin", is_admin=True)
        spawned = await kernel.call(admin, "proc_spawn", abi.ProcSpawn(agent="ann"))
        await kernel.call(admin, "proc_signal", abi.ProcSignal(pid=spawned.pid, signal="stop"))
        call = kernel.submit(kernel.authenticate(spawned.key), "llm_generate", ask())
        await until(lambda: call.state is not State.NEW)
        assert (call.state, call.why) == (State.BLOCKED, "process stopped")
        info = kernel.info(kernel.processes.get(spawned.pid))
        assert (info.state, info.open_calls[0].why) == ("stopped", "process stopped")
        await kernel.call(admin, "proc_signal", abi.ProcSignal(pid=spawned.pid, signal="cont"))
        assert (await kernel.wait(call)).message.content == "ok"


async def test_waiting_for_a_process_ends_when_it_ends_or_at_the_timeout() -> None:
    clock = MockClock()
    async with booted(clock=clock) as kernel:
        admin = principal(kernel, "admin", is_admin=True)
        pid = (await kernel.call(admin, "proc_spawn", abi.ProcSpawn(agent="ann"))).pid
        waits = [kernel.submit(admin, "proc_wait", abi.ProcWait(pid=pid, timeout=t)) for t in (3, 30)]
        await settle()
        clock.advance(4)
        assert (await kernel.wait(waits[0])).state == "running"
        await kernel.call(admin, "proc_signal", abi.ProcSignal(pid=pid, signal="exit", code=3))
        assert (await kernel.wait(waits[1])).exit_code == 3


async def test_who_waited_for_a_process_in_vain_is_not_remembered() -> None:
    clock = MockClock()
    async with booted(clock=clock) as kernel:
        admin = principal(kernel, "admin", is_admin=True)
        pid = (await kernel.call(admin, "proc_spawn", abi.ProcSpawn(agent="ann"))).pid
        waits = [kernel.submit(admin, "proc_wait", abi.ProcWait(pid=pid, timeout=3)) for _ in range(3)]
        await settle()
        kernel.cancel(waits[0])
        clock.advance(3)
        await asyncio.gather(*map(kernel.wait, waits[1:]))
        assert kernel.control._waiters == {}


async def test_a_process_with_too_many_open_calls_is_told_to_wait_and_others_are_not() -> None:
    core = ScriptedCore()
    core.gate.clear()
    config = Config(scheduler=Scheduler(max_open=2))
    async with booted(cores={"one": core}, config=config) as kernel:
        ann = principal(kernel, "ann")
        for _ in range(2):
            kernel.submit(ann, "llm_generate", ask())
        with pytest.raises(Full, match="2 calls open"):
            kernel.submit(ann, "llm_generate", ask())
        kernel.submit(principal(kernel, "bob"), "llm_generate", ask())


async def test_a_process_with_too_many_waits_is_told_so_and_its_other_calls_go_on() -> None:
    config = Config(scheduler=Scheduler(max_open=2))
    async with booted(config=config) as kernel:
        admin = principal(kernel, "admin", is_admin=True)
        pid = (await kernel.call(admin, "proc_spawn", abi.ProcSpawn(agent="ann"))).pid
        for _ in range(2):
            kernel.submit(admin, "proc_wait", abi.ProcWait(pid=pid, timeout=3000))
        with pytest.raises(Full, match="2 calls open"):
            kernel.submit(admin, "proc_wait", abi.ProcWait(pid=pid, timeout=3000))
        await kernel.call(admin, "llm_generate", ask())


async def test_a_process_that_waits_for_itself_is_told_that_it_never_ends() -> None:
    async with booted() as kernel:
        admin = principal(kernel, "admin", is_admin=True)
        spawned = await kernel.call(admin, "proc_spawn", abi.ProcSpawn(agent="ann"))
        ann = Principal(admin.owner, "ann", spawned.pid)
        with pytest.raises(BadRequest, match="its own end"):
            await kernel.call(ann, "proc_wait", abi.ProcWait(pid=spawned.pid))


async def test_a_full_queue_refuses_at_once_and_says_when_to_return() -> None:
    core = ScriptedCore(slots=1)
    core.gate.clear()
    config = Config(scheduler=Scheduler(max_waiting=3))
    async with booted(cores={"one": core}, config=config) as kernel:
        who = principal(kernel)
        kernel.submit(who, "llm_generate", ask())
        await core.entered(1)
        for _ in range(3):
            kernel.submit(who, "llm_generate", ask())
        await until(lambda: len(kernel.queues["llm"].policy) == 3)
        with pytest.raises(Full) as caught:
            kernel.submit(who, "llm_generate", ask())
        assert caught.value.retry_after


async def test_calls_that_the_journal_has_not_yet_count_towards_the_bound_of_their_queue() -> None:
    core = ScriptedCore(slots=1)
    core.gate.clear()
    async with booted(cores={"one": core}, config=Config(scheduler=Scheduler(max_waiting=3))) as kernel:
        who = principal(kernel)
        calls = [kernel.submit(who, "llm_generate", ask()) for _ in range(3)]
        with pytest.raises(Full, match="3 calls wait"):
            kernel.submit(who, "llm_generate", ask())
        core.gate.set()
        await asyncio.gather(*map(kernel.wait, calls))
        assert (await kernel.call(who, "llm_generate", ask())).message.content == "ok"


async def test_a_call_that_is_cancelled_before_the_journal_has_it_says_which_it_was_and_never_runs() -> None:
    core = ScriptedCore()
    async with booted(cores={"one": core}) as kernel:
        call = kernel.submit(principal(kernel), "llm_generate", ask())
        kernel.cancel(call)
        with pytest.raises(Cancelled) as caught:
            await kernel.wait(call)
        assert caught.value.call_id == call.id
        await until(lambda: kernel.queues["llm"].num_expected == 0)
        assert (call.state, core.seen) == (State.CANCELLED, [])


@pytest.mark.parametrize(
    ("name", "args", "error", "says"),
    [
        ("llm_generat", ask(), NotFound, "did you mean 'llm_generate'"),
        ("llm_generate", ask(model="nonesuch"), NotFound, "no model 'nonesuch'"),
        ("tool_run", abi.ToolRun(name="calculater"), NotFound, "calculator"),
        ("tool_run", abi.ToolRun(name="calculator", arguments={"expression": 3}), BadRequest, "expression"),
    ],
)
async def test_a_call_that_can_never_run_is_refused_before_it_is_queued(
    name: str, args: abi.Args, error: type[Exception], says: str
) -> None:
    config = msgspec.structs.replace(Config(), router=msgspec.structs.replace(Config().router))
    cores = {"one": ScriptedCore(name="one"), "two": ScriptedCore(name="two", model="m2")}
    async with booted(cores=cores, config=config) as kernel:
        kernel.llm.router.default = None
        with pytest.raises(error, match=says):
            kernel.submit(principal(kernel), name, args)
        assert kernel.statistics()["open_calls"] == 0


async def test_an_agent_sees_and_signals_its_own_processes_only() -> None:
    async with booted() as kernel:
        ann, bob = principal(kernel, "ann"), principal(kernel, "bob", owner="other")
        spawned = await kernel.call(ann, "proc_spawn", abi.ProcSpawn(agent="ann/child"))
        seen = await kernel.call(bob, "proc_list", abi.ProcList())
        assert spawned.pid not in [p.pid for p in seen.processes]
        with pytest.raises(Denied):
            await kernel.call(bob, "proc_signal", abi.ProcSignal(pid=spawned.pid, signal="kill"))
        question = abi.AccCheck(call="proc_signal", arguments={"pid": spawned.pid, "signal": "kill"})
        assert not (await kernel.call(bob, "acc_check", question)).allowed


async def test_two_agents_never_see_each_others_memory_and_files() -> None:
    async with booted() as kernel:
        ann, bob = principal(kernel, "ann"), principal(kernel, "bob")
        written = await kernel.call(ann, "mem_write", abi.MemWrite(content="the code is 4711"))
        await kernel.call(ann, "sto_write", abi.StoWrite(path="notes/a.txt", content="secret"))
        found = await kernel.call(bob, "mem_search", abi.MemSearch(query="code"))
        assert found.entries == []
        for name, args in (("mem_read", abi.MemRead(id=written.id)), ("sto_read", abi.StoRead(path="notes/a.txt"))):
            with pytest.raises(NotFound):
                await kernel.call(bob, name, args)


async def test_an_agent_sees_and_ends_the_children_it_spawned_through_its_key_and_theirs() -> None:
    async with booted() as kernel:
        ann = principal(kernel, "ann")
        child = await kernel.call(ann, "proc_spawn", abi.ProcSpawn(agent="ann/child"))
        grandchild = await kernel.call(
            kernel.authenticate(child.key), "proc_spawn", abi.ProcSpawn(agent="ann/child/grandchild")
        )
        seen = {p.pid for p in (await kernel.call(ann, "proc_list", abi.ProcList())).processes}
        assert {child.pid, grandchild.pid} <= seen
        await kernel.call(ann, "proc_signal", abi.ProcSignal(pid=child.pid, signal="kill"))
        assert kernel.info(kernel.processes.get(grandchild.pid)).state == "ended"


async def test_one_agents_task_has_a_bounded_number_of_processes_and_of_open_calls() -> None:
    core = ScriptedCore()
    core.gate.clear()
    async with booted(cores={"one": core}, config=Config(scheduler=Scheduler(max_open=4))) as kernel:
        ann = principal(kernel, "ann")
        keys = []
        with pytest.raises(Full, match="processes already"):
            for _ in range(1000):
                keys.append((await kernel.call(ann, "proc_spawn", abi.ProcSpawn(agent="ann/child"))).key)
        assert len(keys) == MAX_CHILDREN
        with pytest.raises(Full, match="4 calls open"):
            for key in keys[:5]:
                kernel.submit(kernel.authenticate(key), "llm_generate", ask())


async def test_a_process_that_ended_makes_room_for_another_in_its_task() -> None:
    async with booted() as kernel:
        ann = principal(kernel, "ann")
        spawn = abi.ProcSpawn(agent="ann/child")
        children = [await kernel.call(ann, "proc_spawn", spawn) for _ in range(MAX_CHILDREN)]
        with pytest.raises(Full, match="processes already"):
            await kernel.call(ann, "proc_spawn", spawn)
        await kernel.call(ann, "proc_signal", abi.ProcSignal(pid=children[7].pid, signal="exit"))
        assert (await kernel.call(ann, "proc_spawn", spawn)).pid > children[-1].pid
        with pytest.raises(Full, match="processes already"):
            await kernel.call(ann, "proc_spawn", spawn)


async def test_a_call_goes_on_where_its_snapshot_is_though_another_core_with_the_same_model_is_free() -> None:
    cores = {name: ScriptedCore(name=name, model="m", tokens=24, slots=1) for name in ("one", "two")}
    for core in cores.values():
        core.gate.clear()
    async with booted(cores=cores, policy="rr", quantum=4) as kernel:
        calls = [kernel.submit(principal(kernel, f"a{n}"), "llm_generate", ask(model="m")) for n in range(5)]
        await until(lambda: len(kernel.queues["llm"].policy) == 3)
        for core in cores.values():
            core.gate.set()
        await asyncio.gather(*map(kernel.wait, calls))
        places = [{row.core for row in kernel.trace.story(call.id) if row.state == "running"} for call in calls]
        assert all(len(place) == 1 for place in places)
        assert set.union(*places) == {"one", "two"}
        assert sum(call.num_switches for call in calls) > 5


async def test_a_call_that_is_cancelled_while_it_is_suspended_leaves_nothing_with_its_core() -> None:
    core = ScriptedCore(tokens=24, slots=1)
    core.gate.clear()
    async with booted(cores={"one": core}, policy="rr", quantum=4) as kernel:
        ann = kernel.submit(principal(kernel, "ann"), "llm_generate", ask())
        bob = kernel.submit(principal(kernel, "bob"), "llm_generate", ask(), on_chunk=lambda _: kernel.cancel(ann))
        await until(lambda: bob.state is State.QUEUED)
        core.gate.set()
        await kernel.wait(bob)
        assert [row.state for row in kernel.trace.story(ann.id)][-3:] == ["suspended", "queued", "cancelled"]
        assert core.num_dropped == 1


async def test_a_seed_is_part_of_the_body_that_a_key_stands_for() -> None:
    async with booted() as kernel:
        who = principal(kernel)
        await kernel.call(who, "llm_generate", ask(), key="k")
        await kernel.call(who, "llm_generate", ask(), key="k")
        with pytest.raises(Conflict):
            kernel.submit(who, "llm_generate", ask(seed=1), key="k")


async def test_a_listener_that_left_is_told_nothing_more_and_listeners_are_bounded() -> None:
    core = ScriptedCore("one two three")
    core.gate.clear()
    async with booted(cores={"one": core}) as kernel:
        who, heard = principal(kernel), list[Chunk]()
        call = kernel.submit(who, "llm_generate", ask(), key="k", on_chunk=heard.append)
        with pytest.raises(Full, match="listen to this call"):
            for _ in range(1000):
                kernel.submit(who, "llm_generate", ask(), key="k", on_chunk=lambda chunk: None)
        call.unlisten(heard.append)
        core.gate.set()
        await kernel.wait(call)
        assert heard == []


async def test_stopping_while_an_answer_is_being_recorded_closes_every_room() -> None:
    async with booted() as kernel:
        call = kernel.submit(principal(kernel), "llm_generate", ask(), key="k")
        await until(lambda: call.state is State.DONE)
        await kernel.stop(drain=0.0)
        assert (await kernel.wait(call)).message.content == "ok"


async def test_an_answer_that_is_being_recorded_when_the_kernel_stops_is_still_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with booted() as kernel:
        recorded: list[Callable[[], None]] = []
        close = kernel.journal.close

        def slowly(call: Any, then: Any = None) -> None:
            recorded.append(lambda: close(call, then))

        monkeypatch.setattr(kernel.journal, "close", slowly)
        call = kernel.submit(principal(kernel), "llm_generate", ask(), key="k")
        await until(lambda: bool(recorded))
        stopping = asyncio.create_task(kernel.stop(drain=0.0))
        await until(lambda: not kernel._open._idle.is_set() and kernel._is_stopping)
        await settle()
        recorded[0]()
        assert (await kernel.wait(call)).message.content == "ok"
        await stopping


async def test_a_hurried_stop_does_not_wait_for_its_drain() -> None:
    core = ScriptedCore()
    core.gate.clear()
    async with booted(cores={"one": core}) as kernel:
        call = kernel.submit(principal(kernel), "llm_generate", ask())
        await core.entered(1)
        stopping = asyncio.create_task(kernel.stop(drain=3600))
        await settle()
        kernel.hurry()
        await asyncio.wait_for(stopping, 20)
        assert call.state is State.CANCELLED


async def test_who_waits_for_a_process_holds_up_no_stop_and_is_told_to_come_back() -> None:
    async with booted() as kernel:
        admin = principal(kernel, "admin", is_admin=True)
        pid = (await kernel.call(admin, "proc_spawn", abi.ProcSpawn(agent="ann"))).pid
        wait = kernel.submit(admin, "proc_wait", abi.ProcWait(pid=pid, timeout=3000))
        await settle()
        await asyncio.wait_for(kernel.stop(drain=3600), 20)
        with pytest.raises(CutShort) as caught:
            await kernel.wait(wait)
        assert caught.value.retry_after


async def test_a_stopping_kernel_lets_open_calls_finish_and_takes_no_more() -> None:
    core = ScriptedCore()
    core.gate.clear()
    async with booted(cores={"one": core}) as kernel:
        who = principal(kernel)
        call = kernel.submit(who, "llm_generate", ask())
        await core.entered(1)
        stopping = asyncio.create_task(kernel.stop(drain=30))
        await settle()
        with pytest.raises(Stopping):
            kernel.submit(who, "llm_generate", ask())
        core.gate.set()
        assert (await kernel.wait(call)).message.content == "ok"
        await stopping


async def test_calls_cut_short_by_a_stop_go_on_at_the_next_boot_when_they_have_a_key(tmp_path: Path) -> None:
    core = ScriptedCore("answer")
    core.gate.clear()
    async with booted(cores={"one": core}, home=tmp_path) as kernel:
        plain, keyed = (kernel.submit(principal(kernel), "llm_generate", ask(), key=k) for k in (None, "k"))
        await core.entered(2)
        seed = keyed.args.seed
        await kernel.stop(drain=0.0)
        for call, error in ((plain, CutShort), (keyed, Stopping)):
            with pytest.raises(error) as caught:
                await kernel.wait(call)
            assert (caught.value.status, caught.value.fault) == (503, "kernel")
            assert caught.value.retry_after
        assert plain.state is State.CANCELLED
    core.gate.set()
    async with booted(cores={"one": core}, home=tmp_path) as kernel:
        again = await kernel.call(principal(kernel), "llm_generate", ask(), key="k")
        assert again.message.content == "answer"
        assert core.seen[-1].seed == seed


async def test_a_second_kernel_on_the_same_home_is_refused_in_one_sentence(tmp_path: Path) -> None:
    async with booted(home=tmp_path):
        with pytest.raises(Exception, match="another kernel") as caught:
            await Kernel.boot(Config(), tmp_path, cores={})
        assert "\n" not in str(caught.value)


async def test_a_process_that_outlived_its_kernel_goes_on_with_its_key_and_its_answer(tmp_path: Path) -> None:
    core = ScriptedCore("answer")
    core.gate.clear()
    async with booted(cores={"one": core}, home=tmp_path) as kernel:
        child = await kernel.call(principal(kernel, is_admin=True), "proc_spawn", abi.ProcSpawn(agent="a", nice=4))
        kernel.submit(kernel.authenticate(child.key), "llm_generate", ask(), key="k")
        await core.entered(1)
        await kernel.stop(drain=0.0)
    core.gate.set()
    async with booted(cores={"one": core}, home=tmp_path) as kernel:
        who = kernel.authenticate(child.key)
        assert (await kernel.call(who, "llm_generate", ask(), key="k")).message.content == "answer"
        process = kernel.processes.get(child.pid)
        assert (process.agent, process.nice, process.state) == ("a", 4, ProcessState.RUNNING)
        admin = principal(kernel, is_admin=True)
        await kernel.call(admin, "proc_signal", abi.ProcSignal(pid=child.pid, signal="exit"))
        with pytest.raises(Unauthorized):
            kernel.authenticate(child.key)


async def test_a_process_that_died_with_its_kernel_is_not_shown_once_its_last_call_is_done(tmp_path: Path) -> None:
    core = ScriptedCore("answer")
    core.gate.clear()
    async with booted(cores={"one": core}, home=tmp_path) as kernel:
        child = await kernel.call(principal(kernel, is_admin=True), "proc_spawn", abi.ProcSpawn(agent="a"))
        kernel.submit(kernel.authenticate(child.key), "llm_generate", ask(), key="k")
        await core.entered(1)
        await kernel.stop(drain=0.0)
    async with booted(cores={"one": core}, home=tmp_path) as kernel:
        assert [p.pid for p in kernel.processes.list()] == [child.pid]
        core.gate.set()
        revived = principal(kernel, "a", owner="test")
        await kernel.call(revived, "llm_generate", ask(), key="k")
        assert child.pid not in [p.pid for p in kernel.processes.list()]


async def test_a_keyed_write_that_the_disk_refused_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with booted(home=tmp_path) as kernel:
        who = principal(kernel)

        async def full(call: Any) -> Any:
            raise Stopping("the disk is full", code="storage_full")

        with monkeypatch.context() as patch:
            patch.setattr(kernel.memory, "run", full)
            with pytest.raises(Stopping):
                await kernel.call(who, "mem_write", abi.MemWrite(content="x"), key="k")
        assert (await kernel.call(who, "mem_write", abi.MemWrite(content="x"), key="k")).id

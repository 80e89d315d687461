"""The journal: what it promises of calls with and without a key, across restarts, and what it costs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from journal_world import call_of, closed, ended, journal_of, opened, process_of, recorded, said, told

from aios.abi.calls import LLMGenerate, MemWrite, ToolRun, Written
from aios.abi.errors import (
    BadRequest,
    Cancelled,
    Full,
    KernelFault,
    ModuleFault,
    NotFound,
    OutcomeUnknown,
    TimedOut,
)
from aios.abi.messages import FunctionSpec, Message, ToolSpec
from aios.kernel.database import exactly_once, value
from aios.kernel.journal import body_hash, log, retention
from aios.kernel.syscall import State
from aios.testing import MockClock

pytestmark = pytest.mark.anyio


def dialogue(length: int, *, tools: bool = False) -> LLMGenerate:
    """The first `length` messages of one long dialogue, each a kilobyte."""
    messages = [
        Message(role="user" if n % 2 == 0 else "assistant", content=f"{n}: " + "x" * 1000) for n in range(length)
    ]
    spec = ToolSpec(FunctionSpec("search", "Look it up. " * 100, {"type": "object"}))
    return LLMGenerate(messages=messages, tools=[spec] if tools else None, temperature=0.5)


# ── answers under a key ──


async def test_an_answer_under_a_key_is_found_again_after_a_restart(tmp_path: Path) -> None:
    call = call_of(key="k1")
    with opened(tmp_path) as database:
        journal = journal_of(database)
        await recorded(journal, call)
        await closed(journal, ended(call, said("yes")))
    with opened(tmp_path) as database:
        journal = journal_of(database)
        assert journal.recover() == []
        found = journal.find("o", "a", "k1")
    assert found is not None
    assert (found.call_id, found.name, found.state) == (call.id, "llm_generate", State.DONE)
    assert found.result == said("yes")
    assert found.body_hash == body_hash(call)


async def test_an_open_call_is_found_without_an_answer_even_before_it_is_on_disk(tmp_path: Path) -> None:
    with opened(tmp_path) as database:
        journal = journal_of(database)
        journal.open(call_of(key="k"), lambda error: None)
        found = journal.find("o", "a", "k")
        assert found is not None
        assert (found.state, found.result, found.error) == (None, None, None)


async def test_a_call_is_open_until_its_answer_is_on_disk(tmp_path: Path) -> None:
    call = call_of(key="k")
    with opened(tmp_path) as database:
        journal = journal_of(database)
        await recorded(journal, call)
        journal.close(ended(call, said("now")))
        found = journal.find("o", "a", "k")
        assert found is not None
        assert (found.state, found.result) == (None, None)
        await database.run(lambda c: None)
        assert journal.find("o", "a", "k").result == said("now")


async def test_keys_are_scoped_to_owner_and_agent(tmp_path: Path) -> None:
    with opened(tmp_path) as database:
        journal = journal_of(database)
        await recorded(journal, call_of(key="k", process=process_of(1, "a", "o")))
        assert journal.find("o", "a", "k") is not None
        assert journal.find("o", "b", "k") is None
        assert journal.find("p", "a", "k") is None
        assert journal.find("o", "a", "K") is None


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        (BadRequest("no"), True),
        (NotFound("no", code="no_such_path", param="path"), True),
        (Cancelled("killed"), True),
        (OutcomeUnknown("nobody knows"), True),
        (TimedOut("nobody knows", code="outcome_unknown"), True),
        (ModuleFault("nobody knows", code="outcome_unknown"), True),
        (Full("later", retry_after=2.0), False),
        (KernelFault("a bug"), False),
        (TimedOut("slow"), False),
    ],
)
async def test_refusals_are_kept_but_429_and_5xx_free_the_key(tmp_path: Path, error: Any, is_kept: bool) -> None:
    call = call_of(key="k")
    with opened(tmp_path) as database:
        journal = journal_of(database)
        await recorded(journal, call)
        await closed(journal, ended(call, error=error))
        found = journal.find("o", "a", "k")
        assert (found is not None) == is_kept
        if found is not None:
            assert type(found.error) is type(error)
            assert found.error.to_dict() == error.to_dict()
        else:
            again = call_of(key="k")
            await recorded(journal, again)
            assert journal.find("o", "a", "k").call_id == again.id


async def test_a_write_that_was_done_though_its_call_timed_out_is_not_done_again(tmp_path: Path) -> None:
    call = call_of("mem_write", MemWrite(content="x"), key="k")
    with opened(tmp_path) as database:
        journal = journal_of(database)
        await recorded(journal, call)
        await database.run(exactly_once(call.id, lambda c: Written(id="m1"), Written))
        await closed(journal, ended(call, error=TimedOut("slow")))
        assert journal.find("o", "a", "k").result == Written(id="m1")


async def test_the_body_tells_calls_and_arguments_apart_but_not_their_spelling(tmp_path: Path) -> None:
    first = call_of("tool_run", ToolRun(name="t", arguments={"a": 1, "b": 2}))
    same = call_of("tool_run", ToolRun(name="t", arguments={"b": 2, "a": 1}))
    other = call_of("tool_run", ToolRun(name="t", arguments={"a": 1, "b": 3}))
    assert body_hash(first) == body_hash(same) != body_hash(other)
    seeded = call_of(args=LLMGenerate(messages=[Message(role="user", content="hello")], seed=12))
    assert body_hash(seeded) != body_hash(call_of())
    assert body_hash(call_of("mem_write", MemWrite(content="x"))) != body_hash(first)


def test_half_a_surrogate_pair_is_a_bad_request() -> None:
    with pytest.raises(BadRequest, match="not valid Unicode"):
        body_hash(call_of("mem_write", MemWrite(content="\ud800")))


# ── taking up what was open ──


async def test_open_calls_are_found_after_a_restart_oldest_first_with_all_they_need(tmp_path: Path) -> None:
    clock = MockClock()
    args = dialogue(5, tools=True)
    keyed, plain, over = call_of(args=args, key="k"), call_of("mem_write", MemWrite(content="x")), call_of()
    keyed.process.nice = 3
    keyed.body = body_hash(keyed)
    keyed.args = msgspec.structs.replace(args, seed=99)  # as the kernel draws one
    with opened(tmp_path) as database:
        journal = journal_of(database, clock=clock)
        await told(lambda then: journal.open(keyed, then))
        clock.advance(1)
        await recorded(journal, plain)
        await recorded(journal, over)
        await closed(journal, ended(over, said("done")))
    with opened(tmp_path) as database:
        first, second = journal_of(database).recover()
    assert (first.call_id, first.name, first.key) == (keyed.id, "llm_generate", "k")
    assert first.body_hash == keyed.body
    assert (first.owner, first.agent, first.nice, first.pid) == ("o", "a", 3, 7)
    assert first.args == LLMGenerate(messages=args.messages, tools=args.tools, temperature=0.5, seed=99)
    assert (second.call_id, second.key, second.args, second.is_begun) == (plain.id, None, None, False)
    assert second.opened == clock.wall()


async def test_a_side_effect_under_way_is_marked(tmp_path: Path) -> None:
    calls = [call_of("tool_run", ToolRun(name="pay"), key=key) for key in ("begun", "waiting", None)]
    with opened(tmp_path) as database:
        journal = journal_of(database)
        for call in calls:
            await recorded(journal, call)
        for call in (calls[0], calls[2]):
            await told(lambda then, call=call: journal.begin(call, then))
    with opened(tmp_path) as database:
        found = {record.call_id: record.is_begun for record in journal_of(database).recover()}
    assert found == {calls[0].id: True, calls[1].id: False, calls[2].id: True}


async def test_what_is_settled_at_boot_is_over_at_the_next(tmp_path: Path) -> None:
    keyed, plain = call_of("tool_run", ToolRun(name="pay"), key="k"), call_of()
    with opened(tmp_path) as database:
        for call in (keyed, plain):
            await recorded(journal_of(database), call)
    with opened(tmp_path) as database:
        journal = journal_of(database)
        for record in journal.recover():
            error = OutcomeUnknown("it was under way")
            await told(lambda then, r=record, e=error: journal.settle(r, State.FAILED, e, then))
    with opened(tmp_path) as database:
        journal = journal_of(database)
        assert journal.recover() == []
        found = journal.find("o", "a", "k")
        assert isinstance(found.error, OutcomeUnknown)
        assert journal.find("o", "a", "other") is None


async def test_a_call_taken_up_again_ends_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    call = call_of(key="k")
    with opened(tmp_path) as database:
        await recorded(journal_of(database), call)
    with opened(tmp_path) as database:
        journal = journal_of(database)
        (record,) = journal.recover()
        again = call_of(args=record.args, key=record.key)
        again.id = record.call_id
        await closed(journal, ended(again, said("late")))
        assert journal.find("o", "a", "k").result == said("late")
    with opened(tmp_path) as database:
        assert journal_of(database).recover() == []


async def test_a_call_of_a_later_kernels_table_is_found_without_arguments(tmp_path: Path) -> None:
    with opened(tmp_path) as database:
        await recorded(journal_of(database), call_of(key="k"))
        database.run_now(lambda c: c.execute("UPDATE calls SET name = 'llm_dream'") and None)
    with opened(tmp_path) as database:
        (record,) = journal_of(database).recover()
        assert (record.args, record.spec) == (None, None)


async def test_pids_go_on_after_a_restart_though_a_process_never_made_a_call(tmp_path: Path) -> None:
    process = process_of(41)
    with opened(tmp_path) as database:
        journal = journal_of(database)
        assert journal.last_pid() == 0
        await recorded(journal, call_of(process=process_of(7)))
        journal.started(process)
    with opened(tmp_path) as database:
        journal = journal_of(database)
        assert journal.last_pid() == 41
        found = journal.process(41)
        assert found is not None
        assert (found.pid, found.agent, found.owner) == (41, "a", "o")
        assert journal.process(40) is None


async def test_a_pid_is_not_given_again_while_a_call_is_open_whose_process_found_no_room(tmp_path: Path) -> None:
    with opened(tmp_path) as database:
        await recorded(journal_of(database), call_of(key="k", process=process_of(41)))
        database.run_now(lambda c: c.execute("DELETE FROM processes") and None)
    with opened(tmp_path) as database:
        assert journal_of(database).last_pid() == 41


@pytest.mark.parametrize("seed", range(5))
async def test_the_log_is_folded_and_still_knows_exactly_what_is_open(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "FOLD_AFTER", 20)
    dice = random.Random(seed)
    open_calls: dict[str, Any] = {}
    with opened(tmp_path) as database:
        journal = journal_of(database)
        for _ in range(300):
            if open_calls and dice.random() < 0.5:
                call = open_calls.pop(dice.choice(list(open_calls)))
                journal.close(ended(call, said("x")))
            else:
                call = call_of(key=f"k{dice.random()}" if dice.random() < 0.2 else None)
                open_calls[call.id] = call
                journal.open(call, lambda error: None)
            if dice.random() < 0.3:
                await database.run(lambda c: None)
        await database.run(lambda c: None)
        await database.run(lambda c: None)
        assert database.read(lambda c: value(c, "SELECT count(*) FROM log")) < 100
    with opened(tmp_path) as database:
        assert {record.call_id for record in journal_of(database).recover()} == set(open_calls)


# ── what it costs ──


async def stored_bytes(home: Path, calls: int) -> int:
    """What the arguments of a dialogue of `calls` calls take, two messages more each time."""
    with opened(home) as database:
        journal = journal_of(database)
        for n in range(calls):
            call = call_of(args=dialogue(2 * n + 1, tools=True), key=f"k{n}")
            await recorded(journal, call)
            await closed(journal, ended(call, said("ok")))
        return database.read(
            lambda c: value(c, "SELECT (SELECT total(size) FROM nodes) + (SELECT total(size) FROM calls)")
        )


async def test_a_dialogue_that_grows_costs_what_is_new_in_it(tmp_path: Path) -> None:
    few, many = await stored_bytes(tmp_path / "few", 20), await stored_bytes(tmp_path / "many", 80)
    assert many < 4.2 * few
    assert many < 80 * 3500


async def test_the_same_messages_in_another_order_are_other_messages(tmp_path: Path) -> None:
    one, two = Message(role="user", content="one"), Message(role="user", content="two")
    bodies = [LLMGenerate(messages=m) for m in ([one, two], [two, one], [one, one, two], [two])]
    with opened(tmp_path) as database:
        for n, args in enumerate(bodies):
            await recorded(journal_of(database), call_of(args=args, key=f"k{n}"))
    with opened(tmp_path) as database:
        found = {record.key: record.args for record in journal_of(database).recover()}
    assert found == {f"k{n}": args for n, args in enumerate(bodies)}


# ── retention ──


async def test_answers_are_kept_for_their_time_and_open_calls_for_ever(tmp_path: Path) -> None:
    clock = MockClock()
    with opened(tmp_path) as database:
        journal = journal_of(database, keep=1000.0, clock=clock)
        waiting = call_of(args=dialogue(4), key="waiting")
        await recorded(journal, waiting)
        old, young = call_of(args=dialogue(9), key="old"), call_of(args=dialogue(3), key="young")
        await recorded(journal, old)
        await closed(journal, ended(old, said("old")))
        clock.advance(900)
        await recorded(journal, young)
        await closed(journal, ended(young, said("young")))
        clock.advance(500)
        assert await journal.purge(clock.wall()) == 1
        assert journal.find("o", "a", "old") is None
        assert journal.find("o", "a", "young").result == said("young")
    with opened(tmp_path) as database:
        (record,) = journal_of(database).recover()
        assert record.args == waiting.args


async def test_messages_that_nobody_refers_to_are_purged_and_shared_ones_stay(tmp_path: Path) -> None:
    clock = MockClock()
    with opened(tmp_path) as database:
        journal = journal_of(database, keep=1000.0, clock=clock)
        for length, wait in ((3, 600.0), (5, 600.0), (7, 2000.0)):
            call = call_of(args=dialogue(length), key=f"k{length}")
            await recorded(journal, call)
            await closed(journal, ended(call, said("x")))
            clock.advance(wait if length < 7 else 0)
            await journal.purge(clock.wall())
            assert database.read(lambda c: value(c, "SELECT count(*) FROM nodes")) >= length
        last = call_of(args=dialogue(7), key="last")
        await recorded(journal, last)
        clock.advance(2000)
        await journal.purge(clock.wall())
    with opened(tmp_path) as database:
        (record,) = journal_of(database).recover()
        assert record.args == last.args
        journal = journal_of(database, keep=1000.0, clock=clock)
        journal.settle(record, State.CANCELLED, Cancelled("enough"))
        await database.run(lambda c: None)
        clock.advance(2000)
        await journal.purge(clock.wall())
        assert database.read(lambda c: value(c, "SELECT count(*) FROM nodes")) == 0


async def test_messages_that_an_open_call_needs_are_not_purged_though_the_kernel_heard_late_of_their_last_use(
    tmp_path: Path,
) -> None:
    clock = MockClock()
    with opened(tmp_path) as database:
        journal = journal_of(database, keep=1000.0, clock=clock)
        first, second = (call_of(args=dialogue(3), key=key) for key in ("first", "second"))
        journal.open(first, lambda error: None)
        database.run_now(lambda c: None)
        clock.advance(100)  # the event loop was busy
        await closed(journal, ended(first, said("x")))
        clock.advance(120)
        await recorded(journal, second)
        await journal.purge(clock.wall() + 1000)
    with opened(tmp_path) as database:
        (record,) = journal_of(database).recover()
        assert record.args == second.args


async def test_past_the_bound_in_bytes_the_oldest_answers_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PURGE_STEP", 10)
    clock = MockClock()
    with opened(tmp_path) as database:
        journal = journal_of(database, keep=1e6, max_bytes=100_000, clock=clock)
        for n in range(100):
            call = call_of(args=LLMGenerate(messages=[Message(role="user", content=f"{n}" * 1000)]), key=f"k{n:02d}")
            await recorded(journal, call)
            await closed(journal, ended(call, said("x")))
            clock.advance(1000)
        await journal.purge(clock.wall())
        assert journal.statistics()["kept_bytes"] <= 100_000
        kept = [n for n in range(100) if journal.find("o", "a", f"k{n:02d}") is not None]
        assert kept == list(range(kept[0], 100))
        assert kept[0] in range(30, 90)


async def test_what_a_write_left_for_its_repetition_goes_when_the_call_is_over(tmp_path: Path) -> None:
    call = call_of("mem_write", MemWrite(content="x"), key="k")
    with opened(tmp_path) as database:
        journal = journal_of(database)
        await recorded(journal, call)
        await database.run(exactly_once(call.id, lambda c: Written(id="m1"), Written))
        assert database.read(lambda c: value(c, "SELECT count(*) FROM effects")) == 1
        await closed(journal, ended(call, Written(id="m1")))
        assert database.read(lambda c: value(c, "SELECT count(*) FROM effects")) == 0

"""Which turns go when a conversation does not fit: what is kept, for any conversation at all."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.abi.messages import FunctionCall, Message, ToolCall
from aios.kernel.context.window import SYSTEM, Fit, TooMuch, fit, piece, transcript, units, with_summary


def words(messages: Sequence[Message]) -> int:
    """A prompt of words, three for each message and five around them all."""
    return 5 + sum(3 + len(message.text().split()) for message in messages)


def text(size: int) -> str:
    return "word " * size


@st.composite
def turns(draw: st.DrawFn) -> list[Message]:
    """A conversation as agents have them: questions, answers, tool calls and their results, now and then out of
    order."""
    said = [Message("system", text(draw(st.integers(0, 5))))] if draw(st.booleans()) else []
    for number in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from(["user", "assistant", "calls", "calls", "late", "system"]))
        size = draw(st.integers(0, 12))
        if kind in ("user", "assistant", "system"):
            said.append(Message(kind, text(size)))  # type: ignore[arg-type]
            continue
        ids = [f"c{number}.{n}" for n in range(draw(st.integers(1, 3)))]
        said.append(Message("assistant", tool_calls=[ToolCall(id, FunctionCall("f")) for id in ids]))
        if kind == "late":
            said.append(Message("user", text(size)))
        said += [Message("tool", text(size), tool_call_id=id) for id in ids]
    return said or [Message("user", "hello")]


def made_to_fit(messages: Sequence[Message], room: int) -> Fit | None:
    try:
        return fit(messages, words, limit=room, rooms=[room])
    except TooMuch:
        return None


def places(kept: Sequence[Message], messages: Sequence[Message]) -> list[int]:
    by_id = {id(message): place for place, message in enumerate(messages)}
    return [by_id[id(message)] for message in kept]


@settings(max_examples=300, deadline=None)
@given(turns(), st.integers(1, 120))
def test_what_is_kept_fits_and_holds_all_that_must_stay_in_its_old_order(messages: list[Message], room: int) -> None:
    found = made_to_fit(messages, room)
    if found is None:
        least = [m for n, m in enumerate(messages) if n not in droppable(messages)]
        assert words(least) > room
        return
    kept = places(found.kept, messages)
    assert words(found.kept) == found.tokens <= room
    assert kept == sorted(kept)
    assert {n for n, m in enumerate(messages) if m.role in SYSTEM} <= set(kept)
    asked = [n for n, message in enumerate(messages) if message.role == "user"]
    assert not asked or asked[-1] in kept
    assert messages[-1].role in SYSTEM or len(messages) - 1 in kept
    assert sorted(kept + places(found.dropped, messages)) == list(range(len(messages)))
    assert found.total == words(messages)
    again = made_to_fit(messages, room)
    assert again == found


@settings(max_examples=300, deadline=None)
@given(turns(), st.integers(1, 120))
def test_no_call_of_a_tool_is_parted_from_its_result(messages: list[Message], room: int) -> None:
    found = made_to_fit(messages, room)
    kept = messages if found is None else found.kept
    called = {call.id for message in kept for call in message.tool_calls or ()}
    answered = {message.tool_call_id for message in kept if message.role == "tool"}
    assert called == answered


@settings(max_examples=300, deadline=None)
@given(turns(), st.integers(1, 120))
def test_the_oldest_goes_first_and_no_more_than_has_to(messages: list[Message], room: int) -> None:
    found = made_to_fit(messages, room)
    if found is None or not found.dropped:
        return
    gone = set(places(found.dropped, messages))
    in_order = [unit for unit in units(messages) if not unit.must_stay]
    number = sum(set(unit.places) <= gone for unit in in_order)
    assert gone == {place for unit in in_order[:number] for place in unit.places}
    one_less = {place for unit in in_order[: number - 1] for place in unit.places}
    assert words([m for n, m in enumerate(messages) if n not in one_less]) > room


def droppable(messages: Sequence[Message]) -> set[int]:
    return {place for unit in units(messages) if not unit.must_stay for place in unit.places}


def test_turns_go_whole_and_rounds_of_the_last_turn_one_by_one() -> None:
    call = [ToolCall("a", FunctionCall("f"))]
    messages = [
        Message("system", "rules"),
        Message("user", "first"),
        Message("assistant", "answer"),
        Message("user", "second"),
        Message("assistant", tool_calls=call),
        Message("tool", "result", tool_call_id="a"),
        Message("assistant", tool_calls=call),
        Message("tool", "newer", tool_call_id="a"),
    ]
    assert [unit.places for unit in units(messages)] == [(1, 2), (3,), (4, 5), (6, 7)]
    assert [unit.must_stay for unit in units(messages)] == [False, True, False, True]


def test_an_eighth_more_room_than_asked_is_kept_free_only_once_something_has_to_go() -> None:
    messages = [Message("user", text(10)), Message("assistant", text(10)), Message("user", text(10))]
    assert not fit(messages, words, limit=44, rooms=[30, 44]).dropped
    assert fit(messages, words, limit=43, rooms=[30, 43]).kept == messages[2:]
    assert fit(messages, words, limit=43, rooms=[17, 43]).kept == messages[2:]


def test_what_must_stay_and_finds_no_room_is_told_with_what_it_takes() -> None:
    with pytest.raises(TooMuch) as caught:
        fit([Message("user", text(10)), Message("user", text(30))], words, limit=37, rooms=[30, 37])
    assert caught.value.least == 5 + 3 + 30


class Meter:
    """Counts words, and how many messages it was asked to count."""

    def __init__(self) -> None:
        self.counted = 0

    def __call__(self, messages: Sequence[Message]) -> int:
        self.counted += len(messages)
        return words(messages)


@pytest.mark.parametrize("room", [100, 4_000, 60_000, 79_000, 90_000])
def test_the_work_grows_with_the_messages_and_not_faster(room: int) -> None:
    messages = [Message("user" if n % 2 == 0 else "assistant", f"m{n}") for n in range(20_001)]
    meter = Meter()
    found = fit(messages, meter, limit=room, rooms=[room - room // 8, room])
    assert meter.counted < 4 * len(messages)
    assert found.tokens == words(found.kept)
    assert found.total == words(messages)
    assert bool(found.dropped) == (room < found.total)


def test_much_that_must_stay_is_not_counted_again_for_each_turn_that_may_go() -> None:
    messages = [Message("system", text(20))] * 1_000
    messages += [Message("user" if n % 2 == 0 else "assistant", "m") for n in range(20_001)]
    meter = Meter()
    found = fit(messages, meter, limit=30_000, rooms=[30_000])
    assert found.dropped
    assert meter.counted < 6 * len(messages)


def test_what_takes_more_together_than_one_by_one_is_still_made_to_fit() -> None:
    messages = [Message("user" if n % 2 == 0 else "assistant", text(10)) for n in range(401)]

    def dearer(messages: Sequence[Message]) -> int:
        return words(messages) + len(messages) ** 2 // 100

    found = fit(messages, dearer, limit=1_500, rooms=[1_500])
    assert dearer(found.kept) == found.tokens <= 1_500
    assert found.dropped


def test_a_summary_goes_into_the_system_message_or_before_the_first_question() -> None:
    rest = [Message("assistant", "welcome"), Message("user", "now")]
    ruled = with_summary([Message("system", "rules"), *rest], "they met", 4)
    assert [message.role for message in ruled] == ["system", "assistant", "user"]
    assert ruled[0].text().startswith("rules\n\n")
    assert ruled[0].text().endswith("they met")
    asked = with_summary(rest, "they met", 4)
    assert [message.role for message in asked] == ["assistant", "user"]
    assert "they met" in asked[1].text()
    assert asked[1].text().endswith("\n\nnow")
    assert with_summary([Message("assistant", "welcome")], "they met", 4)[0].role == "system"


def test_a_summary_leaves_pictures_where_they_are() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:"}}
    (told,) = with_summary([Message("user", [picture])], "they met", 4)
    assert isinstance(told.content, list)
    assert told.content[1:] == [picture]
    assert "they met" in told.text()


def test_a_transcript_names_who_spoke_and_what_tools_were_called() -> None:
    said = transcript(
        [
            Message("user", "add"),
            Message("assistant", tool_calls=[ToolCall("a", FunctionCall("sum", '{"x":1}'))]),
            Message("tool", "2", tool_call_id="a"),
        ]
    )
    assert said == 'User: add\nAssistant called sum with {"x":1}\nResult of a tool: 2'


@given(st.text(max_size=200), st.integers(0, 220), st.integers(1, 5))
def test_a_piece_is_a_beginning_that_fits(whole: str, room: int, dear: int) -> None:
    part = piece(whole, lambda each: sum(dear if letter > "a" else 1 for letter in each), room)
    assert whole.startswith(part)
    assert sum(dear if letter > "a" else 1 for letter in part) <= room
    assert part or not whole or room < dear


@pytest.mark.parametrize("per_token", [1, 3, 7])
def test_a_long_text_is_cut_in_pieces_with_a_few_counts_of_each(per_token: int) -> None:
    whole, counted, pieces = "x" * 1_000_000, 0, 0

    def count(each: str) -> int:
        nonlocal counted
        counted += len(each)
        return len(each) // per_token

    rest = whole
    while rest:
        part = piece(rest, count, 4_000)
        pieces, rest = pieces + 1, rest[len(part) :]
    assert pieces <= 1_000_000 / (4_000 * per_token * 0.9) + 1
    assert counted < 6 * len(whole)


def test_a_system_message_that_calls_a_tool_is_in_no_unit_and_breaks_nothing() -> None:
    call = ToolCall("c1", FunctionCall("f"))
    turns = [
        Message("system", "be brief", tool_calls=[call]),
        Message("user", "a"),
        Message("tool", "b", tool_call_id="c1"),
    ]
    assert {place for unit in units(turns) for place in unit.places} == {1, 2}

"""What of memory is told beside a question, and what of an exchange is kept: plain decisions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aios.abi.calls import Entry
from aios.abi.messages import FunctionCall, Message, ToolCall
from aios.kernel.memory.base import MAX_CONTENT
from aios.kernel.memory.recall import HEAD, chosen, exchange, question, with_recalled


def entry(text: str, id: str = "m1", kind: str = "fact", created: float = 0.0, **metadata: object) -> Entry:
    return Entry(id=id, content=text, kind=kind, metadata=dict(metadata), created=created)


ASKED = [Message("system", "be kind"), Message("user", "what is the door code?")]


def test_the_last_question_is_looked_for() -> None:
    assert question([*ASKED, Message("assistant", "hm")]) == "what is the door code?"
    assert question([Message("system", "be kind")]) == ""
    assert len(question([Message("user", "x" * 10_000)])) == 4096


def test_what_is_recalled_stands_in_the_last_question_and_nothing_else_changes() -> None:
    told = with_recalled(ASKED, [entry("the code is 4711")])
    assert told[0] is ASKED[0]
    assert told[1].text().startswith(HEAD)
    assert "fact: the code is 4711" in told[1].text()
    assert told[1].text().endswith("what is the door code?")
    assert with_recalled(ASKED, []) == ASKED


def test_a_question_of_parts_gets_one_more_part() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    told = with_recalled([Message("user", [image, {"type": "text", "text": "what is it?"}])], [entry("a cat")])
    assert isinstance(told[0].content, list)
    assert told[0].content[1:] == [image, {"type": "text", "text": "what is it?"}]
    assert "a cat" in told[0].content[0]["text"]


def test_entries_are_told_oldest_first_with_their_day_and_who_said_it() -> None:
    found = [entry("newer", "m2", "dialogue", 86_400.0, role="user"), entry("older", "m1", "tool_call")]
    lines = with_recalled(ASKED, found)[1].text().splitlines()
    assert lines[1:3] == ["- 1970-01-01, tool call: older", "- 1970-01-02, user said: newer"]


def test_what_the_conversation_holds_is_not_told_again() -> None:
    call = ToolCall("c1", FunctionCall("add", '{"a":1}'))
    messages = [*ASKED, Message("assistant", None, tool_calls=[call])]
    found = [entry("what  is the door code?"), entry('add({"a":1})'), entry("another")]
    assert [each.content for each in chosen(found, messages, 1000)[0]] == ["another"]


@given(st.lists(st.text(max_size=200), max_size=12), st.integers(0, 300))
def test_what_is_told_stays_within_its_tokens(texts: list[str], tokens: int) -> None:
    found = [entry(text, f"m{n}") for n, text in enumerate(texts)]
    told, used = chosen(found, [], tokens)
    assert used <= tokens
    assert len(with_recalled([Message("user", "")], told)[0].text().encode()) <= max(1, used) * 8
    assert [each for each in found if each in told] == told


def test_an_exchange_is_what_is_new_since_the_models_last_word() -> None:
    call = ToolCall("c1", FunctionCall("add", '{"a":1}'))
    before = [*ASKED, Message("assistant", "let me see", tool_calls=[call])]
    result = Message("tool", "2", tool_call_id="c1")
    kept = exchange([*before, result], Message("assistant", "it is 2"))
    assert [(each.kind, each.content) for each in kept] == [("observation", "2"), ("dialogue", "it is 2")]
    assert kept[0].metadata == {"tool": "add"}
    kept = exchange(ASKED, before[-1])
    assert [(each.kind, each.content) for each in kept] == [
        ("dialogue", "what is the door code?"),
        ("dialogue", "let me see"),
        ("tool_call", 'add({"a":1})'),
    ]


def test_what_says_nothing_is_not_kept() -> None:
    assert exchange([Message("user", "  ")], Message("assistant", None)) == []


def test_what_is_kept_of_a_long_message_is_as_many_bytes_as_an_entry_holds() -> None:
    said = Message("user", "é" * MAX_CONTENT)
    answer = Message("assistant", "a" + "☃" * MAX_CONTENT)
    asked, answered = exchange([said], answer)
    assert asked.content == "é" * (MAX_CONTENT // 2)
    assert answered.content == "a" + "☃" * ((MAX_CONTENT - 1) // 3)

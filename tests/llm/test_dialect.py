"""Tool calls as each family of models writes them: read back, held to a grammar, and told apart from text."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_model import TOKENIZER, vocabulary

from aios.abi.messages import FunctionCall
from aios.kernel.llm.local.branch import Branch, Spec
from aios.kernel.llm.local.dialect import HERMES, LLAMA3, MISTRAL, MISTRAL3, NANO, Dialect, dialect_of
from aios.kernel.llm.local.grammar import Grammars, call_schema, response_schema

ADD = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
END, CALL = TOKENIZER.special["<|end|>"], TOKENIZER.special["<|call|>"]
DIALECTS = {dialect.name: dialect for dialect in (NANO, HERMES, LLAMA3, MISTRAL, MISTRAL3)}
WRITTEN = {
    "nano": '{"name":"add","arguments":{"a":1}}',
    "hermes": '\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
    "llama3": '{"name": "add", "parameters": {"a": 1}}',
    "mistral": '[{"name": "add", "arguments": {"a": 1}}]',
    "mistral3": 'add[ARGS]{"a": 1}',
}
TWICE = {
    "hermes": WRITTEN["hermes"] + "\n<tool_call>" + WRITTEN["hermes"],
    "llama3": WRITTEN["llama3"] + "; " + WRITTEN["llama3"],
    "mistral": ' [{"name": "add", "arguments": {"a": 1}}, {"name": "add", "arguments": {"a": 2}}]',
    "mistral3": 'add[ARGS]{"a": 1}[TOOL_CALLS]add[ARGS]{"a": 2}',
}


def grammars(dialect: Dialect, *, has_token: bool = True) -> Grammars:
    """A vocabulary whose call token opens calls in `dialect`, or that has none."""
    return Grammars(replace(vocabulary(), dialect=dialect, call=CALL if has_token else None))


def branch(own: Grammars, **more: object) -> Branch:
    dialect = own.vocabulary.dialect
    assert dialect is not None
    schema = call_schema([("add", ADD, True)], dialect)
    return Branch(Spec((1,), 500, call=schema, may_call=True, **more), own)  # type: ignore[arg-type]


def said(line: Branch, text: str) -> bool:
    """Whether the text is allowed, token by token; it is then said."""
    for token in TOKENIZER.encode(text):
        allowed = line.allowed()
        if allowed is not None and not allowed[token]:
            return False
        line.accept(token)
    return True


@pytest.mark.parametrize("name", DIALECTS)
def test_a_call_is_read_as_it_was_written(name: str) -> None:
    assert DIALECTS[name].read(WRITTEN[name]) == [FunctionCall("add", '{"a":1}')]


@pytest.mark.parametrize("name", TWICE)
def test_several_calls_of_one_answer_are_all_read(name: str) -> None:
    found = DIALECTS[name].read(TWICE[name])
    assert found is not None
    assert [call.name for call in found] == ["add", "add"]


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("cut", [1, 5, 12])
def test_an_unfinished_call_is_no_call(name: str, cut: int) -> None:
    assert DIALECTS[name].read(WRITTEN[name].removesuffix("\n</tool_call>")[:-cut]) is None


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize(
    "text", ["", " ", "so be it", '{"a":1}', "[]", "{" * 5000, '{"name":3,"arguments":{}}', "null"]
)
def test_what_is_no_call_is_not_taken_for_one(name: str, text: str) -> None:
    assert DIALECTS[name].read(text) is None


def test_an_id_between_name_and_arguments_is_passed_over() -> None:
    assert MISTRAL3.read('add[CALL_ID]abc123def[ARGS]{"a": 1}') == [FunctionCall("add", '{"a":1}')]


def test_each_tool_named_first_takes_its_own_arguments() -> None:
    schema = call_schema([("add", ADD, True), ("now", None, True)], MISTRAL3)
    for text, is_right in {
        'add[ARGS]{"a": 1}': True,
        "now[ARGS]{}": True,
        'now[ARGS]{"a"': True,
        "add[ARGS]{}": False,
    }.items():
        line = Branch(Spec((1,), 500, call=schema, may_call=True), grammars(MISTRAL3))
        line.accept(CALL)
        assert said(line, text) is is_right


def test_arguments_written_as_a_string_of_json_are_read_too() -> None:
    assert HERMES.read('{"name": "add", "arguments": "{\\"a\\": 1}"}') == [FunctionCall("add", '{"a":1}')]


@pytest.mark.parametrize("dialect", [HERMES, MISTRAL, MISTRAL3, LLAMA3], ids=lambda d: d.name)
def test_what_follows_the_opening_token_is_held_to_the_dialects_form(dialect: Dialect) -> None:
    line = branch(grammars(dialect))
    assert said(line, "Well: ")
    line.accept(CALL)
    assert said(line, WRITTEN[dialect.name])
    if line.finish is None:
        line.accept(END)
    assert line.finish == "tool_calls"
    assert line.text.text == "Well: "
    assert dialect.read(line.call_bytes.decode()) == [FunctionCall("add", '{"a":1}')]
    other = branch(grammars(dialect))
    other.accept(CALL)
    assert not said(other, WRITTEN[dialect.name].replace("add", "sub"))


@pytest.mark.parametrize("dialect", [HERMES, MISTRAL, MISTRAL3, LLAMA3], ids=lambda d: d.name)
@pytest.mark.parametrize("is_parallel", [True, False])
def test_a_second_call_is_allowed_unless_the_agent_forbids_it(dialect: Dialect, is_parallel: bool) -> None:
    line = branch(grammars(dialect), is_parallel=is_parallel)
    line.accept(CALL)
    assert said(line, TWICE[dialect.name]) is is_parallel
    calls = dialect.read(line.call_bytes.decode())
    assert (calls is not None and len(calls) == 2) is is_parallel


def test_a_call_that_opens_with_plain_text_is_found_and_not_shown() -> None:
    line = branch(grammars(HERMES, has_token=False))
    assert said(line, "Let me see <tool_c")
    assert line.text.text == "Let me see "  # what may become the opening is held back
    assert said(line, 'all>\n{"name": "add", "arg')
    allowed = line.allowed()
    assert allowed is not None
    assert not allowed[ord("x")]
    assert said(line, 'uments": {"a": 1}}\n</tool_call>')
    line.accept(END)
    assert line.finish == "tool_calls"
    assert line.text.text == "Let me see "
    assert HERMES.read(line.call_bytes.decode()) == [FunctionCall("add", '{"a":1}')]


def test_text_that_is_nearly_the_opening_is_text() -> None:
    line = branch(grammars(HERMES, has_token=False))
    assert said(line, "a <tool_chest> of tools")
    line.accept(END)
    assert (line.finish, line.text.text) == ("stop", "a <tool_chest> of tools")


@pytest.mark.parametrize("dialect", [HERMES, MISTRAL, MISTRAL3], ids=lambda d: d.name)
def test_a_forced_call_without_an_opening_token_is_spelt(dialect: Dialect) -> None:
    line = branch(grammars(dialect, has_token=False), must_call=True)
    allowed = line.allowed()
    assert allowed is not None
    assert [TOKENIZER.tokens[i][:1] for i in np.flatnonzero(allowed)] == [dialect.opening[:1].encode()]
    assert said(line, dialect.opening + WRITTEN[dialect.name])
    if line.finish is None:
        line.accept(END)
    assert line.finish == "tool_calls"
    assert line.text.text == ""
    assert dialect.read(line.call_bytes.decode()) == [FunctionCall("add", '{"a":1}')]


@pytest.mark.parametrize("must_call", [True, False])
def test_json_alone_is_a_call_of_llama_3(must_call: bool) -> None:
    line = branch(grammars(LLAMA3), must_call=must_call)
    allowed = line.allowed()
    assert (allowed is None) is not must_call
    assert said(line, WRITTEN["llama3"])
    line.accept(END)
    assert (line.finish, line.text.text) == ("tool_calls", "")


def test_an_answer_in_json_is_no_call_where_json_was_asked_for() -> None:
    answer = response_schema({"type": "json_object"}, LLAMA3)
    line = branch(grammars(LLAMA3), answer=answer)
    assert said(line, '{"name": "x"}')
    if line.finish is None:
        line.accept(END)
    assert (line.finish, line.text.text) == ("stop", '{"name": "x"}')


def test_a_second_end_token_ends_an_answer_too() -> None:
    own = Grammars(replace(vocabulary(), ends=frozenset({3})))
    number = {"type": "json_schema", "json_schema": {"schema": {"type": "integer"}}}
    line = Branch(Spec((1,), 9, answer=response_schema(number)), own)
    assert said(line, "1")
    allowed = line.allowed()
    assert allowed is not None
    assert allowed[3]
    line.accept(3)
    assert (line.finish, line.text.text) == ("stop", "1")


def test_the_opening_is_ordinary_text_without_tools() -> None:
    own = grammars(HERMES, has_token=False)
    line = Branch(Spec((1,), 500), own)
    assert said(line, "<tool_call>{}")
    line.accept(END)
    assert (line.finish, line.text.text) == ("stop", "<tool_call>{}")


def test_the_dialect_is_the_one_that_the_template_writes() -> None:
    assert dialect_of("{% if tools %}<tool_call>{% endif %}") is HERMES
    assert dialect_of("{% if tools %}[TOOL_CALLS][{% endif %}") is MISTRAL
    assert dialect_of("{% if tools %}[TOOL_CALLS]name[ARGS]{% endif %}") is MISTRAL3
    assert dialect_of("{% if tools %}<|python_tag|>{% endif %}") is LLAMA3
    assert dialect_of("{% if tools %}" + json.dumps({"name": "f", "parameters": {}}) + "{% endif %}") is LLAMA3
    assert dialect_of("{{ messages }}") is None

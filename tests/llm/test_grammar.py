"""What a sequence may say: JSON by a schema, tool calls by theirs, and clear refusals of schemas that explode."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tiny_model import TOKENIZER, vocabulary

from aios.kernel.llm.local.dialect import HERMES, LLAMA3, MISTRAL, MISTRAL3, Dialect
from aios.kernel.llm.local.grammar import (
    GrammarError,
    Grammars,
    Guide,
    answer_grammar,
    call_schema,
    check_schema,
    response_schema,
)
from aios.kernel.llm.local.schema_faults import explain_refusal, explain_stop

END, CALL = TOKENIZER.special["<|end|>"], TOKENIZER.special["<|call|>"]
ADD = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(vocabulary())


def accepts(guide: Guide, text: str) -> bool:
    """Whether `text` may be said, token by token; it is said as far as it may."""
    for token in TOKENIZER.encode(text):
        allowed = guide.allowed()
        if allowed is not None and not allowed[token]:
            return False
        guide.accept(token)
    return True


def for_schema(grammars: Grammars, schema: Any, *, strict: bool = True) -> Guide:
    wanted = {"type": "json_schema", "json_schema": {"schema": schema, "strict": strict}}
    return Guide(grammars, answer=response_schema(wanted))


def test_free_text_is_not_masked(grammars: Grammars) -> None:
    guide = Guide(grammars, answer=response_schema(None))
    assert guide.allowed() is None
    assert not guide.is_complete
    assert response_schema({"type": "text"}) is None


def test_a_json_object_is_compact_and_ends_by_itself(grammars: Grammars) -> None:
    wanted = response_schema({"type": "json_object"})
    guide = Guide(grammars, answer=wanted)
    assert accepts(guide, '{"a":[1,"x"]}')
    assert guide.is_complete
    assert not accepts(Guide(grammars, answer=wanted), '{"a": 1}')
    assert not accepts(Guide(grammars, answer=wanted), "[1]")


def test_an_answer_that_may_go_on_may_also_end(grammars: Grammars) -> None:
    guide = for_schema(grammars, {"type": "integer"})
    assert accepts(guide, "12")
    allowed = guide.allowed()
    assert allowed is not None
    assert allowed[END]
    assert allowed[ord("3")]
    assert not guide.is_complete


def test_special_tokens_are_no_way_to_write_json(grammars: Grammars) -> None:
    guide = for_schema(grammars, {"type": "string"})
    assert accepts(guide, '"a')
    allowed = guide.allowed()
    assert allowed is not None
    assert not allowed[sorted(TOKENIZER.special.values())].any()


def test_a_call_names_a_tool_of_the_list_and_fits_its_schema(grammars: Grammars) -> None:
    schema = call_schema([("add", ADD, True), ("now", None, True)])

    def called(text: str) -> bool:
        guide = Guide(grammars, call=schema, may_call=True)
        assert guide.allowed() is None
        guide.accept(CALL)
        return accepts(guide, text) and guide.is_complete

    assert called('{"name":"add","arguments":{"a":1,"b":2}}')
    assert called('{"name":"now","arguments":{}}')
    assert not called('{"name":"sub","arguments":{}}')
    assert not called('{"name":"add","arguments":{"a":1}}')
    assert not called('{"name":"add","arguments":{"a":1,"b":2,"c":3}}')
    assert not called('{"name":"add","arguments":{"a":"1","b":2}}')


TREE = {
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/Node"}, "like": {"const": {"$ref": "#/x"}}},
    "required": ["root"],
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {"n": {"type": "integer"}, "next": {"$ref": "#/$defs/Node"}},
            "required": ["n"],
            "additionalProperties": False,
        }
    },
}
"""As programs make them of their types: with definitions, that the parameters refer to."""


@pytest.mark.parametrize("others", [[], [("add", ADD, True)]])
def test_a_tools_parameters_may_refer_to_what_they_define(grammars: Grammars, others: list[Any]) -> None:
    schema = call_schema([*others, ("walk", TREE, True), ("step", {"$ref": "#/$defs/N", "$defs": {"N": ADD}}, True)])

    def called(name: str, arguments: str) -> bool:
        guide = Guide(grammars, call=schema, may_call=True)
        guide.accept(CALL)
        return accepts(guide, f'{{"name":"{name}","arguments":{arguments}}}') and guide.is_complete

    assert called("walk", '{"root":{"n":1,"next":{"n":2,"next":{"n":3}}}}')
    assert called("walk", '{"root":{"n":1},"like":{"$ref":"#/x"}}')
    assert not called("walk", '{"root":{"n":1,"next":{"n":"x"}}}')
    assert not called("walk", '{"root":{"m":1}}')
    assert called("step", '{"a":1,"b":2}')
    assert not called("step", '{"a":1}')


@pytest.mark.parametrize("dialect", [HERMES, LLAMA3, MISTRAL, MISTRAL3])
def test_parameters_that_refer_to_themselves_are_followed_in_each_dialect(dialect: Dialect) -> None:
    grammars = Grammars(replace(vocabulary(), dialect=dialect, call=None))
    for functions in ([("walk", TREE, True)], [("walk", TREE, True), ("add", ADD, True)]):
        guide = Guide(grammars, call=call_schema(functions, dialect), may_call=True)
        guide.open(b"")
        wrong = {**TREE, "properties": {"root": {"$ref": "#/$defs/Nod"}}}
        assert guide.allowed() is not None
        with pytest.raises(GrammarError, match=re.escape("the $ref '#/$defs/Nod' points at nothing in the schema")):
            Guide(grammars, call=call_schema([("f", wrong, True), *functions], dialect), may_call=True)


def test_a_forced_call_begins_with_the_call_token_only(grammars: Grammars) -> None:
    guide = Guide(grammars, call=call_schema([("add", ADD, True)]), must_call=True)
    allowed = guide.allowed()
    assert allowed is not None
    assert np.flatnonzero(allowed).tolist() == [CALL]


def test_the_call_token_is_banned_without_tools() -> None:
    assert vocabulary().banned(may_call=False)[CALL]
    assert not vocabulary().banned(may_call=True)[CALL]
    assert not vocabulary().banned(may_call=False)[END]


def test_with_a_response_format_and_tools_the_model_may_answer_or_call(grammars: Grammars) -> None:
    answer, call = response_schema({"type": "json_object"}), call_schema([("add", ADD, True)])
    guide = Guide(grammars, answer=answer, call=call, may_call=True)
    allowed = guide.allowed()
    assert allowed is not None
    assert allowed[[CALL, ord("{")]].all()
    assert not allowed[ord("x")]
    guide.accept(ord("{"))
    later = guide.allowed()
    assert later is not None
    assert not later[CALL]


def test_a_tool_that_is_not_strict_is_unconstrained(grammars: Grammars) -> None:
    assert call_schema([("add", ADD, False)]) is None
    guide = Guide(grammars, call=None, may_call=True)
    guide.accept(CALL)
    assert guide.in_call
    allowed = guide.allowed()
    assert allowed is not None
    assert not allowed[CALL]
    assert allowed.sum() == len(TOKENIZER.tokens) - 1


def test_beside_constrained_tools_one_that_is_not_strict_takes_any_object(grammars: Grammars) -> None:
    schema = call_schema([("add", ADD, True), ("any", ADD, False)])
    guide = Guide(grammars, call=schema, may_call=True)
    guide.accept(CALL)
    assert accepts(guide, '{"name":"any","arguments":{"x":[1]}}')


def test_keywords_we_cannot_follow_are_refused_when_strict_and_ignored_for_tools(grammars: Grammars) -> None:
    odd = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}, "required": ["a"]}
    with pytest.raises(GrammarError, match="uniqueItems"):
        for_schema(grammars, odd)
    assert accepts(for_schema(grammars, odd, strict=False), '{"a":[1,1]}')
    guide = Guide(grammars, call=call_schema([("f", odd, True)]), may_call=True)
    guide.accept(CALL)
    assert accepts(guide, '{"name":"f","arguments":{"a":[]}}')


def inside(schema: Any) -> Any:
    return {"type": "object", "properties": {"a": {"type": "array", "items": schema}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "strin"}, "followed: the type 'strin' is not known; a type is string, number"),
        (inside({"type": ["null", "strin"]}), "at #/properties/a/items: the type 'strin' is not known"),
        (inside({"not": {"type": "string"}}), "at #/properties/a/items: 'not' cannot be followed; do without"),
        (inside({"$ref": "#/nowhere"}), "at #/properties/a/items: the $ref '#/nowhere' points at nothing"),
        (inside({"$ref": "#/$defs/a~1b"}), "'#/$defs/a~1b' points at nothing"),
        (inside({"type": "string", "pattern": "(("}), "at #/properties/a/items: the pattern '((' cannot be used: uncl"),
        ({"patternProperties": {"x(": {}}}, "the pattern 'x(' cannot be used: unclosed group"),
        ({"enum": []}, "followed: nothing can fulfil it: an empty list of alternatives"),
        ({"allOf": [{"type": "string"}, {"type": "number"}]}, "its types exclude each other"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "minLength (5) is greater than maxLength (2)"),
        (
            inside(True) | {"required": ["b"], "additionalProperties": False},
            "the required property 'b' may have no value",
        ),
        (inside({"type": "string", "format": "dat"}), "at #/properties/a/items: the format 'dat' is not known"),
        (inside({"type": "integer", "multipleOf": 0}), "at #/properties/a/items: multipleOf must be a number above 0"),
        (inside({"minLength": "x"}), 'at #/properties/a/items: minLength must be a whole number from 0, not "x"'),
        (inside({"required": [5]}), "each of required must be a text, not 5"),
        (inside(5), "at #/properties/a/items: a schema must be an object, true or false"),
        (inside({"properties": 5}), "at #/properties/a/items: properties must be an object"),
        (inside({"oneOf": [{"type": "string"}, {"minLength": 1}]}), "at #/properties/a/items: oneOf with alternatives"),
        ({"$schema": "http://foo"}, "'http://foo' is not known here"),
        ({"anyOf": [{"type": "x"}, {"type": "x"}]}, "at #/anyOf/0 or #/anyOf/1: the type 'x' is not known"),
        ({"properties": {"a/b": {"type": "x"}, "type": {"type": "string"}}}, "at #/properties/a~1b: the type 'x'"),
        ({"$ref": "#"}, "nothing can fulfil it; does a $ref lead back to itself only?"),
    ],
)
def test_a_schema_that_is_none_is_refused_with_the_reason_and_the_place(
    grammars: Grammars, schema: Any, words: str
) -> None:
    with pytest.raises(GrammarError, match=re.escape(words)) as caught:
        for_schema(grammars, schema).allowed()
    for inner in ("llguidance", "failed to compile", "<state>", "Parser", "%json"):
        assert inner not in str(caught.value)


def test_a_fault_in_a_tools_parameters_is_told_with_the_tools_name(grammars: Grammars) -> None:
    odd = {"type": "object", "properties": {"a": {"type": "strin"}}}
    for tools in ([("f", odd, True)], [("add", ADD, True), ("f", odd, True)]):
        with pytest.raises(GrammarError, match="at #/properties/a of the parameters of 'f': the type 'strin'"):
            Guide(grammars, call=call_schema(tools), may_call=True)


def test_a_schema_that_grows_too_complex_says_what_would_help() -> None:
    assert "fewer alternatives" in explain_stop("Parser Error: too many items\n<state>\nStop: ParserTooComplex\n")
    assert "fewer alternatives" in explain_stop("something new")


def test_a_message_nobody_foresaw_is_told_without_the_librarys_own_text() -> None:
    told = explain_refusal("at 2(8): failed to compile JSON schema: odd thing\n   1 | %llguidance {}\n  ^\n", {})
    assert told == "the schema cannot be followed: odd thing"


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (nested(100_000), "levels deep"),
        ({"enum": ["x" * 99] * 5000}, "bytes"),
        ({"properties": {"a": {"$ref": "https://example.org/schema"}}}, "inside it"),
        ({"anyOf": [{"$ref": "other.json#/x"}]}, "inside it"),
    ],
)
def test_a_schema_too_large_too_deep_or_elsewhere_is_refused_before_it_is_compiled(schema: Any, words: str) -> None:
    with pytest.raises(GrammarError, match=words):
        check_schema(schema)


def test_the_same_schema_is_compiled_once(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = response_schema({"type": "json_object"})
    assert wanted is not None
    compiled = grammars.prepared(answer_grammar(wanted))
    monkeypatch.setattr(grammars, "_compile", lambda grammar: pytest.fail("compiled again"))
    assert grammars.prepared(answer_grammar(wanted)) is compiled
    first, second = compiled.deep_copy(), compiled.deep_copy()
    first.consume_token(ord("{"))
    assert not second.is_error()
    assert second.consume_token(ord("{"))


def test_a_call_is_not_compiled_again_though_other_schemas_took_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = Grammars(vocabulary())
    schema = call_schema([("add", ADD, True)])
    assert schema is not None
    guide = Guide(grammars, call=schema, may_call=True)
    monkeypatch.setattr(grammars, "_compile", lambda schema: pytest.fail("compiled in the middle"))
    grammars._compiled.clear()
    guide.accept(CALL)
    assert accepts(guide, '{"name":"add","arguments":{"a":1,"b":2}}')
    assert guide.is_complete


def test_a_schema_in_use_is_never_seen_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = Grammars(vocabulary())
    schema = response_schema({"type": "json_object"})
    assert schema is not None
    grammars.prepared(answer_grammar(schema))
    seen: list[bool] = []

    class Watched:
        """A lock that notes what the next holder would find."""

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            seen.append(answer_grammar(schema).lark in grammars._compiled)

    monkeypatch.setattr(grammars, "_lock", Watched())
    grammars.prepared(answer_grammar(schema))
    assert seen
    assert all(seen)


def test_a_guide_replays_to_the_same_state(grammars: Grammars) -> None:
    schema = call_schema([("add", ADD, True)])
    said = [CALL, *TOKENIZER.encode('{"name":"add","arguments":{"a":1')]
    masks = []
    for _ in range(2):
        guide = Guide(grammars, call=schema, may_call=True)
        for token in said:
            guide.accept(token)
        mask = guide.allowed()
        assert mask is not None
        masks.append(mask.tolist())
    assert masks[0] == masks[1]


def test_schemas_are_told_apart_by_all_they_say() -> None:
    schema = {"type": "object", "x-guidance": {"whitespace_flexible": True}}
    strict, lenient = (
        json.loads(response_schema({"type": "json_schema", "json_schema": {"schema": schema, "strict": strict}}) or "")
        for strict in (True, False)
    )
    assert strict["x-guidance"] | {"lenient": True} == lenient["x-guidance"]
    assert strict["x-guidance"]["whitespace_flexible"] is False
    with pytest.raises(GrammarError, match="xml"):
        response_schema({"type": "xml"})
    with pytest.raises(GrammarError, match="missing"):
        response_schema({"type": "json_schema", "json_schema": {}})

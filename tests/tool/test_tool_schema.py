"""Arguments are checked before a call is queued, and a schema that is none, or costs too much, is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.abi.errors import AiosError, BadRequest, TooLarge
from aios.kernel.tool.schema import MAX_NODES, Checker, compile_schema

CONVERT = {
    "type": "object",
    "properties": {
        "value": {"type": "number"},
        "unit": {"enum": ["m", "km"]},
        "deep": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer"}}}},
    },
    "required": ["value", "unit"],
    "additionalProperties": False,
}


def refusal(arguments: dict[str, Any]) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        Checker("convert", CONVERT).check(arguments)
    return caught.value


def test_good_arguments_pass() -> None:
    Checker("convert", CONVERT).check({"value": 1.5, "unit": "m", "deep": [{"x": 1}]})


@pytest.mark.parametrize(
    ("arguments", "words", "param"),
    [
        ({"value": "3", "unit": "m"}, "'value': expected number, got \"3\"", "arguments.value"),
        ({"value": 3}, "'unit' is missing", "arguments"),
        ({"value": 3, "unit": "mile"}, '\'unit\': expected one of "m", "km", got "mile"', "arguments.unit"),
        ({"value": 3, "unit": "m", "valeu": 1}, "unknown 'valeu'; did you mean 'value'?", "arguments"),
        ({"value": 3, "unit": "m", "deep": [{"x": "a"}]}, "'deep.0.x': expected integer", "arguments.deep.0.x"),
    ],
)
def test_a_wrong_argument_is_told_with_its_path_what_was_expected_and_what_came(
    arguments: dict[str, Any], words: str, param: str
) -> None:
    error = refusal(arguments)
    assert words in error.message
    assert error.message.endswith('It takes value (number), unit (one of "m", "km"), deep (array, optional)')
    assert error.param == param


def test_arguments_that_are_no_json_are_refused() -> None:
    assert "not JSON" in refusal({"value": 1, "unit": "\ud800"}).message
    with pytest.raises(TooLarge):
        Checker("convert", CONVERT).check({"value": 1, "unit": "m" * (2 << 20)})


def bomb(levels: int) -> dict[str, Any]:
    """Small as written, 2**levels nodes with its references written out."""
    parts: dict[str, Any] = {"d0": {"type": "string"}}
    for n in range(levels):
        parts[f"d{n + 1}"] = {"anyOf": [{"$ref": f"#/$defs/d{n}"}, {"$ref": f"#/$defs/d{n}"}]}
    return {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{levels}"}}, "$defs": parts}


def around(part: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": part}}


def deep(levels: int) -> dict[str, Any]:
    part: dict[str, Any] = {}
    for _ in range(levels):
        part = {"items": part}
    return around(part)


def itself() -> dict[str, Any]:
    schema: dict[str, Any] = around({})
    schema["properties"]["a"] = schema
    return schema


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("text", "must be an object"),
        ({"type": "string"}, "must describe an object"),
        (around({"type": "objekt"}), "not a JSON Schema: at properties.a.type"),
        (around({"$ref": "file:///etc/passwd"}), "refers to 'file:///etc/passwd'"),
        (around({"$ref": "http://127.0.0.1/x"}), "refers to 'http://127.0.0.1/x'"),
        (around({"$id": "http://127.0.0.1/x"}), "uses \\$id"),
        (around({"$ref": "#/$defs/none"}), "which it does not have"),
        (around({"$ref": "#/properties/a"}), "holds itself"),
        (itself(), "holds itself"),
        (deep(100), "deeper"),
        (bomb(12), "more than"),
        (around({"enum": list(range(MAX_NODES + 1))}), "more than"),
        (around({"description": "x" * 70_000}), "larger than"),
        (around({"pattern": "(?=a)b"}), "not a JSON Schema"),
        (around({"pattern": "((a{100}){100}){100}"}), "not a JSON Schema"),
        (around({"default": object()}), "not a JSON Schema"),
    ],
)
def test_a_schema_that_is_none_or_too_much_is_refused_with_the_reason(schema: Any, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as caught:
        compile_schema(schema, "tool 't'")
    assert caught.value.code == "bad_schema"


def test_a_schema_may_refer_to_its_own_parts() -> None:
    checker = Checker("t", {**around({"$ref": "#/$defs/n"}), "$defs": {"n": {"type": "integer"}}})
    checker.check({"a": 1})
    with pytest.raises(BadRequest, match="'a': expected integer"):
        checker.check({"a": "x"})


def test_a_pattern_that_would_backtrack_for_ever_is_matched_in_linear_time() -> None:
    with pytest.raises(BadRequest):
        Checker("t", around({"pattern": "^(a+)+$"})).check({"a": "a" * 50_000 + "b"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
KEYS = ["type", "properties", "items", "enum", "$ref", "required", "pattern", "anyOf", "a"]


def outcome(schema: Any, arguments: Any) -> AiosError | None:
    try:
        Checker("t", schema).check(arguments)
    except AiosError as error:
        return error
    return None


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JSON | st.sampled_from(["object", "#/a", "#"]), max_size=5), JSON)
def test_any_schema_and_any_arguments_end_in_yes_or_in_one_clear_error(schema: Any, value: Any) -> None:
    error = outcome(schema, {"a": value})
    assert error is None or (error.status in (400, 413) and "'t'" in error.message)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["value", "unit", "deep", "other"]), JSON, max_size=4))
def test_wrong_arguments_never_raise_anything_but_a_refusal(arguments: dict[str, Any]) -> None:
    error = outcome(CONVERT, arguments)
    assert error is None or error.message.startswith("bad arguments for tool 't': ")

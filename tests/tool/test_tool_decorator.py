"""`@tool`: the manifest comes from the type hints and the docstring, and the function stays a function."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypedDict

import pytest

from aios.abi.calls import Effect
from aios.kernel.tool.schema import compile_schema
from aios.sdk.tool import bind, manifest_of, tool


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0


class Tag(TypedDict):
    name: str


@dataclasses.dataclass
class Chain:
    next: Chain | None = None


def everything(
    text: str,
    number: Annotated[float, "how much"],
    choice: Literal["a", "b"] = "a",
    many: list[int] | None = None,
    point: Point | None = None,
    tag: Tag | None = None,
    day: datetime.date | None = None,
    free: dict[str, Any] | None = None,
    on: bool = False,
) -> str:
    """Do all kinds of things.

    In two paragraphs.

    Args:
        text: what it is
            about
        on (bool): whether

    Returns:
        nothing much
    """
    return f"{text} {number} {point} {day}"


def test_the_schema_says_what_the_hints_and_the_docstring_say() -> None:
    manifest = manifest_of(everything)
    assert manifest.description == "Do all kinds of things.\n\nIn two paragraphs."
    schema = manifest.parameters
    assert schema["required"] == ["text", "number"]
    assert schema["additionalProperties"] is False
    parts = schema["properties"]
    assert parts["text"] == {"type": "string", "description": "what it is about"}
    assert parts["number"] == {"type": "number", "description": "how much"}
    assert parts["choice"] == {"enum": ["a", "b"], "default": "a"}
    assert parts["many"]["anyOf"] == [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]
    assert parts["point"]["anyOf"][0]["required"] == ["x"]
    assert parts["on"] == {"type": "boolean", "description": "whether", "default": False}
    compile_schema(schema, "everything")


def test_json_arguments_become_what_the_hints_say() -> None:
    arguments = {"text": "t", "number": 1, "point": {"x": 3.0}, "day": "2024-02-29"}
    assert everything(**bind(everything, arguments)) == "t 1.0 Point(x=3, y=0.0) 2024-02-29"
    with pytest.raises(ValueError, match="Expected `int`"):
        bind(everything, {"point": {"x": "no"}})


def test_a_decorated_function_stays_a_plain_function() -> None:
    @tool
    def double(n: int) -> int:
        return 2 * n

    assert double(4) == 8


def test_unknown_means_dangerous() -> None:
    @tool
    def act() -> None:
        """Act."""

    manifest = manifest_of(act)
    assert (manifest.effect, manifest.max_instances, manifest.timeout) == (Effect.IRREVERSIBLE, 1, 30.0)
    assert manifest.changes_the_world


def test_what_is_declared_is_in_the_manifest() -> None:
    @tool(name="look_up", effect="read", timeout=2, max_instances=3, idempotent=True)
    def f(q: str) -> str:
        return q

    manifest = manifest_of(f)
    assert (manifest.name, manifest.effect, manifest.timeout) == ("look_up", Effect.READ, 2)
    assert (manifest.max_instances, manifest.is_idempotent) == (3, True)
    assert manifest.spec().function.name == "look_up"


def no_hint(x) -> None: ...
def stars(*x: int) -> None: ...
def callback(x: Callable[[], None]) -> None: ...
def endless(x: Chain) -> None: ...
def unread(x: Nope) -> None: ...  # noqa: F821 - that is the point


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (no_hint, "'x' needs a type hint"),
        (stars, "no place in JSON"),
        (callback, "has no JSON Schema"),
        (endless, "Chain holds itself"),
        (unread, "cannot be read"),
        (lambda: None, "name"),
    ],
)
def test_what_has_no_schema_is_a_type_error_that_names_it(function: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        tool(function)


def test_a_wrong_declaration_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="effect"):
        tool(effect="reed")(everything)
    with pytest.raises(TypeError, match="timeout"):
        tool(timeout=0)(everything)

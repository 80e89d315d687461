"""Schemas of arguments: refused when they are none or cost too much, and a check that a model can learn from.

Knows JSON Schema (2020-12) and nothing about tools' runs. A schema that passes `compile_schema` is bounded:
it reaches nothing outside itself, does not hold itself, and has at most `MAX_NODES` nodes with all references
written out, so checking an argument costs at most that many steps for each of its parts. Patterns run in
linear time.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import jsonschema_rs
import msgspec

from aios.abi.calls import nearest
from aios.abi.errors import BadRequest, TooLarge

MAX_SCHEMA = 64 << 10
MAX_NODES = 5000
MAX_DEPTH = 32
MAX_ARGUMENTS = 1 << 20
_SHOWN = 5


class Checker:
    """Checks the arguments of one tool."""

    def __init__(self, tool: str, schema: dict[str, Any]) -> None:
        self._tool = tool
        self._schema = schema
        self._validator = compile_schema(schema, f"the parameters of tool '{tool}'")

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raises BadRequest: where, what was expected, what came, and what the tool takes."""
        try:
            # A megabyte is counted as it travels: as JSON.
            if len(msgspec.json.encode(arguments)) > MAX_ARGUMENTS:
                raise TooLarge(f"the arguments of '{self._tool}' are over {MAX_ARGUMENTS:,} bytes of JSON")
            if self._validator.is_valid(arguments):
                return
        except (ValueError, TypeError, RecursionError) as error:
            raise self._refuse(f"not JSON that can be checked ({error})", None) from None
        errors = list(itertools.islice(self._validator.iter_errors(arguments), _SHOWN))
        errors.sort(key=lambda e: len(e.instance_path))
        path = _dotted(errors[0].instance_path)
        raise self._refuse("; ".join(self._explain(each, arguments) for each in errors), path or None)

    def _refuse(self, what: str, path: str | None) -> BadRequest:
        return BadRequest(
            f"bad arguments for tool '{self._tool}': {what}. It takes {signature(self._schema)}",
            code="bad_tool_arguments",
            param=f"arguments.{path}" if path else "arguments",
        )

    def _explain(self, error: jsonschema_rs.ValidationError, arguments: Mapping[str, Any]) -> str:
        path = _dotted(error.instance_path)
        where = f"'{path}': " if path else ""
        known = (self._schema.get("properties") or {}) if not path else {}
        match error.kind.name:
            case "required":
                return f"{where}'{error.kind.value}' is missing"
            case "additionalProperties":
                words = [str(word)[:60] for word in error.kind.value[:5]]
                return f"{where}unknown {', '.join(map(repr, words))}{nearest(words[0], known)}"
            case "type":
                return f"{where}expected {' or '.join(error.kind.value)}, got {_show(_at(arguments, error))}"
            case "enum":
                options = [msgspec.json.encode(option).decode() for option in error.kind.value]
                got = _show(_at(arguments, error))
                return f"{where}expected one of {', '.join(options[:20])}, got {got}"
            case _:
                return f"{where}{error.message[:300]}"


def compile_schema(schema: Any, where: str) -> Any:
    """A validator for `schema`. Raises BadRequest that says why it is none."""
    if not isinstance(schema, dict):
        raise _bad(where, f"must be an object, not {type(schema).__name__}")
    try:
        if len(msgspec.json.encode(schema)) > MAX_SCHEMA:
            raise _bad(where, f"is larger than {MAX_SCHEMA:,} bytes")
        if schema.get("type", "object") != "object":
            raise _bad(where, f"must describe an object, not {schema['type']!r}")
        _measure(schema, schema, 0, where, [0])
        jsonschema_rs.meta.validate(schema)
        return jsonschema_rs.Draft202012Validator(
            schema, offline=True, pattern_options=jsonschema_rs.RegexOptions(size_limit=1 << 20)
        )
    except RecursionError:
        raise _bad(where, "holds itself") from None
    except jsonschema_rs.ValidationError as error:
        path = _dotted(error.instance_path)
        place = f"at {path}: " if path else ""
        raise _bad(where, f"is not a JSON Schema: {place}{error.message[:300]}") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise _bad(where, f"is not a JSON Schema: {error}") from None


def signature(schema: Mapping[str, Any]) -> str:
    """The arguments in a line: `value (number), unit (string, optional)`."""
    required = schema.get("required", ())
    parts = []
    for name, part in list((schema.get("properties") or {}).items())[:20]:
        kind = _kind(part) if isinstance(part, dict) else "anything"
        parts.append(f"{name} ({kind}{'' if name in required else ', optional'})")
    return ", ".join(parts) or "no arguments"


def _kind(part: Mapping[str, Any]) -> str:
    if "enum" in part:
        return "one of " + ", ".join(_show(option) for option in part["enum"][:10])
    kind = part.get("type", "anything")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _measure(node: Any, root: dict[str, Any], depth: int, where: str, count: list[int]) -> None:
    """Count nodes as if every reference were written out: a schema with itself inside never ends."""
    count[0] += 1
    if depth > MAX_DEPTH or count[0] > MAX_NODES:
        raise _bad(where, f"holds itself, is deeper than {MAX_DEPTH} or has more than {MAX_NODES} nodes")
    if isinstance(node, dict):
        for word in ("$dynamicRef", "$recursiveRef", "$id", "$anchor", "$dynamicAnchor"):
            if isinstance(node.get(word), str):
                raise _bad(where, f"uses {word}; only '$ref': '#/…' is taken")
        if isinstance(reference := node.get("$ref"), str):
            _measure(_target(reference, root, where), root, depth + 1, where, count)
        for child in node.values():
            _measure(child, root, depth + 1, where, count)
    elif isinstance(node, list):
        for child in node:
            _measure(child, root, depth + 1, where, count)


def _target(reference: str, root: dict[str, Any], where: str) -> Any:
    if not reference.startswith("#/"):
        raise _bad(where, f"refers to '{reference[:100]}'; it may refer to its own parts ('#/$defs/…')")
    node: Any = root
    for step in reference[2:].split("/"):
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and step.isdigit() and int(step) < len(node):
            node = node[int(step)]
        elif isinstance(node, dict) and step in node:
            node = node[step]
        else:
            raise _bad(where, f"refers to '{reference[:100]}', which it does not have")
    return node


def _bad(where: str, why: str) -> BadRequest:
    return BadRequest(f"{where}: the schema {why}", code="bad_schema", param="parameters")


def _dotted(path: list[str | int]) -> str:
    return ".".join(str(step) for step in path)


def _at(arguments: Any, error: jsonschema_rs.ValidationError) -> Any:
    for step in error.instance_path:
        arguments = arguments[step]
    return arguments


def _show(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "…"

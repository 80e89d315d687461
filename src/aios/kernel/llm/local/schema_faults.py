"""What is wrong with a schema that cannot be followed, and where in it. Knows llguidance's messages, and no grammar.

llguidance says what it stumbled over, in words about its own inside, and not where. Here the words become a sentence
about the schema, and the place is the first one that the sentence is true of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

_CORE = re.compile(r"failed to compile JSON schema: (.*?)\s*(?:\n\s+\d+ \| .*)?\Z", re.DOTALL)
_STOPPED = re.compile(r"^Stop: (\w+)$", re.MULTILINE)

NAMED = ("properties", "patternProperties", "$defs", "definitions")
LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
ARGUMENTS = (("arguments",), ("parameters",))
"""What a call's arguments are called, by its dialect."""
_MOVED = re.compile(r"#(?:/anyOf/\d+)?/properties/(?:arguments|parameters)")
"""Where a tool's parameters stand in the schema of calls."""
MAX_PLACES = 3
"""Places that are named when the message fits several."""
TYPES = "string, number, integer, boolean, null, object or array"
KINDS = {"f64": "a number", "u64": "a whole number", "bool": "true or false", "array": "a list", "string": "a text",
         "positive integer": "a whole number from 0"}  # fmt: skip

Match = re.Match[str]
Fits = Callable[[Any, Match], bool]
"""Whether a place of the schema is the one that a message speaks of."""


class _Fault(NamedTuple):
    pattern: re.Pattern[str]
    sentence: Callable[[Match], str]
    fits: Fits


def _has(key: str) -> Fits:
    return lambda node, match: key in node


def _holds(*groups: int) -> Fits:
    """The keys that the match names are all there."""
    return lambda node, match: all(match[group] in node for group in groups)


def _keys(match: Match) -> list[str]:
    return [str(key) for key in json.loads(match[1])]


def _type(node: Any, match: Match) -> bool:
    found = node.get("type")
    return match[1] == found or (isinstance(found, list) and match[1] in found)


def _pattern(node: Any, match: Match) -> bool:
    texts = [node.get("pattern"), *_named(node, "patternProperties")]
    return any(isinstance(text, str) and text.splitlines()[:1] == match[1].splitlines()[:1] for text in texts)


def _named(node: Any, key: str) -> list[Any]:
    inner = node.get(key)
    return list(inner) if isinstance(inner, dict) else []


def _needs(node: Any, match: Match) -> bool:
    required = node.get("required")
    return isinstance(required, list) and match[1] in required


def _wrong(node: Any, match: Match) -> bool:
    """The key that the match names holds neither a list nor what is asked for."""
    right = dict if "object" in match[2] else list | str if "string" in match[2] else list
    return match[1] in node and not isinstance(node[match[1]], right)


def _is_no_schema(node: Any, match: Match) -> bool:
    """The one question that is asked of what is no object."""
    return not isinstance(node, dict | bool)


def _fault(pattern: str, sentence: str | Callable[[Match], str], fits: Fits) -> _Fault:
    told = sentence if callable(sentence) else lambda match: match.expand(sentence)
    return _Fault(re.compile(pattern, re.DOTALL), told, fits)


FAULTS = [
    _fault(r"Invalid type: (.*)", rf"the type '\1' is not known; a type is {TYPES}", _type),
    _fault(
        r"Unimplemented keys: (\[.*\])",
        lambda m: f"{' and '.join(map(repr, _keys(m)))} cannot be followed; do without, or without \"strict\": true",
        lambda node, m: any(key in node for key in _keys(m)),
    ),
    _fault(
        r"Pointer '(.*)' does not exist", r"the $ref '#\1' points at nothing in the schema",
        lambda node, m: node.get("$ref") == f"#{m[1]}",
    ),
    _fault(r"regex parse error:\n\s*(.*?)\n *\^+\nerror: (.*)", r"the pattern '\1' cannot be used: \2", _pattern),
    _fault(
        r"Unknown format: (.*)", r"the format '\1' is not known; leave it out",
        lambda node, m: node.get("format") == m[1],
    ),
    _fault(
        r"Unsatisfiable schema: (\w+) \((.*)\) is (greater than|equal to) (\w+) \((.*)\)",
        r"nothing can fulfil it: \1 (\2) is \3 \4 (\5)", _holds(1, 4),
    ),
    _fault(
        r"Unsatisfiable schema: required property '(.*)' is unsatisfiable",
        r"nothing can fulfil it: the required property '\1' may have no value", _needs,
    ),
    _fault(
        r"Unsatisfiable schema: anyOf is empty", "nothing can fulfil it: an empty list of alternatives",
        lambda node, m: [] in (node.get("anyOf"), node.get("oneOf"), node.get("enum"), node.get("type")),
    ),
    _fault(r"Unsatisfiable schema: incompatible types", "nothing can fulfil it: its types exclude each other",
           lambda node, m: "allOf" in node or "const" in node or "enum" in node),
    _fault(r"Unsatisfiable schema: range .* multiple of (.*)",
           r"nothing can fulfil it: no multiple of \1 lies between its bounds", _has("multipleOf")),
    _fault(r"Unsatisfiable schema: (.*)", r"nothing can fulfil it: \1", lambda node, m: False),
    _fault(r"oneOf constraints are not supported.*",
           "oneOf with alternatives that are hard to tell apart cannot be followed; use anyOf", _has("oneOf")),
    _fault(r"Expected (.*) for '(\w+)'( item)?, got (.*)",
           lambda m: f"{'each of ' if m[3] else ''}{m[2]} must be {KINDS.get(m[1], m[1])}, not {m[4]}", _holds(2)),
    _fault(r"schema must be an object or boolean", "a schema must be an object, true or false", _is_no_schema),
    _fault(r"(\w+) must be (.*)", r"\1 must be \2", _wrong),
    _fault(r"(?:invalid multiple of|Value for 'multipleOf').*",
           "multipleOf must be a number above 0 with few digits", _has("multipleOf")),
    _fault(r"Resource '(.*?)' is not present.*", r"'\1' is not known here; leave $schema and $id out",
           lambda node, m: m[1] in (node.get("$schema"), node.get("$id"), node.get("$ref"))),
]  # fmt: skip


def explain_refusal(message: str, schema: Any) -> str:
    """Why `schema` could not be compiled, from llguidance's `message`: one sentence, with the place in the schema."""
    found = _CORE.search(message)
    core = found[1] if found else message.strip().partition("\n")[0]
    for fault in FAULTS:
        if match := fault.pattern.fullmatch(core):
            sentence = _MOVED.sub("#", fault.sentence(match)) if _is_of_tools(schema) else fault.sentence(match)
            return f"the schema cannot be followed{_place(schema, fault, match)}: {sentence[:300]}"
    return f"the schema cannot be followed: {' '.join(core.split())[:300]}"


def explain_stop(message: str) -> str:
    """Why a schema that was compiled could not be followed to the end."""
    found = _STOPPED.search(message)
    if (found[1] if found else message.partition("\n")[0]) == "NoExtensionBias":
        return "the schema cannot be followed: nothing can fulfil it; does a $ref lead back to itself only?"
    return (
        "the schema is too complex to follow: fewer alternatives, shorter patterns and smaller bounds on lengths and "
        "numbers of items help"
    )


def _place(schema: Any, fault: _Fault, match: Match) -> str:
    """Where the fault may be: ` at #/items`, or a few places of which one is at fault."""
    asks_all = fault.fits is _is_no_schema
    found = (path for path, node in _walk(schema) if (asks_all or isinstance(node, dict)) and fault.fits(node, match))
    places = [_written(path, schema) for path in islice(found, MAX_PLACES)]
    return f" at {' or '.join(places)}" if any(place != "#" for place in places) else ""


def _walk(schema: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every schema inside `schema`, outermost first, and how to get there."""
    level: list[tuple[tuple[str, ...], Any]] = [((), schema)]
    while level:
        yield from level
        level = [((*path, *step), child) for path, node in level for step, child in _inner(node)]


def _inner(node: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The schemas right below `node`."""
    if not isinstance(node, dict):
        return
    for key in NAMED:
        if isinstance(inner := node.get(key), dict):
            yield from (((key, name), child) for name, child in inner.items())
    for key in LISTED:
        if isinstance(inner := node.get(key), list):
            yield from (((key, str(n)), child) for n, child in enumerate(inner))
    yield from (((key,), node[key]) for key in SINGLE if key in node)


def _written(path: tuple[str, ...], schema: Any) -> str:
    """`#/items`; in the schema that tool calls follow, the tool's name and the place in its own parameters."""
    steps, inner = path, schema
    if steps[:1] == ("anyOf",) and isinstance(schema.get("anyOf"), list):
        inner, steps = schema["anyOf"][int(steps[1])], steps[2:]
    tool = _tool(inner)
    if tool is not None and steps[:1] == ("properties",) and steps[1:2] in ARGUMENTS:
        return f"{_pointer(steps[2:])} of the parameters of '{tool[:80]}'"
    return _pointer(path)


def _is_of_tools(schema: Any) -> bool:
    """Whether tool calls follow `schema`: each tool's parameters are somewhere inside it."""
    inner = schema.get("anyOf") if isinstance(schema, dict) else None
    return _tool(inner[0] if isinstance(inner, list) and inner else schema) is not None


def _tool(schema: Any) -> str | None:
    """The name of the tool whose calls `schema` describes, if it does."""
    required = schema.get("required") if isinstance(schema, dict) else None
    if not isinstance(required, list) or required[:1] != ["name"] or tuple(required[1:]) not in ARGUMENTS:
        return None
    name = schema["properties"].get("name") if isinstance(schema.get("properties"), dict) else None
    return str(name["const"]) if isinstance(name, dict) and isinstance(name.get("const"), str) else None


def _pointer(steps: tuple[str, ...]) -> str:
    """JSON's own way to write a place: `#/properties/a`."""
    return "/".join(["#", *(step.replace("~", "~0").replace("/", "~1") for step in steps)])[:200]

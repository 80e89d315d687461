"""`@tool`: a Python function becomes a tool by its type hints and its docstring. Knows no kernel and no process.

The function stays what it was; its manifest hangs on it, for `manifest_of` to find. Where it runs is for others to
say: a kernel runs the tools of a configured file in worker processes, an agent may call the function itself.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, overload

import msgspec

from aios.abi.tools import DEFAULT_TIMEOUT, ToolManifest

F = TypeVar("F", bound=Callable[..., Any])
EffectName = Literal["pure", "read", "write", "egress", "irreversible"]

_MARK = "__aios_tool__"
_SECTIONS = re.compile(r"^(Args|Arguments|Parameters|Returns|Yields|Raises|Examples?|Notes?):\s*$")
_ARGUMENT = re.compile(r"^\s+\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(
    *,
    name: str | None = None,
    effect: EffectName = "irreversible",
    timeout: float = DEFAULT_TIMEOUT,
    max_instances: int = 1,
    idempotent: bool = False,
) -> Callable[[F], F]: ...
def tool(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    effect: EffectName = "irreversible",
    timeout: float = DEFAULT_TIMEOUT,
    max_instances: int = 1,
    idempotent: bool = False,
) -> Any:
    """Make `function` a tool, bare (`@tool`) or with arguments (`@tool(effect="read")`).

    `effect` says what a run may change: "pure" nothing and reads nothing, "read" reads, "write" changes what can be
    changed back, "egress" sends something out, "irreversible" is all else, and what is taken when nothing is said.
    `timeout` is seconds. An `idempotent` tool may be run again when the outcome of a run is not known.
    Raises TypeError for a parameter that no JSON Schema describes.
    """

    def mark(function: Any) -> Any:
        facts = {
            "name": name or getattr(function, "__name__", ""),
            "description": describe(function)[0],
            "parameters": schema_of(function),
            "effect": effect,
            "timeout": timeout,
            "max_instances": max_instances,
            "is_idempotent": idempotent,
        }
        try:
            manifest = msgspec.convert(facts, ToolManifest)
        except msgspec.ValidationError as error:
            raise TypeError(f"@tool on {_name(function)}: {error}") from None
        setattr(function, _MARK, manifest)
        return function

    return mark if function is None else mark(function)


def manifest_of(function: Callable[..., Any]) -> ToolManifest:
    """What `@tool` made of `function`; a plain function is looked at as if it had a bare `@tool`."""
    if not is_tool(function):
        tool(function)
    manifest: ToolManifest = getattr(function, _MARK)
    return manifest


def is_tool(thing: Any) -> bool:
    return callable(thing) and isinstance(getattr(thing, _MARK, None), ToolManifest)


def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The JSON Schema of the function's arguments. Raises TypeError that names the parameter."""
    texts = describe(function)[1]
    properties: dict[str, Any] = {}
    required = []
    for parameter, hint in _parameters(function):
        part = _schema(function, parameter.name, hint)
        if text := texts.get(parameter.name):
            part.setdefault("description", text)
        if parameter.default is parameter.empty:
            required.append(parameter.name)
        else:
            _set_default(part, parameter.default)
        properties[parameter.name] = part
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def bind(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` (JSON) as the function's hints want them: dataclasses, dates, tuples. Raises ValueError."""
    hints = {parameter.name: hint for parameter, hint in _parameters(function)}
    try:
        return {name: _convert(value, hints[name]) for name, value in arguments.items()}
    except KeyError as error:
        raise ValueError(f"there is no argument {error}") from None
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def _convert(value: Any, hint: Any) -> Any:
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError:
        # JSON Schema takes 3.0 for an integer, msgspec does not.
        return msgspec.convert(_whole(value), hint)


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return value


def describe(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The docstring's text up to its first section, and the text of each argument under `Args:`."""
    text: list[str] = []
    arguments: dict[str, str] = {}
    section = name = ""
    for line in (inspect.getdoc(function) or "").splitlines():
        if match := _SECTIONS.match(line):
            section, name = match.group(1), ""
        elif not section:
            text.append(line)
        elif section in ("Args", "Arguments", "Parameters"):
            if match := _ARGUMENT.match(line):
                name, arguments[match.group(1)] = match.group(1), match.group(2).strip()
            elif name and line.strip():
                arguments[name] = f"{arguments[name]} {line.strip()}".strip()
    return "\n".join(text).strip(), arguments


def _parameters(function: Callable[..., Any]) -> list[tuple[inspect.Parameter, Any]]:
    """Each parameter with its type hint."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(f"@tool on {_name(function)}: a type hint cannot be read: {error}") from None
    found = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(
                f"@tool on {_name(function)}: parameter '{parameter}' has no place in JSON arguments; "
                "give each argument a name and a type"
            )
        if parameter.name not in hints:
            raise TypeError(f"@tool on {_name(function)}: parameter '{parameter.name}' needs a type hint")
        found.append((parameter, hints[parameter.name]))
    return found


def _schema(function: Callable[..., Any], name: str, hint: Any) -> dict[str, Any]:
    try:
        (plain,), parts = msgspec.json.schema_components((hint,), ref_template="#/parts/{name}")
        schema: dict[str, Any] = _inline(plain, parts, ())
    except (TypeError, RecursionError) as error:
        raise TypeError(
            f"@tool on {_name(function)}: parameter '{name}: {hint}' has no JSON Schema ({error}); "
            "use str, int, float, bool, list, dict, Literal, Optional, dataclass or TypedDict"
        ) from None
    if get_origin(hint) is Annotated:
        text = next((extra for extra in get_args(hint)[1:] if isinstance(extra, str)), None)
        if text:
            schema["description"] = text
    return schema


def _inline(node: Any, parts: Mapping[str, Any], inside: tuple[str, ...]) -> Any:
    """`node` with references written out: small models read that better. Titles say nothing new and go."""
    if isinstance(node, list):
        return [_inline(child, parts, inside) for child in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = node["$ref"].removeprefix("#/parts/")
        if name in inside:
            raise TypeError(f"{name} holds itself")
        return _inline(parts[name], parts, (*inside, name))
    plain = {key: child for key, child in node.items() if key != "title" or not isinstance(child, str)}
    return {key: _inline(child, parts, inside) for key, child in plain.items()}


def _set_default(part: dict[str, Any], value: Any) -> None:
    """JSON values are told; others stay the function's own business."""
    if value is None or isinstance(value, str | int | float | bool):
        part["default"] = value


def _name(function: Any) -> str:
    return f"'{getattr(function, '__qualname__', function)}'"

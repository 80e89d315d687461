"""What is wrong with a command line, in one sentence that names what was meant. Knows typer's errors, no verb."""

from __future__ import annotations

import re
from typing import Any

from typer.exceptions import TyperException

from aios.abi.calls import nearest

_SAID = (
    (r"Input should be a valid integer.*", "{what} must be a whole number"),
    (r"Input should be a valid number.*", "{what} must be a number"),
    (r"Input should be (.*)", "{what} must be {0}"),
    (r"(?:Option|Argument) '(.*)' requires an argument\.", "{0} needs a value"),
    (r"Option '(.*)' does not take a value\.", "{0} takes no value"),
    (r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", "too many arguments: {0}"),
)
"""What typer says, and what a person says."""
_NO_COMMAND = re.compile(r"No such command '(.*)'\.")


def sentence(error: TyperException) -> str:
    """In words like those of all other errors of the command."""
    context = getattr(error, "ctx", None)
    if option := getattr(error, "option_name", None) if type(error).__name__ == "NoSuchOption" else None:
        return f"there is no option '{option}'{nearest(option, _options(context))}"
    if found := _NO_COMMAND.match(error.message):
        known = getattr(getattr(context, "command", None), "commands", {})
        hint = nearest(found[1], known) or f"; there {'are' if len(known) > 1 else 'is'} {', '.join(known)}"
        return f"there is no command '{found[1]}'{hint}"
    what = _name_of(error)
    if type(error).__name__ == "MissingParameter":
        return f"{what} is missing"
    for theirs, ours in _SAID:
        if found := re.fullmatch(theirs, error.message, re.DOTALL):
            return ours.format(*found.groups(), what=what)
    return f"{what}: {error.message}" if what else error.message


def _options(context: Any) -> list[str]:
    parameters = context.command.params if context is not None else []
    return [name for parameter in parameters for name in (*parameter.opts, "--help") if name.startswith("--")]


def _name_of(error: TyperException) -> str:
    """The option or argument at fault, as a person writes it."""
    parameter = getattr(error, "param", None)
    if parameter is None:
        return ""
    return str(max(parameter.opts, key=len) if parameter.param_type_name == "option" else parameter.metavar)

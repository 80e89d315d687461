"""Running one verb: its options by typer, its errors in one sentence on stderr, its exit code. Knows no verb."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import typer
from typer.exceptions import TyperException

from aios.abi.errors import AiosError

from .exits import FAILED, INTERRUPTED, OK, code_of


def invoke(name: str, module: ModuleType, args: list[str], program: list[str] | None) -> int:
    """Run `module.command`, or one of `module.commands` by its name; the exit code.

    `program` reaches the command as its context's `obj`.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)
    settings = {"help_option_names": ["-h", "--help"], **getattr(module, "SETTINGS", {})}
    commands = getattr(module, "commands", None)
    if commands is None:
        app.command(name, context_settings=settings)(module.command)
    else:
        app.callback(context_settings=settings)(_group(module.__doc__ or ""))
        for each, function in commands.items():
            app.command(each, context_settings=settings)(function)
    verb = typer.main.get_command(app)
    for each in (verb, *getattr(verb, "commands", {}).values()):
        for parameter in each.params:
            _name_type(parameter)
    try:
        code = verb(args=args, prog_name=f"aios {name}", obj=program, standalone_mode=False)
        return code if isinstance(code, int) else OK
    except TyperException as error:
        return _usage(error)
    except AiosError as error:
        print(f"aios {name}: {error.message}", file=sys.stderr)
        return code_of(error)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output left; the interpreter must not fail on its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


_TYPES = {"int": "number", "float": "number", "str": "text", "path": "file"}
_TROUBLE = (
    ("Input should be a valid integer", "it must be a whole number"),
    ("Input should be a valid number", "it must be a number"),
    ("Input should be", "it must be"),
)
"""What typer says of wrong values, and what a person says."""


def _name_type(parameter: Any) -> None:
    """Have help name the type of `parameter` in a person's word: `<number>` for `<int range>`; none when the argument
    itself is named by us."""
    technical = parameter.display_type

    def display_type(context: Any) -> str:
        label = technical(context).strip("<>").removesuffix(" range").removeprefix("list[").removesuffix("]")
        return "" if parameter.metavar else f"<{_TYPES.get(label, label)}>"

    parameter.display_type = display_type


def _usage(error: TyperException) -> int:
    """A wrong option or value: the line of usage, and what is wrong."""
    for theirs, ours in _TROUBLE:
        if error.message.startswith(theirs):
            error.message = ours + ("" if "a valid" in theirs else error.message.removeprefix(theirs))
    if (show := getattr(error, "show", None)) is not None:
        show()
    else:
        print(error.format_message(), file=sys.stderr)
    return error.exit_code


def _group(doc: str) -> Callable[[], None]:
    def callback() -> None: ...

    callback.__doc__ = doc.split(".")[0] + "."
    return callback

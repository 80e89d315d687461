"""Running one verb: its options by typer, its errors in one sentence on stderr, its exit code. Knows no verb."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import typer
from typer.exceptions import TyperException

from aios.abi.errors import AiosError

from .commands import in_commands
from .console import safe
from .exits import INTERRUPTED, OK, USAGE, code_of
from .usage import sentence


def invoke(name: str, module: ModuleType, args: list[str], program: list[str] | None) -> int:
    """Run `module.command`, or one of `module.commands` by its name; the exit code. A module with both runs `command`
    when none is named.

    `program` reaches the command as its context's `obj`.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)
    settings = {"help_option_names": ["-h", "--help"], **getattr(module, "SETTINGS", {})}
    commands = getattr(module, "commands", None)
    if commands is None:
        app.command(name, context_settings=settings)(module.command)
    else:
        alone = getattr(module, "command", None)
        group = alone or _group(module.__doc__ or "", commands.values())
        app.info.no_args_is_help = alone is None
        app.callback(context_settings=settings, invoke_without_command=alone is not None)(group)
        for each, function in commands.items():
            app.command(each, context_settings=settings, short_help=_first_sentence(function))(function)
    verb = typer.main.get_command(app)
    for each in (verb, *getattr(verb, "commands", {}).values()):
        for parameter in each.params:
            _name_type(parameter)
    try:
        code = verb(args=args, prog_name=f"aios {name}", obj=program, standalone_mode=False)
        return code if isinstance(code, int) else OK
    except TyperException as error:
        return _usage(name, error)
    except AiosError as error:
        print(safe(f"aios {name}: {' '.join(in_commands(error.message).splitlines())}"), file=sys.stderr)
        return code_of(error)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED


_TYPES = {"int": "number", "float": "number", "str": "text", "path": "file"}


def _name_type(parameter: Any) -> None:
    """Have help name the type of `parameter` in a person's word: `<number>` for `<int range>`; none when the argument
    itself is named by us. Arguments stand in the line of usage as in other programs' help, without braces."""
    technical = parameter.display_type
    if parameter.param_type_name == "argument":
        parameter.metavar = shown = parameter.metavar or parameter.name.upper()
        shown = f"{shown}..." if parameter.nargs != 1 and " " not in shown else shown
        parameter.get_usage_pieces = lambda context: [shown if parameter.required else f"[{shown}]"]

    def display_type(context: Any) -> str:
        label = technical(context).strip("<>").removesuffix(" range").removeprefix("list[").removesuffix("]")
        return "" if parameter.metavar else f"<{_TYPES.get(label, label)}>"

    parameter.display_type = display_type


def _usage(name: str, error: TyperException) -> int:
    """A verb without all that it needs shows its help; what is wrong is a sentence."""
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)
    else:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else f"aios {name}"
        told = sentence(error)
        more = "" if told.endswith("?") else f"; '{path} --help' says more"  # a question is hint enough
        print(safe(f"aios {name}: {told}{more}"), file=sys.stderr)
    return USAGE


def _group(doc: str, functions: Iterable[Callable[..., None]]) -> Callable[[], None]:
    """What stands in the help of a verb with commands: what it is for, and an example of each."""
    examples = [line for function in functions for line in _lines(function) if line.strip().startswith("aios ")]

    def callback() -> None: ...

    callback.__doc__ = "\n".join([doc.split(".")[0] + ".", "", "\b", "Examples:", *examples])
    return callback


def _first_sentence(function: Callable[..., None]) -> str:
    """What stands beside a command in its verb's help."""
    return " ".join(_lines(function)).split(". ")[0].rstrip(".") + "."


def _lines(function: Callable[..., None]) -> list[str]:
    return (inspect.getdoc(function) or "").splitlines()

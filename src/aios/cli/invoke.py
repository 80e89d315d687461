"""Running one verb: its options by typer, its errors in one sentence on stderr, its exit code. Knows no verb."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import ModuleType

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
    try:
        code = app(args=args, prog_name=f"aios {name}", obj=program, standalone_mode=False)
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


def _usage(error: TyperException) -> int:
    """A wrong option or value: the line of usage, and what is wrong."""
    if (show := getattr(error, "show", None)) is not None:
        show()
    else:
        print(error.format_message(), file=sys.stderr)
    return error.exit_code


def _group(doc: str) -> Callable[[], None]:
    def callback() -> None: ...

    callback.__doc__ = doc.split(".")[0] + "."
    return callback

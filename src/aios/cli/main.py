"""The verbs, and how one is found and run. Loads nothing but the verb that is asked for.

`aios` and `aios --help` print a page made of the table below, without loading a verb: that is what keeps them instant.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Verb(NamedTuple):
    """`takes_program`: what stands behind `--` is a program to start, not arguments of ours."""

    module: str
    about: str
    takes_program: bool = False


GROUPS: dict[str, dict[str, Verb]] = {
    "Start and stop": {
        "demo": Verb("demo", "two dozen agents share one model for some seconds; needs nothing"),
        "up": Verb("up", "start the kernel and serve it"),
        "down": Verb("down", "stop the kernel; open calls may finish"),
        "run": Verb("run", "run a built-in agent, or any program as an agent", takes_program=True),
    },
    "Look": {
        "ps": Verb("ps", "agent processes, and what each waits for"),
        "top": Verb("top", "the same, live, with queues and cores"),
        "logs": Verb("logs", "what happened to calls; -f follows"),
        "cores": Verb("cores", "the models and how busy they are"),
        "tools": Verb("tools", "the tools that agents may run"),
        "mem": Verb("mem", "what agents remember: list, search, edit, forget"),
        "fs": Verb("fs", "agents' files: list, read, write, history, undo"),
    },
    "Steer": {
        "kill": Verb("kill", "end a process; its calls stop at once"),
        "pause": Verb("pause", "hold a process's calls"),
        "resume": Verb("resume", "let a paused process go on"),
        "nice": Verb("nice", "change a process's share of the models"),
        "keys": Verb("keys", "make, list and revoke API keys"),
    },
    "Check": {
        "doctor": Verb("doctor", "is this machine fit, and what is wrong if not"),
        "config": Verb("config", "show the configuration in use"),
        "eval": Verb("eval", "measure how well the packaged model does its tasks"),
        "bench": Verb("bench", "measure what the kernel costs"),
    },
}

HELP = ("-h", "--help", "help")
VERSION = ("-V", "--version")

VERBS: dict[str, Verb] = {name: verb for group in GROUPS.values() for name, verb in group.items()}


def usage() -> str:
    lines = ["Usage: aios COMMAND [OPTIONS]", "", "An operating system for LLM agents."]
    for title, group in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {name:<8}{verb.about}" for name, verb in group.items())]
    lines += [
        "",
        "Examples:",
        "  aios demo",
        "  aios up",
        '  aios run react "What is 127 * 49?"',
        "  aios run -- python my_agent.py",
        "",
        "'aios COMMAND --help' says more. The kernel is found by AIOS_URL and AIOS_KEY, else in",
        "$AIOS_HOME (default ~/.aios).",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """The console script. Always ends by SystemExit."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _answer(args)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:  # before the verb is loaded; then it sees to it itself
        code = 130
    except BrokenPipeError:  # whoever read our output has left
        code = _give_up()
    except OSError as error:
        place = error.filename or "what was to be printed"
        print(f"aios: {place} cannot be read or written: {error.strerror or error}", file=sys.stderr)
        code = _give_up()
    sys.exit(code)


def _answer(args: list[str]) -> int:
    """Do what is asked; the exit code."""
    if not args or args[0] in HELP:
        if len(args) > 1 and args[1] in VERBS:  # aios help up
            return _run(args[1], VERBS[args[1]], ["--help"])
        print(usage())
        return 0
    if args[0] in VERSION:
        from aios import __version__

        print(f"aios {__version__}")
        return 0
    verb = VERBS.get(args[0])
    return _unknown(args[0]) if verb is None else _run(args[0], verb, args[1:])


def _give_up() -> int:
    """The interpreter is not to fail once more on its last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _unknown(name: str) -> int:
    from aios.abi.calls import nearest

    from .console import safe

    what = "option" if name.startswith("-") else "command"
    hint = nearest(name[:100], (*VERBS, *HELP, *VERSION)) or "; 'aios --help' lists them"
    print(safe(f"aios: there is no {what} '{name[:100]}'{hint}"), file=sys.stderr)
    return 2


def _run(name: str, verb: Verb, args: list[str]) -> int:
    from .invoke import invoke

    program = None
    if verb.takes_program and "--" in args:
        split = args.index("--")
        args, program = args[:split], args[split + 1 :]
    return invoke(name, importlib.import_module(f"aios.cli.{verb.module}"), args, program)


if __name__ == "__main__":
    main()

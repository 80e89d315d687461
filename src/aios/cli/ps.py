"""`aios ps`: agent processes, and what each waits for and why."""

from __future__ import annotations

from typing import Annotated

import typer

from . import view
from .connect import client
from .console import note, print_json, width


def command(
    everyone: Annotated[
        bool, typer.Option("--all", "-a", help="Ended processes as well, and the command's own.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All that is known, as JSON.")] = False,
) -> None:
    """List agent processes: state, calls, tokens in, how many of those were known already, tokens out, slices of a
    core, how often others got it in between, time spent waiting, and what each does now. A queued one says its place
    in line and about how long that takes. A narrow terminal leaves figures out.

    Programs that use the admin key itself are one process, 'admin', listed while it has calls open. To see, steer and
    end a program on its own, start it with 'aios run', or give it a key of 'aios keys new'.

    \b
    Examples:
      aios ps
      aios ps --all --json
    """
    with client() as kernel:
        processes = [p for p in kernel.proc_list(all=everyone).processes if everyone or not view.is_ours(p)]
    processes.sort(key=lambda p: p.pid)
    if as_json:
        print_json([view.told(p) for p in processes])
    elif processes:
        print("\n".join(view.lines(processes, width())))
    else:
        note("No processes. Start one with 'aios run react \"What is 127 * 49?\"'.")

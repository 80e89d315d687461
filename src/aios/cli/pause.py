"""`aios pause`: hold what processes ask for, until they are resumed."""

from __future__ import annotations

from typing import Annotated

import typer

from .connect import client


def command(pids: Annotated[list[int], typer.Argument(metavar="PID", min=1, help="As 'aios ps' lists them.")]) -> None:
    """Pause processes: a running generation leaves its core after the current quantum, and nothing is lost.

    \b
    Example:
      aios pause 12
    """
    with client() as kernel:
        for pid in pids:
            kernel.proc_signal(pid, "stop")

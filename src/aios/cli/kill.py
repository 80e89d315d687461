"""`aios kill`: end processes. Their calls stop at once and their keys are revoked."""

from __future__ import annotations

from typing import Annotated

import typer

from .connect import client


def command(pids: Annotated[list[int], typer.Argument(metavar="PID", min=1, help="As 'aios ps' lists them.")]) -> None:
    """End processes: what they generate is aborted, its slot is free at once, their keys are revoked, and a program
    that 'aios run' started is ended too.

    \b
    Example:
      aios kill 12 13
    """
    with client() as kernel:
        for pid in pids:
            kernel.proc_signal(pid, "kill")

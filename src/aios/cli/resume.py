"""`aios resume`: let paused processes go on."""

from __future__ import annotations

from typing import Annotated

import typer

from .connect import client


def command(pids: Annotated[list[int], typer.Argument(metavar="PID", min=1, help="As 'aios ps' lists them.")]) -> None:
    """Let paused processes go on: their calls queue again and continue where they were.

    \b
    Example:
      aios resume 12
    """
    with client() as kernel:
        for pid in pids:
            kernel.proc_signal(pid, "cont")

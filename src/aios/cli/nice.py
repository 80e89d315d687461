"""`aios nice`: change a process's share of the models."""

from __future__ import annotations

from typing import Annotated

import typer

from .connect import client

SETTINGS = {"ignore_unknown_options": True}  # so that -5 is a value


def command(
    pid: Annotated[int, typer.Argument(min=1, help="As 'aios ps' lists it.")],
    nice: Annotated[int, typer.Argument(min=-20, max=19, help="-20 (most) to 19 (least); 0 is usual.")],
) -> None:
    """Change a process's share of the models: each step down is a quarter more than the step above.

    \b
    Examples:
      aios nice 12 10
      aios nice 12 -5
    """
    with client() as kernel:
        kernel.proc_nice(pid, nice)

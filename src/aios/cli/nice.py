"""`aios nice`: change a process's share of the models."""

from __future__ import annotations

from typing import Annotated

import typer

from aios.abi.calls import ProcessInfo
from aios.sdk import Client

from .steer import AsJson, name_of, steer

SETTINGS = {"ignore_unknown_options": True}  # so that -5 is a value


def command(
    pid: Annotated[str, typer.Argument(metavar="PID", help="A process id, as 'aios ps' lists them.")],
    nice: Annotated[int, typer.Argument(metavar="NICE", min=-20, max=19, help="-20 (most) to 19 (least).")],
    as_json: AsJson = False,
) -> None:
    """Change a process's share of the models: each step down is a quarter more than the step above. 0 is usual.

    \b
    Examples:
      aios nice 12 10
      aios nice 12 -5
    """

    def set_nice(kernel: Client, process: ProcessInfo) -> str:
        kernel.proc_nice(process.pid, nice)
        return f"{name_of(process)} has nice {nice} now; it was {process.nice}."

    steer("nice", [pid], set_nice, as_json)

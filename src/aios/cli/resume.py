"""`aios resume`: let paused processes go on."""

from __future__ import annotations

from aios.abi.calls import ProcessInfo
from aios.sdk import Client

from .steer import AsJson, Pids, name_of, steer


def command(pids: Pids, as_json: AsJson = False) -> None:
    """Let paused processes go on: their calls queue again and continue where they were.

    \b
    Example:
      aios resume 12
    """
    steer("resume", pids, _resume, as_json)


def _resume(kernel: Client, process: ProcessInfo) -> str:
    if process.state != "stopped":
        return f"{name_of(process)} is not paused."
    kernel.proc_signal(process.pid, "cont")
    return f"Resumed {name_of(process)}."

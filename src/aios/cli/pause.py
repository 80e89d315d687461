"""`aios pause`: hold what processes ask for, until they are resumed."""

from __future__ import annotations

from aios.abi.calls import ProcessInfo
from aios.sdk import Client

from .steer import AsJson, Pids, name_of, steer


def command(pids: Pids, as_json: AsJson = False) -> None:
    """Pause processes: a running generation leaves its core after the current quantum, and nothing is lost.

    \b
    Example:
      aios pause 12
    """
    steer("pause", pids, _pause, as_json)


def _pause(kernel: Client, process: ProcessInfo) -> str:
    if process.state == "stopped":
        return f"{name_of(process)} is paused already."
    kernel.proc_signal(process.pid, "stop")
    return f"Paused {name_of(process)}; 'aios resume {process.pid}' lets it go on."

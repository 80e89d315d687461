"""`aios kill`: end processes. Their calls stop at once."""

from __future__ import annotations

from aios.abi.calls import ProcessInfo
from aios.abi.errors import BadRequest, Cancelled
from aios.sdk import Client

from . import view
from .console import counted
from .steer import AsJson, Pids, name_of, steer


def command(pids: Pids, as_json: AsJson = False) -> None:
    """End processes: what they generate is aborted, its slot is free at once, keys that were made for them are revoked,
    and a program that 'aios run' started is ended too. A key of 'aios keys new' goes on: 'aios keys revoke' ends it.

    \b
    Example:
      aios kill 12 13
    """
    steer("kill", pids, _kill, as_json)


def _kill(kernel: Client, process: ProcessInfo) -> str:
    if view.is_admins(process):
        return _kill_admins(kernel, process)
    kernel.proc_signal(process.pid, "kill")
    return f"Killed {name_of(process)}{_cancelled(len(process.open_calls))}."


def _kill_admins(kernel: Client, process: ProcessInfo) -> str:
    """The admin key has no process of its own for each program, and outlives this one."""
    work = view.work(process)
    if not work:
        raise BadRequest(
            f"process {name_of(process)} is the admin key's own, this command's too, and has nothing to kill; "
            "'aios down' stops the kernel"
        )
    try:
        kernel.proc_signal(process.pid, "kill")
    except Cancelled as error:
        if error.code != "killed":  # this very call is one of the process, when it is this key's
            raise
    return (
        f"Killed {name_of(process)}{_cancelled(len(work))}. "
        "The admin key goes on: a program that uses it may call again, so end the program too."
    )


def _cancelled(number: int) -> str:
    return f", {counted(number, 'open call')} cancelled" if number else ""

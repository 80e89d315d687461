"""What `kill`, `pause`, `resume` and `nice` share: which processes are meant, and a line on what became of each.

Knows the calls' structs, no kernel.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from aios.abi.calls import ProcessInfo
from aios.abi.errors import AiosError, BadRequest, NotFound
from aios.sdk import Client

from . import view
from .connect import client
from .console import note, print_json, safe
from .exits import code_of

PIDS = typer.Argument(metavar="PID", help="Process ids, as 'aios ps' lists them.")
Pids = Annotated[list[str], PIDS]
AsJson = Annotated[bool, typer.Option("--json", help="The processes as they are now, as JSON.")]
Deed = Callable[[Client, ProcessInfo], str]
"""Does it to one process; what it did, in a line. Raises AiosError."""

BIGGEST = (1 << 63) - 1


def steer(verb: str, words: Sequence[str], deed: Deed, as_json: bool) -> None:
    """Do `deed` to each process; one that it fails on does not spare the others. Exits as the first failure says."""
    pids = list(dict.fromkeys(map(pid_of, words)))
    first = 0
    with client() as kernel:
        for pid in pids:
            try:
                told = deed(kernel, _find(kernel, pid))
                if not as_json:
                    print(safe(told))
            except AiosError as error:
                note(f"aios {verb}: {safe(error.message)}")
                first = first or code_of(error)
        if as_json:
            print_json([view.told(p) for p in kernel.proc_list(all=True).processes if p.pid in pids])
    sys.stdout.flush()
    if first:
        raise typer.Exit(first)


def pid_of(word: str) -> int:
    """The pid that a person typed. Raises BadRequest."""
    if word.isascii() and word.isdigit() and 0 < int(word) <= BIGGEST:
        return int(word)
    raise BadRequest(
        f"'{safe(word[:40])}' is no process id: that is a whole number such as 12, and 'aios ps' lists them"
    )


def name_of(process: ProcessInfo) -> str:
    return f"{process.pid} ({process.agent})"


def _find(kernel: Client, pid: int) -> ProcessInfo:
    found = next((each for each in kernel.proc_list(all=True).processes if each.pid == pid), None)
    if found is None:
        raise NotFound(f"there is no process {pid}; 'aios ps' lists them", code="no_such_process", param="pid")
    if found.state == "ended":
        raise NotFound(f"process {name_of(found)} has ended already", code="process_ended", param="pid")
    return found

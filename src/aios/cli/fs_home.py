"""Verbs of `aios fs` on what a home holds as a whole: check it, back it up, put it back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aios.kernel import check_home, repair_home, restore_backup, take_backup

from .connect import checked_home, client
from .console import counted, note, print_json, safe, size, table, width
from .exits import FAILED
from .options import be_sure
from .state import is_running

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Fault = tuple[str, str, str]


def check(
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be; takes a home that no kernel runs on.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Read all that this home holds, and say what is wrong: pages, contents, versions, entries, counts, indexes.
    A repair drops nothing that can be read. Ends with 1 when something is wrong and was not mended.

    \b
    Examples:
      aios fs check
      aios fs check --repair
    """
    home = checked_home()
    mended: list[Fault] = []
    if repair:
        before, left = repair_home(home)
        mended = [fault for fault in before if fault not in left]
        found: list[Fault] = [*left]
    elif is_running(home):
        with client() as kernel:
            found = [
                (each["where"], each["what"], each["mend"]) for each in kernel.fetch("GET", "/aios/v1/check")["faults"]
            ]
    else:
        found = [*check_home(home)]
    if as_json:
        print_json({"faults": [_told(each) for each in found], "mended": [_told(each) for each in mended]})
    else:
        _print(found, mended, repair)
    if found:
        raise typer.Exit(FAILED)


def _told(fault: Fault) -> dict[str, str]:
    where, what, mend = fault
    return {"where": where, "what": what, "mend": mend}


def _print(found: list[Fault], mended: list[Fault], repair: bool) -> None:
    for fault in mended:
        print(safe(f"mended: {fault[0]}: {fault[1]}"))
    if found:
        print(table(("WHERE", "WHAT IS WRONG", "A REPAIR" if not repair else "LEFT"), found, columns=width()))
        note(f"{counted(len(found), 'fault')}" + ("" if repair else "; 'aios fs check --repair' mends what can be"))
    else:
        note("All is as it should be.")


def backup(
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new or empty one, best on another disk.")],
    as_json: Json = False,
) -> None:
    """Copy what agents remember, their files and the kernel's records, as they are at one moment, while a kernel may
    run. Keys in files are left out.

    \b
    Example:
      aios fs backup /mnt/backups/monday
    """
    taken = take_backup(checked_home(), target, tell=_progress)
    _end_progress()
    if as_json:
        print_json({"folder": str(target), **taken._asdict()})
    else:
        note(f"{size(taken.bytes)} in {target}, {counted(taken.chunks, 'large chunk')} among them.")


def restore(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="What 'aios fs backup' made.")],
    is_sure: Annotated[bool, typer.Option("--yes", help="Do not ask before what is there is replaced.")] = False,
    as_json: Json = False,
) -> None:
    """Put a backup in place of what this home holds. No kernel may run on it. The backup is checked whole first, and
    what was there stays in the home, in a folder before-restore-….

    \b
    Example:
      aios fs restore /mnt/backups/monday
    """
    home = checked_home()
    is_empty = not (home / "aios.db").exists()
    done = restore_backup(
        source, home, ask=lambda: be_sure(f"Replace what {home} holds?", is_sure or is_empty), tell=_progress
    )
    _end_progress()
    if as_json:
        print_json({"home": str(home), "before": None if done.before is None else str(done.before)})
        return
    kept = "" if done.before is None else f"; what was there is in {done.before}"
    note(f"{home} is as it was in {source}{kept}.")


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty() and (done == total or done % 64 == 0):
        sys.stderr.write(f"\r{done}/{total} large chunks ")


def _end_progress() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r")


commands: dict[str, Any] = {"check": check, "backup": backup, "restore": restore}

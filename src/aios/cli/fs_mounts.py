"""Verbs of `aios fs` on folders of the machine that agents see among their files: mount, unmount, list."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from aios.abi.calls import MountInfo

from .connect import client
from .console import counted, note, print_json, safe, table, width

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Folder = Annotated[str, typer.Argument(metavar="FOLDER", help="A folder of this machine.")]
MountName = Annotated[str, typer.Argument(metavar="NAME", help="What agents' paths into it begin with.")]
Whose = Annotated[str | None, typer.Option("--agent", metavar="AGENT", help="For this agent alone.")]


def mount(
    folder: Folder,
    name: MountName,
    agent: Whose = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Agents may change nothing there.")] = False,
    as_json: Json = False,
) -> None:
    """Show agents a folder. What they and others change there is kept as versions; nothing outside of it is shown.

    \b
    Examples:
      aios fs mount ~/notes notes --agent helper
      aios fs mount . project --read-only
    """
    with client() as kernel:
        info = kernel.sto_mount(name=name, folder=os.path.abspath(folder), agent=agent, read_only=read_only)
    if as_json:
        print_json(info)
        return
    note(f"{safe(info.folder or folder)} is '{safe(name)}' among the files of {_whose(info)}.")
    if agent is None:
        note(f'Agents of a [[group]] that may "sto_read:{name}" or "sto_write:{name}" can use it.')


def unmount(name: MountName, agent: Whose = None, as_json: Json = False) -> None:
    """Show a folder no more. It stays as it is, and its versions are back when it is mounted again by that name.

    \b
    Example:
      aios fs unmount notes --agent helper
    """
    with client() as kernel:
        done = kernel.sto_unmount(name=name, agent=agent)
    if as_json:
        print_json(done)
    else:
        note(f"'{safe(name)}' is shown no more.")


def mounts(as_json: Json = False) -> None:
    """List mounted folders: whose they are, where, and how they are.

    \b
    Example:
      aios fs mounts
    """
    with client() as kernel:
        found = kernel.sto_mounts().mounts
    if as_json:
        print_json(found)
    elif not found:
        note("No folder is mounted; 'aios fs mount FOLDER NAME' does that.")
    else:
        rows = [(each.name, _whose(each), _state(each), each.folder or "-") for each in found]
        print(table(("NAME", "FOR", "STATE", "FOLDER"), rows, columns=width()))


def _whose(info: MountInfo) -> str:
    return f"agent '{info.agent}'" if info.agent else "groups"


def _state(info: MountInfo) -> str:
    if info.why_gone:
        return f"not there: {info.why_gone}"
    words = ["read-only"] if info.is_read_only else []
    if info.is_looking:
        words.append(f"looked through, {counted(info.seen, 'entry', 'entries')} so far")
    if info.not_kept:
        words.append(f"{counted(info.not_kept, 'file', 'files')} without versions")
    if not info.is_watched:
        words.append("looked through now and then")
    return ", ".join(words) or "followed"


commands = {"mount": mount, "unmount": unmount, "mounts": mounts}

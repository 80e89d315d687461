"""Verbs of `aios fs` on an agent's files: list, read, write, move, their history, and what answers a question."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO
from urllib.parse import quote

import typer

from aios.abi.calls import File, Stat, Where
from aios.abi.errors import BadRequest
from aios.abi.memory import SearchMode
from aios.sdk import Client
from aios.sdk.client import default_url

from .acting import Agent, acting
from .console import counted, cut, note, print_json, safe, size, span, table, when, width
from .options import be_sure

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
At = Annotated[str, typer.Argument(metavar="PATH", help="From the top of the agent's files: notes/today.md.")]
VersionOf = Annotated[int | None, typer.Option("--version", min=1, help="An older one; 'aios fs history' lists them.")]
PAGE = 1000


def ls(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A folder; the top without it.")] = "",
    agent: Agent = None,
    trash: Annotated[bool, typer.Option("--trash", help="What was cleared, and can be restored.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="So many at most.")] = 1000,
    as_json: Json = False,
) -> None:
    """List what is in a folder.

    \b
    Examples:
      aios fs ls
      aios fs ls notes --agent helper
    """
    found: list[Stat] = []
    with acting(agent, "fs ls") as kernel:
        has_more = True
        while has_more and len(found) < limit:
            after = found[-1].path if found else None
            page = kernel.sto_list(path=path, trash=trash, limit=min(PAGE, limit - len(found)), after=after)
            found += page.entries
            has_more = page.has_more
    if as_json:
        print_json(found)
    elif not found:
        note("The trash is empty." if trash else "Nothing is there.")
    else:
        print(table(("KIND", ">SIZE", ">VERSION", "CHANGED", "PATH"), [_row(each) for each in found], columns=width()))
        if has_more:
            note(f"There are more; --limit {limit * 10} shows more of them.")


def _row(each: Stat) -> tuple[object, ...]:
    is_file = each.kind == "file"
    return (
        each.kind,
        size(each.size) if is_file else "-",
        each.version if is_file else "-",
        when(each.modified),
        each.path,
    )


def cat(
    path: At,
    agent: Agent = None,
    version: VersionOf = None,
    as_json: Annotated[bool, typer.Option("--json", help="With its version; what is no text as base64.")] = False,
) -> None:
    """Print a file, byte for byte.

    \b
    Examples:
      aios fs cat notes/today.md
      aios fs cat photo.png --version 2 > photo.png
    """
    with acting(agent, "fs cat") as kernel:
        if as_json:
            print_json(_whole(kernel, path, version))
            return
        for data in pieces(kernel, path, version):
            sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def pieces(kernel: Client, path: str, version: int | None) -> Iterator[bytes]:
    """The file, `STEP` bytes at a time."""
    offset, data = 0, b"-" * STEP
    while len(data) == STEP:
        part = kernel.sto_read(path, version=version, encoding="base64", offset=offset, length=STEP)
        data = base64.b64decode(part.content)
        yield data
        offset += len(data)
        version = part.version or None  # the same to its end, whatever is written meanwhile; 0 is none


def _whole(kernel: Client, path: str, version: int | None) -> File:
    try:
        return kernel.sto_read(path, version=version)
    except BadRequest as error:
        if error.code != "not_text":
            raise
        return kernel.sto_read(path, version=version, encoding="base64")


STEP = 4 << 20
"""Bytes that are read at a time."""


def put(
    path: At,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What to put there; - reads it from stdin.")],
    agent: Agent = None,
    as_json: Json = False,
) -> None:
    """Write a file; what was there stays in its history.

    \b
    Examples:
      aios fs put notes/today.md today.md
      date | aios fs put now.txt -
    """
    with acting(agent, "fs put") as kernel, _opened(file, path) as data:
        made = kernel.fetch("PUT", f"/aios/v1/files/{quote(path)}", data)
    print_json(made) if as_json else note(f"{safe(made['path'])} is at version {made['version']} now.")


def _opened(file: str, path: str) -> BinaryIO:
    try:
        return sys.stdin.buffer if file == "-" else Path(file).open("rb")
    except OSError as error:
        hint = "; it comes last: aios fs put PATH FILE" if Path(path).is_file() else ""
        raise BadRequest(f"{file} cannot be read: {error.strerror}{hint}") from None


def mv(path: At, to: Annotated[str, typer.Argument(metavar="TO")], agent: Agent = None, as_json: Json = False) -> None:
    """Move a file or a folder, with its history.

    \b
    Example:
      aios fs mv notes/today.md notes/2026/november.md
    """
    with acting(agent, "fs mv") as kernel:
        made = kernel.sto_move(path, to)
    print_json(made) if as_json else note(f"{safe(path)} is {safe(to)} now.")


def rm(
    path: At,
    agent: Agent = None,
    trash: Annotated[bool, typer.Option("--trash", help="What was cleared there before leaves for good.")] = False,
    is_sure: Annotated[bool, typer.Option("--yes", help="Do not ask before --trash.")] = False,
    as_json: Json = False,
) -> None:
    """Move a file or folder to the trash, or what is there out of it for good.

    \b
    Examples:
      aios fs rm notes/today.md
      aios fs rm . --trash --agent helper
    """
    with acting(agent, "fs rm") as kernel:
        be_sure(f"Drop what the trash holds of '{safe(path)}', all versions, for good?", is_sure or not trash)
        count = kernel.sto_clear(path, trash=trash).count
    gone = "left the trash for good" if trash else "went to the trash; 'aios fs undo' brings it back"
    print_json({"count": count}) if as_json else note(f"{counted(count, 'entry', 'entries')} {gone}.")


def undo(path: At, agent: Agent = None, as_json: Json = False) -> None:
    """Bring back what was cleared last at a path.

    \b
    Example:
      aios fs undo notes/today.md
    """
    with acting(agent, "fs undo") as kernel:
        made = kernel.sto_restore(path)
    print_json(made) if as_json else note(f"{safe(made.path)} is back, at version {made.version}.")


def history(
    path: At,
    agent: Agent = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many, the newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List the versions of a file: when, who, by which call.

    \b
    Example:
      aios fs history notes/today.md
    """
    with acting(agent, "fs history") as kernel:
        found = kernel.sto_history(path, limit=limit)
    if as_json:
        print_json(found)
        return
    rows = [(r.version, size(r.size), when(r.created), r.author or "-", r.why or "-") for r in found.revisions]
    print(table((">VERSION", ">SIZE", "WRITTEN", "BY", "WITH"), rows, columns=width()))
    if found.has_more:
        note("There are older ones; --limit shows more.")


def diff(
    path: At,
    since: Annotated[int | None, typer.Option(min=1, help="The one before the newest, unless given.")] = None,
    to: Annotated[int | None, typer.Option(min=1, help="The newest, unless given.")] = None,
    agent: Agent = None,
    as_json: Json = False,
) -> None:
    """Show what changed between two versions of a file.

    \b
    Examples:
      aios fs diff notes/today.md
      aios fs diff notes/today.md --since 1
    """
    with acting(agent, "fs diff") as kernel:
        found = kernel.sto_diff(path, since=since, to=to)
    if as_json:
        print_json(found)
    elif found.text:
        print(_coloured(found.text), end="")
    else:
        note(f"Versions {found.since} and {found.to} are the same.")


PLAIN = "\x1b[0m"
COLOURS = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m"}


def _coloured(text: str) -> str:
    """Lines as a terminal shows them; to a pipe as they are, so that `patch` can read them."""
    if not sys.stdout.isatty():
        return text
    lines = []
    for line in text.splitlines():
        colour = "" if line.startswith(("+++", "---")) else COLOURS.get(line[:1], "")
        lines.append(f"{colour}{safe(line.expandtabs(4))}{PLAIN if colour else ''}\n")
    return "".join(lines)


def rollback(
    path: At, version: Annotated[int, typer.Argument(min=1)], agent: Agent = None, as_json: Json = False
) -> None:
    """Make an old version of a file the newest again; those between stay in its history.

    \b
    Example:
      aios fs rollback notes/today.md 3
    """
    with acting(agent, "fs rollback") as kernel:
        made = kernel.sto_rollback(path, version)
    print_json(made) if as_json else note(f"{safe(made.path)} is at version {made.version} now, the same as {version}.")


def search(
    words: Annotated[list[str], typer.Argument(metavar="WORDS", help="A question, or words.")],
    agent: Agent = None,
    below: Annotated[str | None, typer.Option("--in", metavar="PATH", help="Only there and below.")] = None,
    name: Annotated[str | None, typer.Option(help="Only files whose path fits, such as '*.md'.")] = None,
    author: Annotated[str | None, typer.Option(help="Only files whose newest version is by this agent.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="So many passages, the best first.")] = 5,
    mode: Annotated[SearchMode | None, typer.Option(help="By words, by meaning, or both.")] = None,
    as_json: Json = False,
) -> None:
    """Find passages of files that answer a question, the best first.

    \b
    Examples:
      aios fs search how are retries counted
      aios fs search "door code" --in notes --name "*.md" --agent helper
    """
    where = Where(path=below, name=name, author=author) if below or name or author else None
    with acting(agent, "fs search") as kernel:
        found = kernel.sto_retrieve(" ".join(words), k=k, where=where, mode=mode)
    if as_json:
        print_json(found)
        return
    columns = width()
    for n, each in enumerate(found.passages):
        place = f"{each.path} (version {each.version}, bytes {each.start}-{each.end}, score {each.score:.3f})"
        print(("\n" if n else "") + cut(safe(place + (f" · {each.title}" if each.title else "")), columns))
        print("\n".join(f"  {safe(line)}" for line in each.text.strip().splitlines()))
    if not found.passages:
        note("No passage fits.")
    if found.note:
        note(f"warning: only words were compared: {safe(found.note)}")
    if found.pending:
        note(f"{counted(found.pending, 'file')} of these are not read yet; ask again in a moment.")
    for path, why in found.skipped.items():
        note(f"warning: {safe(path)} is left out: {safe(why)}")


def share(
    path: At,
    hours: Annotated[
        float, typer.Option(min=0, max=366 * 24, help="How long it works; 0 ends all links to it.")
    ] = 24.0,
    version: VersionOf = None,
    agent: Agent = None,
    as_json: Json = False,
) -> None:
    """Make a link that opens a file for anybody who has it. It is shown this once.

    \b
    Examples:
      aios fs share report.pdf --hours 2
      aios fs share report.pdf --hours 0
    """
    with acting(agent, "fs share") as kernel:
        made = kernel.sto_share(path, ttl=hours * 3600, version=version)
    if as_json:
        print_json(made)
    elif made.url is None:
        note(f"{counted(made.ended, 'link')} ended.")
    else:
        note(f"Works for {span(hours * 3600)}:")
        print(f"{default_url().rstrip('/')}{made.url}")


def stat(agent: Agent = None, as_json: Json = False) -> None:
    """Show what an agent's files take, and may.

    \b
    Example:
      aios fs stat --agent helper
    """
    with acting(agent, "fs stat") as kernel:
        found = kernel.sto_stat()
    if as_json:
        print_json(found)
        return
    print(f"{found.entries:,} of {found.max_entries:,} files and folders, {found.trash_entries:,} of them in the trash")
    print(
        f"{size(found.bytes)} of {size(found.max_bytes)} in {counted(found.versions, 'version')}, "
        f"{size(found.trash_bytes)} of it in the trash; {size(found.stored)} on disk"
    )


commands = {
    "ls": ls,
    "cat": cat,
    "put": put,
    "mv": mv,
    "rm": rm,
    "undo": undo,
    "history": history,
    "diff": diff,
    "rollback": rollback,
    "search": search,
    "share": share,
    "stat": stat,
}

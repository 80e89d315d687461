"""What agents remember: look at it, find in it, change it. Without --agent it is that of the key in use."""

from __future__ import annotations

import json
import sys
from typing import Annotated, cast, get_args

import typer

from aios.abi.calls import BlockStat, Entries, Entry
from aios.abi.errors import BadRequest
from aios.abi.memory import EntryKind, SearchMode
from aios.sdk import Client

from .acting import Agent, acting
from .console import counted, note, print_json, safe, table, when, width
from .editor import edited
from .mem_view import drawn
from .options import be_sure, one_of

Block = Annotated[str | None, typer.Option("--block", metavar="BLOCK", help="A block of its own, or a group's.")]
Kind = Annotated[list[str] | None, typer.Option("--kind", help="Only of this kind; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
PAGE = 1000
KINDS = get_args(EntryKind)


def ls(
    agent: Agent = None,
    block: Block = None,
    kind: Kind = None,
    limit: Annotated[int, typer.Option(min=1, help="So many, the newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List entries, newest first.

    \b
    Examples:
      aios mem ls
      aios mem ls --agent helper --kind fact --limit 500
    """
    with acting(agent, "mem ls") as kernel:
        found = newest(kernel, block, kind, limit)
    _print(found, as_json, "Nothing is remembered" + (f" of kind {', '.join(kind)}" if kind else ""))


def newest(kernel: Client, block: str | None, kinds: list[str] | None, limit: int) -> list[Entry]:
    found: list[Entry] = []
    while len(found) < limit:
        after = found[-1].id if found else None
        page = kernel.mem_list(limit=min(PAGE, limit - len(found)), after=after, block=block, kinds=_kinds(kinds))
        found += page.entries
        if len(page.entries) < PAGE and not page.is_cut:
            break
    return found


def _print(found: list[Entry], as_json: bool, nothing: str) -> None:
    if as_json:
        print_json(found)
    elif not found:
        note(f"{nothing}.")
    else:
        print(_listing(found))


def _listing(found: list[Entry]) -> str:
    has_score = any(entry.score is not None for entry in found)
    titles = (*((">SCORE",) if has_score else ()), "ID", "KIND", "WRITTEN", "TEXT")
    rows = [
        (
            *((f"{entry.score:.3f}",) if entry.score is not None else ("-",) if has_score else ()),
            entry.id,
            entry.kind,
            when(entry.created),
            " ".join(entry.content[:400].split()),
        )
        for entry in found
    ]
    return table(titles, rows, columns=width(), drop=("KIND", "WRITTEN"))


def _kinds(kinds: list[str] | None) -> list[EntryKind] | None:
    """Raises BadRequest for one that is none. None where none was named: typer gives an empty list then."""
    return cast("list[EntryKind]", [one_of("kind of entry", each, KINDS) for each in kinds]) if kinds else None


def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="As 'aios mem ls' shows it.")],
    agent: Agent = None,
    block: Block = None,
    history: Annotated[bool, typer.Option("--history", help="Every state it was in, newest first.")] = False,
    as_json: Json = False,
) -> None:
    """Show one entry whole: its text on stdout, what is known of it on stderr.

    \b
    Examples:
      aios mem show m00064f3a7bf1c2a
      aios mem show m00064f3a7bf1c2a --history
    """
    with acting(agent, "mem show") as kernel:
        now = kernel.mem_read(id, block=block)
        were = kernel.mem_history(id, block=block) if history else Entries(entries=[])
    if as_json:
        print_json([now, *were.entries] if history else now)
        return
    for entry in (now, *were.entries):
        note(_facts(entry))
        print(entry.content)
    note_rest(were)


def note_rest(found: Entries) -> None:
    """Say what of the answer is missing, and why."""
    if found.is_cut:
        note("There are more: with them the answer would be too long.")
    if found.note:
        note(f"warning: only words were compared: {safe(found.note)}")


def _facts(entry: Entry) -> str:
    parts = [entry.id, entry.kind, f"written {when(entry.created)}"]
    if entry.revision > 1 and entry.modified is not None:
        parts.append(f"revision {entry.revision} of {when(entry.modified)}")
    if entry.source:
        parts.append(f"from {entry.source}")
    if entry.importance is not None:
        parts.append(f"importance {entry.importance:g}")
    if entry.metadata:
        parts.append(json.dumps(entry.metadata, ensure_ascii=False))
    return safe(" · ".join(parts))


def search(
    words: Annotated[list[str], typer.Argument(metavar="WORDS", help="What to look for.")],
    agent: Agent = None,
    block: Block = None,
    kind: Kind = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="So many, the best first.")] = 10,
    mode: Annotated[SearchMode | None, typer.Option(help="By words, by meaning, or both.")] = None,
    recency: Annotated[float, typer.Option(min=0, max=1, help="How much newness counts.")] = 0.0,
    importance: Annotated[float, typer.Option(min=0, max=1, help="How much importance counts.")] = 0.0,
    as_json: Json = False,
) -> None:
    """Find entries by words and by meaning, the best first.

    \b
    Examples:
      aios mem search door code
      aios mem search "what does Ann like?" --mode vector --agent helper
    """
    with acting(agent, "mem search") as kernel:
        found = kernel.mem_search(
            " ".join(words), k=k, block=block, kinds=_kinds(kind), mode=mode, recency=recency, importance=importance
        )
    _print(found.entries, as_json, "Nothing fits")
    note_rest(found)


def write(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to remember; - reads it from stdin.")],
    agent: Agent = None,
    block: Block = None,
    kind: Annotated[EntryKind, typer.Option(help="What it is.")] = "note",
    importance: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    as_json: Json = False,
) -> None:
    """Remember a text; its id goes to stdout.

    \b
    Examples:
      aios mem write "the door code is 4711" --agent helper --kind fact
      date | aios mem write -
    """
    content = sys.stdin.read() if text == "-" else text
    with acting(agent, "mem write") as kernel:
        made = kernel.mem_write(content, kind=kind, importance=importance, block=block)
    print_json(made) if as_json else print(made.id)


def edit(
    id: Annotated[str, typer.Argument(metavar="ID", help="As 'aios mem ls' shows it.")],
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="Without it, $EDITOR opens.")] = None,
    agent: Agent = None,
    block: Block = None,
    kind: Annotated[EntryKind | None, typer.Option(help="Make it one of this kind.")] = None,
    importance: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    as_json: Json = False,
) -> None:
    """Change an entry. How it was stays in its history ('aios mem show ID --history').

    \b
    Examples:
      aios mem edit m00064f3a7bf1c2a "the door code is 4712"
      aios mem edit m00064f3a7bf1c2a
    """
    with acting(agent, "mem edit") as kernel:
        if text is None and kind is None and importance is None:
            before = kernel.mem_read(id, block=block).content
            text = edited(before, ".txt")
            if text == before:
                note("Nothing changed.")
                return
        made = kernel.mem_update(id, content=text, kind=kind, importance=importance, block=block)
    if as_json:
        print_json(made)
    else:
        note(f"{made.id} is at revision {made.revision} now.")


def rm(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="As 'aios mem ls' shows them.")] = None,
    agent: Agent = None,
    block: Block = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything of the block.")] = False,
    is_sure: Annotated[bool, typer.Option("--yes", help="Do not ask before --all.")] = False,
    as_json: Json = False,
) -> None:
    """Forget entries, for good.

    \b
    Examples:
      aios mem rm m00064f3a7bf1c2a
      aios mem rm --all --agent helper
    """
    if bool(ids) == everything:
        raise BadRequest("name entries by ID, or say --all", code="bad_arguments")
    with acting(agent, "mem rm") as kernel:
        if everything:
            num = kernel.mem_stat(block=block).entries
            be_sure(f"Forget {counted(num, 'entry', 'entries')}, for good?", is_sure or not num)
            count = kernel.mem_clear(all=True, block=block).count
        else:
            count = sum(kernel.mem_clear(id=each, block=block).count for each in dict.fromkeys(ids or ()))
    if as_json:
        print_json({"count": count})
    else:
        note(f"Forgot {counted(count, 'entry', 'entries')}.")


def stat(
    agent: Agent = None,
    block: Block = None,
    as_json: Json = False,
) -> None:
    """Draw what a block takes: what shared beginnings save, what is in memory and what on disk, and how often a read
    found its entry in memory.

    \b
    Examples:
      aios mem stat
      aios mem stat --agent helper --block drafts
    """
    with acting(agent, "mem stat") as kernel:
        found: BlockStat = kernel.mem_stat(block=block)
    print_json(found) if as_json else print(drawn(found, width() or 80))


commands = {
    "ls": ls,
    "show": show,
    "search": search,
    "write": write,
    "edit": edit,
    "rm": rm,
    "stat": stat,
}

"""How a block of memory looks: three bars and the figures to them. Knows the calls' structs, no kernel, no terminal."""

from __future__ import annotations

from collections.abc import Iterator

from aios.abi.calls import BlockStat

from .console import counted, ordinal, safe, size

FULL, EMPTY = "█", "░"
LABEL = 10
SMALLEST = 10
MUCH = 10.0
"""So many times its text is what every block takes; a share says nothing then."""


def drawn(found: BlockStat, columns: int) -> str:
    return safe_lines(lines(found, columns))


def safe_lines(found: Iterator[str]) -> str:
    return "\n".join(safe(line) for line in found)


def lines(found: BlockStat, columns: int) -> Iterator[str]:
    """The block's name and bounds, then what is where, what the trie saves, and how often memory had what was asked."""
    room = max(SMALLEST, min(60, columns - LABEL - 34))
    name = f"block '{found.block}'" if found.block else "main block"
    yield (
        f"{name}: {counted(found.entries, 'entry', 'entries')}, {size(found.raw)} of text; "
        f"at most {size(found.limit)} in memory, and above {found.watermark:.0%} of that those leave whose "
        f"{ordinal(found.k)} last use is longest ago"
    )
    yield ""
    yield _line("in memory", bar(found.resident, found.limit, room), f"{size(found.resident)} of {size(found.limit)}")
    yield _line(
        "entries",
        bar(found.resident_entries, found.entries, room),
        f"{found.resident_entries} in memory, {found.swapped_entries} on disk only ({size(found.swapped)})",
    )
    yield _line("trie", bar(found.resident, found.resident_raw, room), _saving(found))
    asked = found.hits + found.misses
    told = f"{found.hits / asked:.0%} of {asked} were in memory" if asked else "nothing was read yet"
    yield _line("reads", bar(found.hits, asked, room), f"{told}, {counted(found.evictions, 'eviction')}")
    if found.unembedded:
        yield ""
        yield f"{counted(found.unembedded, 'entry', 'entries')} still without a vector: found by words alone until then"


def _saving(found: BlockStat) -> str:
    if not found.resident_raw:
        return "nothing is in memory"
    share = found.resident / found.resident_raw
    told = f"{size(found.resident_raw)} of text takes {size(found.resident)} with all that Python needs"
    return f"{told} ({share:.0%})" if share < MUCH else told


def _line(label: str, drawing: str, told: str) -> str:
    return f"{label:<{LABEL}}{drawing}  {told}"


def bar(part: int, whole: int, room: int) -> str:
    """`part` of `whole`, in `room` cells; more than the whole fills it, with a mark that it goes on."""
    if whole <= 0:
        return EMPTY * room
    cells = round(room * min(part, whole) / whole)
    cells = max(cells, 1) if part else 0
    return FULL * cells + EMPTY * (room - cells) if part <= whole else FULL * (room - 1) + "▶"

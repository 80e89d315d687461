"""What verbs print with: plain aligned tables, figures for people, JSON for programs. Knows no verb and no kernel."""

from __future__ import annotations

import datetime
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import msgspec


def print_json(value: Any) -> None:
    """One JSON document, indented, made of structs, dataclasses or plain data."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def note(text: str) -> None:
    """Something for the person, not for the pipe."""
    print(text, file=sys.stderr)


def width() -> int | None:
    """Columns of the terminal; None when nobody looks at one, so nothing needs to be cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(
    titles: Sequence[str], rows: Sequence[Sequence[object]], *, columns: int | None = None, drop: Sequence[str] = ()
) -> str:
    """Rows under titles, as narrow as they can be. A title that begins with `>` is set right.

    When a line would be longer than `columns`, the columns named in `drop` are left out, in that order, until the last
    one has its width or LAST cells; then the last one is cut.
    """
    names = [title.lstrip(">") for title in titles]
    cells = [names, *([safe(str(cell)) for cell in row] for row in rows)]
    widths = [max(width_of(row[n]) for row in cells) for n in range(len(names))]
    kept = _kept(names, widths, columns, drop)
    lines = []
    for row in cells:
        parts = [aligned(row[n], widths[n], titles[n].startswith(">")) for n in kept]
        lines.append(cut("  ".join(parts).rstrip(), columns))
    return "\n".join(lines)


LAST = 36
"""Cells that the last column of a table may ask others to make room for."""


def _kept(names: Sequence[str], widths: Sequence[int], columns: int | None, drop: Sequence[str]) -> list[int]:
    """Which columns of a table are shown."""
    kept = list(range(len(names)))
    for name in drop:
        needed = sum(widths[n] + 2 for n in kept[:-1]) + min(widths[-1], LAST)
        if columns is None or needed <= columns:
            break
        kept.remove(names.index(name))
    return kept


def aligned(text: str, size: int, is_right: bool = False) -> str:
    """`text` filled up with blanks to `size` cells."""
    blank = " " * (size - width_of(text))
    return blank + text if is_right else text + blank


def width_of(text: str) -> int:
    """Cells that `text` takes on a terminal: two for a character of Chinese, Japanese or Korean, and most emoji."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # slow to load, and seldom needed

    return cell_len(text)


def cut(text: str, columns: int | None) -> str:
    """`text` in at most `columns` cells."""
    if columns is None or width_of(text) <= columns:
        return text
    if text.isascii():
        return f"{text[: columns - 1]}…"
    from rich.cells import set_cell_size

    return f"{set_cell_size(text, columns - 1).rstrip()}…"


def safe(text: str) -> str:
    """`text` without what could steer a terminal: names of agents and commands come from others."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def figure(value: float) -> str:
    """A count in at most five characters: 999, 1.2k, 340k, 5.6M."""
    if value < 1000:
        return f"{value:.0f}"
    for unit in "kMG":
        value /= 1000
        if value < 99.95:
            return f"{value:.1f}{unit}"
        if value < 999.5:
            return f"{value:.0f}{unit}"
    return f"{value / 1000:.0f}T"


def span(seconds: float) -> str:
    """A duration in at most five characters: 4ms, 0.8s, 12s, 3m20, 2h05."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    if seconds < 99.5:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60) if seconds >= 6000 else int(seconds // 60)
    if minutes < 100:
        return f"{minutes}m{int(seconds % 60):02d}"
    hours = minutes // 60
    return f"{hours}h{minutes % 60:02d}" if hours < 100 else f"{hours // 24}d"


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 call`, `1.2k calls`; `many` for a plural that is not made with an s."""
    return f"{figure(number)} {one if number == 1 else many or one + 's'}"


def ordinal(number: int) -> str:
    suffix = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def size(num_bytes: int) -> str:
    """Bytes for people: 812 B, 4.0 KiB, 64 MiB."""
    if num_bytes < 1024:
        return f"{num_bytes} B"
    value = float(num_bytes)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 999.5 or unit == "TiB":
            return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"
    raise AssertionError


def when(seconds: float) -> str:
    """A time since 1970, as the clock on the wall shows it."""
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")

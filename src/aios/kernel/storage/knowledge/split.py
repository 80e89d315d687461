"""Splits a text into passages at natural borders: headings, functions, paragraphs, lines, sentences, in that order.

Knows text and what kind it is, no file and no table. Every character but blank ones at the edges is in exactly one
passage, so what is found can be shown in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

Kind = Literal["text", "markdown", "code", "csv"]

TARGET = 1000
"""Characters that a passage is to have, about: a few paragraphs, and less than what embedding models read."""
LEAST = 200
"""What is shorter is joined to what follows, unless another heading begins there."""
MOST = 2000
MAX_TITLE = 120
MAX_PASSAGES = 50_000
"""Of one file. What is longer than that is data, not knowledge."""


class Passage(NamedTuple):
    """`text[start:end]`, in characters; `title` is the heading or head of the function that it stands under."""

    start: int
    end: int
    title: str | None


class _Block(NamedTuple):
    """Lines that belong together. `level`: how strong the border before it is; 0 is none, 1 the strongest."""

    start: int
    end: int
    level: int
    title: str | None = None


def split(text: str, kind: Kind) -> list[Passage]:
    """At most `MAX_PASSAGES` passages of `text`, in order."""
    blocks = {"text": _paragraphs, "markdown": _sections, "code": _functions, "csv": _rows}[kind](text)
    passages: list[Passage] = []
    for passage in _packed(text, blocks):
        if len(passages) == MAX_PASSAGES:
            break
        passages.append(passage)
    return passages


# ── blocks ──


def _lines(text: str) -> Iterator[tuple[int, int, str]]:
    start = 0
    for line in text.splitlines(keepends=True):
        yield start, start + len(line), line
        start += len(line)


def _paragraphs(text: str) -> Iterator[_Block]:
    """Lines up to a blank one."""
    begin, after_blank = 0, True
    for start, _, line in _lines(text):
        is_blank = not line.strip()
        if after_blank and not is_blank and start > begin:
            yield _Block(begin, start, 0)
            begin = start
        after_blank = is_blank
    if begin < len(text):
        yield _Block(begin, len(text), 0)


_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(\S.*)")
_FENCE = re.compile(r" {0,3}(```+|~~~+)")


def _sections(text: str) -> Iterator[_Block]:
    """Paragraphs of Markdown: a heading begins a section, and nothing inside a fence does."""
    path: list[str] = []
    begin, level, fence, after_blank = 0, 0, "", False
    title: str | None = None
    for start, _, line in _lines(text):
        heading = None if fence else _HEADING.match(line)
        border = heading is not None or (after_blank and not fence and bool(line.strip()))
        if border and start > begin:
            yield _Block(begin, start, level, title)
            begin, level = start, 0
        if heading is not None:
            level = len(heading[1])
            path = [*path[: level - 1], *[""] * (level - 1 - len(path)), heading[2].strip().rstrip("#").strip()]
            title = _title(" › ".join(part for part in path if part))
        if mark := _FENCE.match(line):
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]
        after_blank = not line.strip()
    if begin < len(text):
        yield _Block(begin, len(text), level, title)


_HEAD = re.compile(
    r"(?:export |default |public |private |protected |static |async |abstract |final |pub(?:\(\w+\))? |unsafe )*"
    r"(?:def|class|fn|func|function|impl|struct|enum|trait|interface|module|namespace|type|package)\b.*"
)


def _functions(text: str) -> Iterator[_Block]:
    """Blocks of source code: what stands at the left edge after a blank line begins one. Its head is its title, with
    what is above it (comments, decorators) kept to it."""
    begin, level, after_blank = 0, 0, False
    title: str | None = None
    is_named = False
    for start, _, line in _lines(text):
        is_edge = bool(line.strip()) and not line[0].isspace() and line[0] not in ")}]"
        if is_edge and after_blank and start > begin:
            yield _Block(begin, start, level, title)
            begin, level, title, is_named = start, 1, None, False
        if is_edge and not is_named and _HEAD.match(line):
            title, is_named = _title(line), True
        after_blank = not line.strip()
    if begin < len(text):
        yield _Block(begin, len(text), level, title)


def _rows(text: str) -> Iterator[_Block]:
    """Rows of a table, each a block; what they are of stands in the first, which titles all. A quoted line break ends
    no row."""
    head: str | None = None
    begin, is_open = 0, False
    for _, end, line in _lines(text):
        is_open ^= line.count('"') % 2 == 1
        if is_open and end - begin < MOST:
            continue
        yield _Block(begin, end, 0, head)
        head = head if head is not None else _title(line)
        begin, is_open = end, False
    if begin < len(text):
        yield _Block(begin, len(text), 0, head)


def _title(line: str) -> str:
    return " ".join(line.split())[:MAX_TITLE]


# ── packing ──


def _packed(text: str, blocks: Iterable[_Block]) -> Iterator[Passage]:
    """Blocks joined while they are small, cut where they are large."""
    held: list[_Block] = []
    for block in blocks:
        if held and not _joins(held, block):
            yield from _passages(text, held)
            held = []
        held.append(block)
    if held:
        yield from _passages(text, held)


def _joins(held: Sequence[_Block], block: _Block) -> bool:
    size = held[-1].end - held[0].start
    if block.level and size >= LEAST:
        return False
    return size + block.end - block.start <= (TARGET if size >= LEAST else MOST)


def _passages(text: str, held: Sequence[_Block]) -> Iterator[Passage]:
    title = next((block.title for block in held if block.title), None)
    for start, end in _cut(text, held[0].start, held[-1].end):
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        if start < end:
            yield Passage(start, end, title)


_BORDERS = (re.compile(r"\n\s*\n"), re.compile(r"\n"), re.compile(r"[.!?…][\"')\]]?\s|[。！？]"), re.compile(r"\s"))
"""Where a long text is cut, the best first."""


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Pieces of at most `MOST` characters, each cut at the best border past its first half."""
    while end - start > MOST:
        at = _border(text, start + TARGET // 2, start + TARGET)
        yield start, at
        start = at
    yield start, end


def _border(text: str, least: int, most: int) -> int:
    """The last of the best borders between the two places; `most`, but through no pair of characters, without one."""
    for border in _BORDERS:
        found = None
        for found in border.finditer(text, least, most):  # noqa: B007
            pass
        if found is not None:
            return found.end()
    return most

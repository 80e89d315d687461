"""Splits a text into passages at natural borders: headings, functions, paragraphs, lines, sentences, in that order.

Knows text and what kind it is, no file and no table. Every character but blank ones at the edges is in exactly one
passage, so what is found can be shown in its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal, NamedTuple

Kind = Literal["text", "markdown", "code", "csv", "pages"]
"""How a text is built. "pages" are parted by form feeds."""

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
    return list(islice(_packed(text, _BLOCKS[kind](text)), MAX_PASSAGES))


# ── blocks ──


_Line = tuple[int, int, str]
"""Where it starts and ends, and itself with its line break."""


def _lines(text: str) -> Iterator[_Line]:
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
_UNDERLINE = re.compile(r" {0,3}(=+|-{3,})[ \t]*$")
_FENCE = re.compile(r" {0,3}(```+|~~~+)")


def _sections(text: str) -> Iterator[_Block]:
    """Paragraphs of Markdown: a heading begins a section, and nothing inside a fence does."""
    path: list[str] = []
    begin, level, fence, after_blank = 0, 0, "", True
    title: str | None = None
    for (start, _, line), (_, _, below) in _with_next(_lines(text)):
        heading = None if fence else _heading(line, below if after_blank else "")
        border = heading is not None or (after_blank and not fence and bool(line.strip()))
        if border and start > begin:
            yield _Block(begin, start, level, title)
            begin, level = start, 0
        if heading is not None:
            level, words = heading
            path = [*path[: level - 1], *[""] * (level - 1 - len(path)), words]
            title = _title(" › ".join(part for part in path if part))
        if mark := _FENCE.match(line):
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]
        after_blank = not line.strip()
    if begin < len(text):
        yield _Block(begin, len(text), level, title)


def _heading(line: str, below: str) -> tuple[int, str] | None:
    """Its level and its words; `below` is the next line, which may underline it."""
    if found := _HEADING.match(line):
        return len(found[1]), found[2].strip().rstrip("#").strip()
    if below and line.strip() and (found := _UNDERLINE.match(below)):
        return (1 if found[1][0] == "=" else 2), line.strip()
    return None


def _with_next(lines: Iterator[_Line]) -> Iterator[tuple[_Line, _Line]]:
    """Each with the one after it; the last with an empty one."""
    this = next(lines, None)
    for following in lines:
        assert this is not None
        yield this, following
        this = following
    if this is not None:
        yield this, (this[1], this[1], "")


_HEAD = re.compile(
    r"(?:(?:export|default|public|private|protected|internal|static|async|abstract|final|override|unsafe|extern|pub"
    r"(?:\(\w+\))?) )*(?:def|class|fn|func|function|fun|impl|struct|enum|trait|interface|module|namespace|sub)\b.*"
)
_ABOVE = ("@", "#", "//", "/*", "*", "--", '"""', "'''", "///", "[", "template")
"""How lines begin that belong to the function below them: decorators, attributes, comments."""


class _Head(NamedTuple):
    indent: int
    title: str


def _functions(text: str) -> Iterator[_Block]:
    """Paragraphs of source code. What stands at the left edge begins something, and so does a function or class inside
    another; its head, after those around it, is its title."""
    around: list[_Head] = []
    for start, end, _, _ in _paragraphs(text):
        lines = text[start : min(end, start + MOST)].splitlines()
        indent = _indent_of(lines)
        while around and indent <= around[-1].indent and not lines[0].lstrip().startswith((")", "}", "]")):
            around.pop()
        head = _head_of(lines, indent)
        if head is not None:
            around.append(_Head(indent, head))
        title = " › ".join(each.title for each in around)[-MAX_TITLE:] or None
        yield _Block(start, end, 1 if head is not None or not indent else 0, title)


def _indent_of(lines: Sequence[str]) -> int:
    first = next((line for line in lines if line.strip()), "")
    return len(first) - len(first.lstrip())


def _head_of(lines: Sequence[str], indent: int) -> str | None:
    """The head of the function or class that the paragraph begins with, below what belongs to it."""
    for line in lines:
        words = line.strip()
        if _HEAD.match(words):
            return _title(words)
        if words and not words.startswith(_ABOVE):
            is_head = not indent and words.endswith(("{", "(", ":")) and words[0].isalpha()
            return _title(words) if is_head else None
    return None


def _pages(text: str) -> Iterator[_Block]:
    """Paragraphs, each on its page."""
    begin, page, level, after_blank = 0, 1, 0, True
    for start, end, line in _lines(text):
        if start > begin and after_blank and line.strip():
            yield _Block(begin, start, level, f"page {page}")
            begin, level = start, 0
        after_blank = not line.strip()
        if line.endswith("\f"):
            yield _Block(begin, end, level, f"page {page}")
            begin, page, level = end, page + line.count("\f"), 1
    if begin < len(text):
        yield _Block(begin, len(text), level, f"page {page}")


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


_BLOCKS: dict[Kind, Callable[[str], Iterator[_Block]]] = {
    "text": _paragraphs, "markdown": _sections, "code": _functions, "csv": _rows, "pages": _pages,
}  # fmt: skip


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

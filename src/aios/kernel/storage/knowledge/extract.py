"""The passages of a file, from its bytes: what it is, its text, where that is split. Knows no store.

Texts are split in threads. HTML and PDF are turned into text by a process that is shut in, one for the files of one
scope, so that nothing of somebody else's is ever in its reach.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar, TypeVarTuple

from ...clock import Clock
from ..workers import Workers
from . import converter
from .converter import Converted, Converter, Program, Unreadable
from .formats import Format, Text, places, text_of, text_of_page
from .readings import Piece
from .split import MAX_PASSAGES, Kind, split

MAX_SIZE: dict[Format, int] = {"pdf": 64 << 20}
MAX_TEXT_SIZE = 16 << 20
"""Bytes of a file of any other format."""
LEAST_TEXT, MOST_TIMES = 64 << 10, 8
"""Characters that any file may turn into, and how many times its bytes, so that packed ones make no mountains."""
NUM_TEXTS, NUM_PAGES, NUM_PDFS = 2, 1, 2
"""Files of each kind that are read at the same time. Those of one kind never wait for another's."""
PYPDF = "pypdf"
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Extract(NamedTuple):
    """`why` says what was not read, `lacks` the package that would."""

    pieces: list[Piece]
    why: str | None = None
    lacks: str | None = None


class Workshop:
    """What reading takes, for all scopes."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.workers = Workers(NUM_TEXTS)
        self.pdf = converter.pdf()
        self._turns: dict[Format, asyncio.Semaphore] = {
            "html": asyncio.Semaphore(NUM_PAGES), "pdf": asyncio.Semaphore(NUM_PDFS)
        }  # fmt: skip
        self._texts = asyncio.Semaphore(NUM_TEXTS)

    def turn(self, format: Format) -> asyncio.Semaphore:
        return self._turns.get(format, self._texts)

    def close(self) -> None:
        self.workers.close()


class Extractor:
    """For one scope's files, one at a time. `close` ends its processes."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._converters: dict[Program, Converter] = {}

    async def extract(self, format: Format, pieces: list[bytes]) -> Extract:
        """The passages of a file that comes in pieces."""
        try:
            if format == "pdf":
                return await self._pdf(pieces)
            if format == "html":
                return await self._page(pieces)
            return await self._in_thread(_of_text, pieces, format)
        except Unreadable as error:
            return Extract([], str(error))

    async def _pdf(self, pieces: list[bytes]) -> Extract:
        if self._workshop.pdf is None:
            return Extract([], "it is a PDF, which takes pypdf: pip install 'aios-kernel[pdf]'", PYPDF)
        found = await self._converted(self._workshop.pdf, pieces)
        return await self._in_thread(_of_converted, found, "pages")

    async def _page(self, pieces: list[bytes]) -> Extract:
        data = await self._in_thread(_page_in_utf8, pieces)
        if data is None:
            return Extract([])
        found = await self._converted(converter.HTML, [data])
        return await self._in_thread(_of_converted, found, "markdown")

    async def _converted(self, program: Program, pieces: list[bytes]) -> Converted:
        worker = self._converters.get(program)
        if worker is None:
            worker = self._converters[program] = Converter(program, self._workshop.clock)
        limit = min(converter.MAX_TEXT, max(LEAST_TEXT, MOST_TIMES * sum(map(len, pieces))))
        return await worker.convert(pieces, limit)

    async def _in_thread(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self._workshop.workers.run(partial(work, *args))

    async def close(self) -> None:
        for each in self._converters.values():
            await each.close()
        self._converters.clear()


def too_large(format: Format, size: int) -> str | None:
    """Why a file of that size is not read at all."""
    most = MAX_SIZE.get(format, MAX_TEXT_SIZE)
    return f"it holds {size:,} bytes, and {most:,} are read of one file: split it" if size > most else None


# ── in threads ──


def _of_text(pieces: Sequence[bytes], kind: Kind) -> Extract:
    text = text_of(b"".join(pieces))
    return Extract([]) if text is None else _split(text, kind)


def _page_in_utf8(pieces: Sequence[bytes]) -> bytes | None:
    text = text_of_page(b"".join(pieces))
    return None if text is None else text.text.encode()


def _of_converted(found: Converted, kind: Kind) -> Extract:
    made = _split(Text(found.text, "utf-8"), kind)
    return made if found.why is None else made._replace(why=found.why)


def _split(text: Text, kind: Kind) -> Extract:
    found = split(text.text, kind)
    ends = places(text, [each for passage in found for each in (passage.start, passage.end)])
    pieces = [
        Piece(start, end, passage.title, text.text[passage.start : passage.end])
        for passage, start, end in zip(found, ends[::2], ends[1::2], strict=True)
    ]
    is_cut = len(found) == MAX_PASSAGES
    return Extract(pieces, f"only its first {MAX_PASSAGES:,} passages are read" if is_cut else None)

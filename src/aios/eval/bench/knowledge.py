"""`aios bench knowledge`: how fast files are read into passages, and how long it takes to find some. Asserts nothing.

Through calls in process: Markdown files of ten sections of made-up words. Beside it SQLite's own full-text search of
the same sections, in a table that belongs to nobody: the least that words could cost.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import apsw

from aios.abi.calls import Passages, StoRetrieve, StoWrite, Where
from aios.abi.memory import SearchMode
from aios.kernel import Kernel, Principal
from aios.testing import booted, principal

from .search import Language, bare_table
from .timing import Times

FILES, SECTIONS, FOLDERS = 2_000, 10, 20
PAGES = 200
ROUNDS = 25
WRITERS = 16
SEED = 1
MODES: tuple[SearchMode, ...] = ("keyword", "hybrid")
CONDITIONS: dict[str, Where | None] = {
    "all files": None,
    "by type and name": Where(types=["md"], name="file-1*.md"),
    "in one folder": Where(path="folder-7"),
}


def main(as_json: bool, quick: bool) -> dict[str, Any]:
    """Measure it; print it unless the caller wants it as it is."""
    figures = asyncio.run(measure(quick=quick))
    if not as_json:
        print(table(figures))
    return figures


async def measure(*, quick: bool = False, files: int = FILES) -> dict[str, Any]:
    files = files // 20 if quick else files
    language = Language(SEED)
    sections = [[_section(language) for _ in range(SECTIONS)] for _ in range(files)]
    async with booted() as kernel:
        who = principal(kernel, "one")
        await kernel.access.settled()
        texts = {f"folder-{n % FOLDERS}/file-{n}.md": "\n\n".join(each) for n, each in enumerate(sections)}
        await _write(kernel, who, texts)
        before = _size(kernel)
        reading, bare = Times(), Times()
        with reading.once():
            await _read_all(kernel, who)
        num = _number(kernel, "SELECT count(*) FROM passages")
        with bare.once():
            table = bare_table([text for each in sections for text in each])
        await kernel.search.idle()
        return {
            "files": files,
            "passages": num,
            "bytes_of_text": sum(map(len, texts.values())),
            "bytes_on_disk": _size(kernel) - before,
            "rounds": ROUNDS,
            "read": _per_second(num, reading),
            "bare_insert": _per_second(num, bare),
            "found": await _retrievals(kernel, who, sections, table),
            "written_and_found": await _fresh(kernel, who, language),
            "html_pages": await _pages(kernel, language, PAGES // 10 if quick else PAGES),
        }


def _section(language: Language) -> str:
    title = " ".join(language.entry().split()[:3])
    return f"## {title}\n\n" + " ".join(f"{language.entry()}." for _ in range(5))


async def _write(kernel: Kernel, who: Principal, texts: dict[str, str]) -> None:
    left = iter(texts.items())

    async def some() -> None:
        for path, text in left:
            await kernel.call(who, "sto_write", StoWrite(path=path, content=text))

    await asyncio.gather(*(some() for _ in range(WRITERS)))


async def _read_all(kernel: Kernel, who: Principal) -> None:
    """Ask until nothing is left to be read."""
    asked = StoRetrieve(query="nothing of this", k=1, mode="keyword")
    pending = 1
    while pending:
        passages: Passages = await kernel.call(who, "sto_retrieve", asked)
        pending = passages.pending


def _size(kernel: Kernel) -> int:
    """Bytes of the database, without what is free in it."""
    pages = "pragma_page_count, pragma_freelist_count, pragma_page_size"
    return _number(kernel, f"SELECT (page_count - freelist_count) * page_size FROM {pages}")


def _number(kernel: Kernel, sql: str) -> int:
    ((found,),) = kernel.database.read(lambda c: c.execute(sql).fetchall())
    return int(str(found))


def _per_second(num: int, times: Times) -> dict[str, int]:
    return {"wall": round(num / times.wall_s), "cpu": round(num / times.cpu_s)}


async def _retrievals(
    kernel: Kernel, who: Principal, sections: Sequence[Sequence[str]], bare: apsw.Connection
) -> dict[str, dict[str, dict[str, float]]]:
    """Of each condition in each mode: seconds, by the wall and of the CPU, in turn with bare FTS5."""
    dice = random.Random(SEED)
    queries = [" ".join(dice.sample(dice.choice(each).split(), 6)) for each in dice.choices(sections, k=ROUNDS)]
    times = {name: {mode: Times() for mode in (*MODES, "bare FTS5")} for name in CONDITIONS}
    for query in queries:
        for name, where in CONDITIONS.items():
            for mode in MODES:
                with times[name][mode].once():
                    await kernel.call(who, "sto_retrieve", StoRetrieve(query=query, k=5, where=where, mode=mode))
            with times[name]["bare FTS5"].once():
                match = " OR ".join(f'"{word.strip(".#")}"' for word in query.split() if word.strip(".#"))
                bare.execute("SELECT rowid FROM t WHERE t MATCH ? ORDER BY rank LIMIT 5", (match,)).fetchall()
    return {name: {mode: _seconds(each) for mode, each in modes.items()} for name, modes in times.items()}


async def _fresh(kernel: Kernel, who: Principal, language: Language) -> dict[str, float]:
    """Seconds until a file that was just written again is found as it is now."""
    times = Times()
    for number in range(ROUNDS):
        content = f"# Number zyx{number}\n\n{_section(language)}"
        await kernel.call(who, "sto_write", StoWrite(path="folder-7/fresh.md", content=content))
        with times.once():
            asked = StoRetrieve(query=f"zyx{number}", k=1, mode="keyword")
            passages: Passages = await kernel.call(who, "sto_retrieve", asked)
        if [each.path for each in passages.passages] != ["folder-7/fresh.md"]:
            raise RuntimeError("a file that was just written is not found")
    return _seconds(times)


async def _pages(kernel: Kernel, language: Language, count: int) -> dict[str, Any]:
    """Pages of HTML a second, by another agent, whose process is started first."""
    who = principal(kernel, "two")
    await kernel.access.settled()
    body = [f"<h2>{language.entry()}</h2><p>{language.entry()}" * SECTIONS for _ in range(count)]
    await _write(kernel, who, {f"{n}.html": f"<title>Page {n}</title>{each}" for n, each in enumerate(body)})
    begun = time.perf_counter()
    await _read_all(kernel, who)
    return {"pages": count, "per_s": round(count / (time.perf_counter() - begun), 1)}


def _seconds(times: Times) -> dict[str, float]:
    return {"wall_s": round(times.wall_s, 5), "cpu_s": round(times.cpu_s, 5)}


def table(figures: dict[str, Any]) -> str:
    read, bare = figures["read"], figures["bare_insert"]
    lines = [
        f"{figures['passages']:,} passages of {figures['files']:,} files; medians of {figures['rounds']}, milliseconds"
        " by the wall (of the CPU)",
        f"passages read a second: {read['wall']:,} ({read['cpu']:,}); put into bare FTS5: {bare['wall']:,}"
        f" ({bare['cpu']:,})",
        f"text of {figures['bytes_of_text'] / 1e6:.1f} MB; with words and vectors its passages take"
        f" {figures['bytes_on_disk'] / 1e6:.1f} MB",
        f"{'found among':<20}" + "".join(f"{mode:>18}" for mode in (*MODES, "bare FTS5")),
    ]
    for name, modes in figures["found"].items():
        cells = "".join(f"{each['wall_s'] * 1e3:>9.1f} ({each['cpu_s'] * 1e3:>5.1f})" for each in modes.values())
        lines.append(f"  {name:<18}  {cells}")
    fresh, pages = figures["written_and_found"], figures["html_pages"]
    lines.append(f"a file just written, found: {fresh['wall_s'] * 1e3:.1f} ({fresh['cpu_s'] * 1e3:.1f})")
    lines.append(f"HTML pages read a second, with the start of their process: {pages['per_s']} of {pages['pages']}")
    return "\n".join(lines)

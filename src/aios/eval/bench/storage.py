"""`aios bench storage`: small writes, a gigabyte as a stream beside `cp`, what a changed line costs, reads.

All of it goes through a kernel in this process: its checks, queue and journal are in the figures. What is compared is
measured in turn, and medians of rounds count. CPU time is that of this process, all its threads, or of `cp`. Asserts
nothing.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import uvloop

from aios.abi.calls import StoClear, StoRead, StoStat, StoWrite
from aios.kernel import Kernel, Principal, parse
from aios.testing import booted, principal

from .timing import Times, ratio

WRITERS = 64
SMALL = 512
"""Bytes of a small file."""
BLOCK = 1 << 20
"""Bytes that a stream brings at once."""
TEXT = 10_000_000
"""Bytes of the text of which a line is changed."""
CONFIG = '[storage]\nlimit = "64GiB"\n'


def main(as_json: bool, quick: bool) -> dict[str, Any]:
    """Measure it; print it unless the caller wants it as it is."""
    figures: dict[str, Any] = uvloop.run(measure(quick=quick))
    if not as_json:
        print(table(figures))
    return figures


async def measure(*, quick: bool = False) -> dict[str, Any]:
    rounds = 1 if quick else 5
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as name:
        folder = Path(name)
        return {
            "rounds": rounds,
            "small": await small_files(folder, rounds, 640 if quick else 6400),
            "stream": await streams(folder, rounds, (64 if quick else 1024) << 20),
            "stream_durable": await streams(folder, rounds, (64 if quick else 1024) << 20, durable=True),
            "change": await changes(folder, 5 if quick else 50),
        }


# ── small files ──


async def small_files(folder: Path, rounds: int, number: int) -> dict[str, float]:
    """Files a second from 64 writers, each an agent of its own, beside bare files that are written one by one; and
    µs of a read."""
    through, bare, read = Times(), Times(), Times()
    async with booted(home=folder / "small", config=parse(CONFIG)) as kernel:
        writers = [principal(kernel, f"writer-{n}") for n in range(WRITERS)]
        each = number // WRITERS
        for turn in range(rounds + 1):
            with through.once():
                await asyncio.gather(*(_write(kernel, who, turn, each) for who in writers))
            with bare.once():
                _write_bare(folder / f"bare-{turn}", number)
            with read.once():
                await _read(kernel, writers[0], turn, each)
    return {
        "files_s": round(number / statistics.median(through.wall[1:])),
        "files_per_cpu_s": round(number / statistics.median(through.cpu[1:])),
        "bare_files_s": round(number / statistics.median(bare.wall[1:])),
        "read_us": round(statistics.median(read.wall[1:]) / each * 1e6, 1),
        "read_cpu_us": round(statistics.median(read.cpu[1:]) / each * 1e6, 1),
        "writers": WRITERS,
        "bytes": SMALL,
    }


async def _write(kernel: Kernel, who: Principal, turn: int, number: int) -> None:
    content = "x" * SMALL
    for n in range(number):
        await kernel.call(who, "sto_write", StoWrite(path=f"notes/{turn}-{n}.txt", content=content))


def _write_bare(folder: Path, number: int) -> None:
    folder.mkdir()
    content = b"x" * SMALL
    for n in range(number):
        (folder / f"{n}.txt").write_bytes(content)


async def _read(kernel: Kernel, who: Principal, turn: int, number: int) -> None:
    for n in range(number):
        await kernel.call(who, "sto_read", StoRead(path=f"notes/{turn}-{n}.txt"))


# ── a long one ──


async def streams(folder: Path, rounds: int, size: int, *, durable: bool = False) -> dict[str, float]:
    """Seconds to copy a file with `cp`, to write it into the store, and to read it out of there. With `durable` until
    it is on the disk, which `cp` is made to wait for by an fsync."""
    source = folder / "source"
    _make(source, size)
    copied, written, read = Times(), Times(), Times()
    mode = '[journal]\nmode = "durable"\n' if durable else ""
    async with booted(home=folder / f"stream-{durable}", config=parse(CONFIG + mode)) as kernel:
        who = principal(kernel)
        for _ in range(rounds + 1):
            _copy(source, folder / "copy", copied, durable=durable)
            with written.once():
                await kernel.wait(await kernel.transfers.put(who, "long", _blocks(source), size=size))
            with read.once():
                await _read_all(kernel, who, "long")
            await kernel.call(who, "sto_clear", StoClear(path="long"))
            await kernel.call(who, "sto_clear", StoClear(path=".", trash=True))
    source.unlink()
    figures: dict[str, float] = {"bytes": size}
    for name, times in (("cp", copied), ("write", written), ("read", read)):
        figures[f"{name}_s"] = round(statistics.median(times.wall[1:]), 3)
        figures[f"{name}_cpu_s"] = round(statistics.median(times.cpu[1:]), 3)
    figures["write_of_cp"] = round(ratio(copied.wall[1:], written.wall[1:]), 2)
    figures["read_of_cp"] = round(ratio(copied.wall[1:], read.wall[1:]), 2)
    return figures


def _make(path: Path, size: int) -> None:
    dice = random.Random(0)
    with path.open("wb") as file:
        for _ in range(0, size, BLOCK):
            file.write(dice.randbytes(BLOCK))


def _copy(source: Path, target: Path, times: Times, *, durable: bool) -> None:
    """With `cp`, whose CPU time is that of a child."""
    target.unlink(missing_ok=True)
    before, begun = _children(), time.perf_counter()
    subprocess.run(["cp", str(source), str(target)], check=True)
    if durable:
        with target.open("rb") as file:
            os.fsync(file.fileno())
    times.wall.append(time.perf_counter() - begun)
    times.cpu.append(_children() - before)
    target.unlink()


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def _blocks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            yield block


async def _read_all(kernel: Kernel, who: Principal, path: str) -> None:
    async with kernel.transfers.get(who, path) as opened:
        async for _ in opened.stream(0, opened.size):
            pass


# ── a changed line ──


async def changes(folder: Path, number: int) -> dict[str, float]:
    """Bytes that one more version of a long text takes of which a line was changed: new chunks, and the list of all."""
    dice = random.Random(0)
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(2, 9))) for _ in range(3000)]
    lines: list[str] = []
    size = 0
    while size < TEXT:
        lines.append(_line(dice, words))
        size += len(lines[-1])
    costs = []
    times = Times()
    async with booted(home=folder / "change", config=parse(CONFIG)) as kernel:
        who = principal(kernel)
        stored = await _stored(kernel, who, lines)
        for _ in range(number):
            lines[dice.randrange(len(lines))] = _line(dice, words)
            with times.once():
                now = await _stored(kernel, who, lines)
            costs.append(now - stored + kernel.database.read(_last_list))
            stored = now
    return {
        "text_bytes": size,
        "changes": number,
        "median_bytes": round(statistics.median(costs)),
        "most_bytes": max(costs),
        "write_s": round(times.wall_s, 3),
        "write_cpu_s": round(times.cpu_s, 3),
    }


def _line(dice: random.Random, words: list[str]) -> str:
    return " ".join(dice.choices(words, k=dice.randint(3, 14))) + "\n"


async def _stored(kernel: Kernel, who: Principal, lines: list[str]) -> int:
    """Write the text; what the agent's files take then, without lists of chunks."""
    await kernel.call(who, "sto_write", StoWrite(path="text", content="".join(lines)))
    stored: int = (await kernel.call(who, "sto_stat", StoStat())).stored
    return stored


def _last_list(connection: apsw.Connection) -> int:
    found = connection.execute("SELECT octet_length(chunks) FROM contents ORDER BY id DESC LIMIT 1").fetchone()
    return int(found[0]) if found else 0


# ── for people ──


def table(figures: dict[str, Any]) -> str:
    small, change = figures["small"], figures["change"]
    lines = [
        f"{'small files':<16} {small['files_s']:>8} written a second by {WRITERS} writers,"
        f" {small['files_per_cpu_s']} per CPU-second; bare files {small['bare_files_s']}",
        f"{'':<16} {small['read_us']:>8} µs to read one ({small['read_cpu_us']} µs of CPU)",
    ]
    for name, title in (("stream", "a long file"), ("stream_durable", "… on the disk")):
        each = figures[name]
        lines += [
            f"{title:<16} {each['write_s']:>8} s to write {each['bytes'] >> 20} MiB, cp {each['cp_s']} s:"
            f" {each['write_of_cp']} of its speed (CPU {each['write_cpu_s']} and {each['cp_cpu_s']} s)",
            f"{'':<16} {each['read_s']:>8} s to read it: {each['read_of_cp']} of cp's speed",
        ]
    lines.append(
        f"{'a changed line':<16} {change['median_bytes']:>8} bytes for one more version of a text of"
        f" {change['text_bytes']:,}, {change['most_bytes']} at most in {change['changes']}"
    )
    return "\n".join(lines)

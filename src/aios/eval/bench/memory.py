"""`aios bench memory`: what it costs to remember, what the tries save, and who leaves first. Asserts nothing.

Costs are measured at the memory room of a kernel in this process, and writes also through the kernel's queue and
journal; beside them, in turn, rows of the same texts in a bare table of the same store. Medians of rounds count.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import uvloop

from aios.abi.calls import Args, BlockStat, LLMGenerate, MemAlloc, MemRead, MemStat, MemWrite, spec_of
from aios.abi.messages import Message
from aios.kernel import Kernel, Principal, Process, Syscall
from aios.kernel.llm.local.tokenizer import Tokenizer
from aios.kernel.llm.nano import WEIGHTS, NanoCore
from aios.kernel.memory.trie import Trie
from aios.testing import booted, principal

from ..runner import Runner
from ..workload import generate
from . import eviction
from .texts import corpus, dialogue
from .timing import Times, ratio

WRITERS = 256
ENTRY = 120
"""Bytes of a small entry."""
DIALOGUE_TOKENS = 4000
SNAPSHOTS = 20
NAME = "bench"


def main(as_json: bool, quick: bool, trace: Path | None = None) -> dict[str, Any]:
    """Measure it; print it unless the caller wants it as it is. `trace` is a file in the form of Mooncake's traces."""
    figures: dict[str, Any] = uvloop.run(measure(quick=quick, trace=trace))
    if not as_json:
        print(table(figures))
    return figures


async def measure(*, quick: bool = False, trace: Path | None = None) -> dict[str, Any]:
    rounds, number = (1, 2_000) if quick else (3, 10_000)
    figures: dict[str, Any] = {"rounds": rounds, "entries": number}
    figures["write"] = await writing(rounds, number)
    figures["read"] = await reading(rounds, number // 4)
    figures["dialogue"] = await snapshots()
    figures["transcripts"] = await transcripts(2 if quick else 24)
    figures["eviction"] = eviction.measure(10_000 if quick else 100_000, trace)
    if sys.platform == "linux":
        figures["bound"] = await bound("16MiB", "32MiB" if quick else "256MiB", 20 if quick else 100)
    return figures


# ── calls ──


class Room:
    """The memory room of a kernel, asked without a queue."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._process = Process(1, NAME, NAME)

    def call(self, args: Args, agent: str | None = None) -> Syscall:
        process = self._process if agent is None else Process(1, agent, NAME)
        name = {MemWrite: "mem_write", MemRead: "mem_read", MemStat: "mem_stat", MemAlloc: "mem_alloc"}[type(args)]
        return Syscall("", spec_of(name), args, process, 0.0)

    async def run(self, args: Args, agent: str | None = None) -> Any:
        call = self.call(args, agent)
        self.kernel.memory.check(call)
        return await self.kernel.memory.run(call)


@asynccontextmanager
async def a_room() -> AsyncIterator[Room]:
    async with booted() as kernel:
        yield Room(kernel)


async def _by_many(number: int, act: Callable[[int], Awaitable[Any]]) -> list[Any]:
    """`act` for each number, by WRITERS tasks at the same time."""
    results: list[Any] = [None] * number

    async def work(first: int) -> None:
        for n in range(first, number, WRITERS):
            results[n] = await act(n)

    await asyncio.gather(*map(work, range(WRITERS)))
    return results


# ── writes ──


async def writing(rounds: int, number: int) -> dict[str, float]:
    """Entries a second with groups of what many write at once, in the memory room, through the whole kernel, and rows
    of the same texts in a bare table."""
    text = corpus(1 << 20)
    texts = [f"{n} {text[n * 31 % 900_000 :][:ENTRY]}" for n in range(number)]
    times = {name: Times() for name in ("bare", "room", "kernel")}
    async with booted() as kernel:
        who, room = principal(kernel, NAME), Room(kernel)
        await kernel.access.settled()
        await kernel.database.run(_make_table)

        async def bare(n: int) -> None:
            await kernel.database.run(lambda c: _insert(c, texts[n]))

        acts: dict[str, Callable[[int], Awaitable[Any]]] = {
            "bare": bare,
            "room": lambda n: room.run(MemWrite(content=texts[n])),
            "kernel": lambda n: kernel.call(who, "mem_write", MemWrite(content=texts[n])),
        }
        for _ in range(rounds):
            for name, act in acts.items():
                with times[name].once():
                    await _by_many(number, act)
                await kernel.search.idle()
    return {
        **{f"{name}_per_s": round(number / each.wall_s) for name, each in times.items()},
        **{f"{name}_cpu_us": round(each.cpu_s / number * 1e6, 1) for name, each in times.items()},
        "room_to_bare": round(ratio(times["room"].wall, times["bare"].wall), 2),
    }


def _make_table(connection: apsw.Connection) -> None:
    connection.execute("CREATE TABLE bench(row INTEGER PRIMARY KEY, content TEXT NOT NULL)")


def _insert(connection: apsw.Connection, text: str) -> None:
    connection.execute("INSERT INTO bench(content) VALUES (?)", (text,))


# ── reads ──


async def reading(rounds: int, number: int) -> dict[str, Any]:
    """µs of a read of what is in memory, and of what is on disk only: small entries, and snapshots of dialogues of
    20 kB whose beginnings are shared."""
    text = corpus(4 << 20)
    small = [text[n * 41 :][:ENTRY] for n in range(number)]
    long = [text[: 20_000 + n % 97] + text[n * 53 :][:200] for n in range(number // 8)]
    async with a_room() as room:
        return {
            "small": await _reading(room, "small", small, rounds),
            "long": await _reading(room, "long", long, rounds),
        }


async def _reading(room: Room, agent: str, texts: Sequence[str], rounds: int) -> dict[str, Any]:
    written = await _by_many(len(texts), lambda n: room.run(MemWrite(content=texts[n]), agent))
    calls = [room.call(MemRead(id=each.id), agent) for each in written]
    hits, misses = Times(), Times()
    for _ in range(rounds):
        await room.run(MemAlloc(k=2), agent)  # what is allotted anew begins with nothing in memory
        await asyncio.sleep(0.1)  # until what it had has left
        for times in (misses, hits):
            with times.once():
                for call in calls:
                    await room.kernel.memory.run(call)
    stat: BlockStat = await room.run(MemStat(), agent)
    return {
        "bytes": sum(map(len, texts)) // len(texts),
        "hit_us": round(hits.wall_s / len(calls) * 1e6, 2),
        "hit_cpu_us": round(hits.cpu_s / len(calls) * 1e6, 2),
        "swap_in_us": round(misses.wall_s / len(calls) * 1e6, 1),
        "swap_in_cpu_us": round(misses.cpu_s / len(calls) * 1e6, 1),
        "resident_per_entry": stat.resident // len(calls),
    }


# ── what the tries save ──


async def snapshots() -> dict[str, Any]:
    """Successive snapshots of one growing dialogue, in a bare trie too."""
    tokenizer = Tokenizer.load(WEIGHTS / "tokenizer.json")
    tokens = tokenizer.encode(dialogue(400))[:DIALOGUE_TOKENS]
    text = b"".join(tokenizer.tokens[token] for token in tokens).decode()
    trie = Trie()
    async with a_room() as room:
        for n in range(1, SNAPSHOTS + 1):
            content = text[: len(text) * n // SNAPSHOTS]
            trie.insert(content.encode())
            await room.run(MemWrite(content=content, kind="dialogue"))
        saved = _saved(await room.run(MemStat()))
    return {"tokens": len(tokens), "snapshots": SNAPSHOTS, "trie_to_raw": round(trie.size / trie.raw, 3), **saved}


async def transcripts(num_tasks: int) -> dict[str, Any]:
    """What our demo agents send to their models on the tasks of the evaluation, each time they ask, kept as it is."""
    said: dict[str, list[str]] = defaultdict(list)
    async with booted(cores=[NanoCore(slots=8)]) as kernel:
        submit = kernel.submit

        def listen(who: Principal, name: str, args: Args, **more: Any) -> Syscall:
            if isinstance(args, LLMGenerate):
                said[who.agent].append("\n".join(map(_line, args.messages)))
            return submit(who, name, args, **more)

        kernel.submit = listen  # type: ignore[method-assign, assignment]
        await Runner(kernel, concurrency=8).run_all(generate(count=num_tasks))
    async with a_room() as room:
        for prompts in said.values():
            for prompt in prompts:
                await room.run(MemWrite(content=prompt, kind="dialogue"))
        saved = _saved(await room.run(MemStat()))
    return {"tasks": len(said), "snapshots": sum(map(len, said.values())), **saved}


def _line(message: Message) -> str:
    calls = "".join(f" {call.function.name}{call.function.arguments}" for call in message.tool_calls or ())
    return f"{message.role}: {message.text()}{calls}"


def _saved(stat: BlockStat) -> dict[str, Any]:
    """`resident` is all that memory needs for the block: tries, facts, policies."""
    return {
        "raw": stat.raw,
        "resident": stat.resident,
        "disk": stat.disk,
        "resident_to_raw": round(stat.resident / stat.raw, 3),
        "disk_to_raw": round(stat.disk / stat.raw, 3),
    }


# ── bounds ──


async def bound(total: str, num_bytes: str, agents: int) -> dict[str, Any]:
    """How a kernel grows whose agents write much more than it may keep in memory, in a process of its own."""
    command = (sys.executable, "-m", "aios.eval.bench.memory_bound", "--total", total, "--bytes", num_bytes)
    process = await asyncio.create_subprocess_exec(*command, "--agents", str(agents), stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    figures: dict[str, Any] = json.loads(out)
    return figures


# ── for people ──


def table(figures: dict[str, Any]) -> str:
    write = figures["write"]
    lines = [
        f"{'writes in the room':<28}{write['room_per_s']:>10,} /s   {write['room_cpu_us']} µs of CPU,"
        f" {write['room_to_bare']} of a bare row's time",
        f"{'… through the kernel':<28}{write['kernel_per_s']:>10,} /s   {write['kernel_cpu_us']} µs of CPU",
    ]
    for name, read in figures["read"].items():
        lines += [
            f"{'read ' + name + ', in memory':<28}{read['hit_us']:>10} µs   {read['bytes']:,} bytes",
            f"{'read ' + name + ', from disk':<28}{read['swap_in_us']:>10} µs",
        ]
    for name in ("dialogue", "transcripts"):
        each = figures[name]
        lines.append(
            f"{name + ', of ' + format(each['raw'], ',') + ' bytes':<38} {each['resident_to_raw']:.1%} in memory,"
            f" {each['disk_to_raw']:.1%} on disk"
        )
    policies = [*eviction.POLICIES, "belady"]
    lines.append(f"{'hit rates':<28}" + "".join(f"{name:>12}" for name in policies))
    for name, rates in figures["eviction"].items():
        lines.append(f"{name:<28}" + "".join(f"{rates[policy]:>12.1%}" for policy in policies))
    if bounded := figures.get("bound"):
        lines.append(
            f"{bounded['agents']} agents wrote {bounded['bytes']:,} bytes: memory grew by {bounded['grown']:,},"
            f" {bounded['grown_by_total']} of the total"
        )
    return "\n".join(lines)

"""`aios bench switch`: what interrupting a generation costs, and what going on with it does, beside starting over.

A switch in the pool is timed alone, and as what it adds to a generation under the kernel. Then a generation with so
much context leaves the pool for host memory or for the disk and comes back, by the context manager's own ways;
computing the same context again is timed in the same round. Medians of the rounds count. Asserts nothing.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aios.abi.calls import LLMGenerate
from aios.abi.messages import Message
from aios.kernel import Kernel, Principal, parse
from aios.kernel.llm.local.decoder import Decoder
from aios.kernel.llm.local.engine import Engine
from aios.kernel.llm.local.grammar import Vocabulary
from aios.kernel.llm.local.held import Held
from aios.kernel.llm.local.load import load
from aios.kernel.llm.local.sequence import Spec
from aios.kernel.llm.local.tokenizer import Tokenizer
from aios.kernel.llm.nano import WEIGHTS, NanoCore
from aios.kernel.llm.nano import vocabulary_of as vocabulary_of_nano
from aios.testing import booted, principal

from .shapes import decoder_of, vocabulary_of
from .timing import Times

SWITCHES = 2000
TOKENS = 256
"""Of each of the two generations that interrupt each other under the kernel."""
ROOM = 1 << 40
LENGTHS = {"nano": (128, 256, 512, 1024, 2048, 3968), "100M": (128, 256, 512, 1024, 2048)}
QUICK = {"nano": (128, 512, 2048), "100M": (128, 512, 1024)}
TIERS = {"ram": f"ram_bytes = {ROOM}", "disk": f"ram_bytes = 0\ndisk_bytes = {ROOM}"}


def main(as_json: bool, quick: bool, plot: Path | None = None) -> dict[str, Any]:
    """Measure all of it; print it unless the caller wants it as it is, and draw it where `plot` says."""
    if plot is not None:
        from .plot import check

        check(plot)  # what is missing is told before the work, not after it
    figures: dict[str, Any] = asyncio.run(measure(quick=quick))
    if plot is not None:
        from .plot import draw

        draw(figures, plot)
    if not as_json:
        print(table(figures))
    return figures


async def measure(*, quick: bool = False) -> dict[str, Any]:
    rounds = 2 if quick else 5
    lengths = QUICK if quick else LENGTHS
    return {
        "rounds": rounds,
        "in_pool_us": round(await in_pool(rounds), 1),
        "under_kernel": await under_kernel(rounds),
        "models": {
            "nano": await by_length(_nano, lengths["nano"], rounds),
            "100M": await by_length(_large, lengths["100M"], 1 if quick else 2),
        },
    }


def _nano() -> tuple[Decoder, Vocabulary]:
    return load(WEIGHTS), vocabulary_of_nano(Tokenizer.load(WEIGHTS / "tokenizer.json"))


def _large() -> tuple[Decoder, Vocabulary]:
    decoder = decoder_of("100M")
    return decoder, vocabulary_of(decoder.shape.vocabulary)


# ── in the pool ──


async def in_pool(rounds: int) -> float:
    """µs to take one generation out of the engine and put another one in, both with their memory in the pool."""
    decoder, words = _nano()
    async with booted() as kernel:
        engine = Engine(decoder, words, kv_bytes=1 << 28)
        one, other = (_held(engine, f"switch-{n}", 512) for n in range(2))
        kernel.contexts.put(other)
        engine.add(one.sequence)
        seen = []
        for _ in range(rounds + 1):
            begun = time.perf_counter()
            for _ in range(SWITCHES):
                engine.remove(one.key)
                kernel.contexts.put(one)
                await kernel.contexts.take(other)
                engine.add(other.sequence)
                one, other = other, one
            seen.append((time.perf_counter() - begun) / SWITCHES * 1e6)
        engine.remove(one.key)
        for held in (one, other):
            kernel.contexts.drop(held)
    return statistics.median(seen[1:])


async def under_kernel(rounds: int) -> dict[str, float]:
    """What a switch adds to the CPU of two generations that share one slot: the scheduler, the thread that computes,
    the trace, and the switch itself. They change places at every token, or hardly ever."""
    spent: dict[int, Times] = {1: Times(), 4 * TOKENS: Times()}
    switches = 0
    async with AsyncExitStack() as stack:
        kernels = {}
        for quantum in spent:
            core = NanoCore(slots=1)
            kernel = await stack.enter_async_context(booted(cores=[core], policy="rr", quantum=quantum))
            kernels[quantum] = kernel, [principal(kernel, f"agent-{n}") for n in range(2)]
        for number in range(rounds + 1):
            for quantum, (kernel, whos) in kernels.items():
                before = kernel.trace.totals["llm_generate", "suspended"]
                with (Times() if number == 0 else spent[quantum]).once():
                    await asyncio.gather(*(_generate(kernel, who) for who in whos))
                if quantum == 1:
                    switches = kernel.trace.totals["llm_generate", "suspended"] - before
    often, seldom = spent.values()
    added = statistics.median(a - b for a, b in zip(often.cpu, seldom.cpu, strict=True))
    return {"switches": switches, "cpu_us_per_switch": round(added / switches * 1e6, 1)}


async def _generate(kernel: Kernel, who: Principal) -> None:
    ask = LLMGenerate(messages=[Message("user", "Tell me more.")], max_tokens=TOKENS, min_tokens=TOKENS)
    await kernel.call(who, "llm_generate", ask)


# ── out of the pool and back ──


@dataclass(slots=True)
class _Trip:
    """Out of the pool into a tier, and back."""

    out: Times
    back: Times


async def by_length(
    make: Callable[[], tuple[Decoder, Vocabulary]], lengths: tuple[int, ...], rounds: int
) -> list[dict[str, float]]:
    """For each length of context: computing it, and its ways out of the pool and back."""
    decoder, words = make()
    async with AsyncExitStack() as stack:
        kernels = {}
        for tier, room in TIERS.items():
            kernels[tier] = await stack.enter_async_context(booted(config=parse(f"[context]\n{room}")))
        return [await _at_length(decoder, words, length, kernels, rounds) for length in lengths]


async def _at_length(
    decoder: Decoder, words: Vocabulary, length: int, kernels: dict[str, Kernel], rounds: int
) -> dict[str, float]:
    shape = decoder.shape.kv
    engine = Engine(decoder, words, kv_bytes=shape.bytes(length + 2))
    computed = Times()
    trips = {tier: _Trip(Times(), Times()) for tier in kernels}
    size = 0
    for number in range(rounds):
        with computed.once():
            held = _held(engine, f"length-{length}-{number}", length)
        size = held.size
        for tier, kernel in kernels.items():
            for _ in range(2):  # the first time both ways touch fresh memory
                await _round_trip(kernel, held, trips[tier])
        held.forget()
    said = {"context": length, "bytes": size, **_both("prefill", computed)}
    for tier, trip in trips.items():
        said |= _both(f"{tier}_out", trip.out) | _both(f"{tier}_back", trip.back)
        said[f"{tier}_cheaper"] = round(computed.cpu_s / trip.back.cpu_s, 1)
    return said


async def _round_trip(kernel: Kernel, held: Held, trip: _Trip) -> None:
    kernel.contexts.put(held)
    with trip.out.once():
        await kernel.contexts.make_room(held.pool, held.pool.budget)
    with trip.back.once():
        await kernel.contexts.take(held)


def _both(name: str, times: Times) -> dict[str, float]:
    return {f"{name}_ms": round(times.wall_s * 1e3, 3), f"{name}_cpu_ms": round(times.cpu_s * 1e3, 3)}


def _held(engine: Engine, key: str, length: int) -> Held:
    """A generation with `length` tokens of context, that was stopped after its first token."""
    prompt = tuple(n % 250 for n in range(length))
    sequence = engine.new(key, Spec(prompt, max_tokens=2, min_tokens=2))
    engine.add(sequence)
    while not sequence.is_prefilled:
        engine.step()
    engine.remove(key)
    return Held("bench", "logits", engine.pool, sequence, engine.fingerprint, "bench")


# ── for people ──


def table(figures: dict[str, Any]) -> str:
    cost = figures["under_kernel"]["cpu_us_per_switch"]
    told = f"{cost:>8.1f} µs of CPU" if cost > 0 else "lost in the noise: measure again"
    lines = [
        f"a switch in the pool          {figures['in_pool_us']:>8.1f} µs",
        f"… with all of the kernel's    {told}",
    ]
    for model, rows in figures["models"].items():
        lines.append("")
        titles = ("again", "to memory", "back", "to disk", "back", "cheaper")
        lines.append(f"{model:<6}{'context':>9}{'MB':>8}" + "".join(f"{title:>11}" for title in titles))
        for row in rows:
            keys = ("prefill", "ram_out", "ram_back", "disk_out", "disk_back")
            times = "".join(f"{row[f'{key}_ms']:>8.2f} ms" for key in keys)
            lines.append(f"{row['context']:>15,}{row['bytes'] / 1e6:>8.1f}{times}{row['ram_cheaper']:>10.0f}x")
    return "\n".join(lines)

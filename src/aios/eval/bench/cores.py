"""`aios bench cores`: what a core keeps of its bare decoder's speed, and what exactness costs. Asserts nothing.

Contestants decode the same number of tokens in turn, round by round, and medians of the rounds count: tokens per
second of CPU, since machines are shared, and beside it by the wall. Weights are random, but for the packaged model's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from aios.kernel import Kernel, Principal
from aios.kernel.llm.local.decoder import Decoder
from aios.kernel.llm.local.load import load
from aios.kernel.llm.nano import WEIGHTS, NanoCore
from aios.kernel.llm.own import OwnCore
from aios.testing import booted, principal

from . import beside
from .nano import BATCHES, KV_BYTES, Contestant, decode_bare, generate
from .shapes import ShapeCore, decoder_of
from .timing import Times, ratio

CONTEXT = 1024


@dataclass(frozen=True, slots=True)
class Case:
    """A model, and how many tokens each sequence says in a round; at batch 1 it is three times that."""

    name: str
    tokens: int
    decoders: Callable[[], tuple[Decoder, Decoder]]
    """With constant rows, and without."""
    core: Callable[[Decoder], OwnCore]
    rounds: int = 5
    """At most."""


def cases(*, quick: bool) -> list[Case]:
    def of_shape(name: str, tokens: int) -> Case:
        return Case(
            name,
            tokens,
            lambda: (decoder_of(name, context=CONTEXT), decoder_of(name, context=CONTEXT, is_padded=False)),
            lambda decoder: ShapeCore(name, decoder, slots=max(BATCHES), kv_bytes=KV_BYTES),
        )

    nano = Case(
        "nano",
        32 if quick else 96,
        lambda: (load(WEIGHTS), load(WEIGHTS, is_padded=False)),
        lambda decoder: NanoCore(slots=max(BATCHES), kv_bytes=KV_BYTES),
    )
    return [nano, of_shape("tiny", 32 if quick else 96), *([] if quick else [replace(of_shape("mid", 40), rounds=2)])]


def main(as_json: bool, quick: bool) -> dict[str, Any]:
    """Measure all of it; print it unless the caller wants it as it is."""
    figures: dict[str, Any] = asyncio.run(measure(quick=quick))
    if not as_json:
        print(table(figures))
    return figures


async def measure(*, quick: bool = False) -> dict[str, Any]:
    rounds = 2 if quick else 5
    own = {case.name: await _measure(case, min(rounds, case.rounds)) for case in cases(quick=quick)}
    found: dict[str, Any] = {"rounds": rounds, "unit": "tokens per second", "own": own}
    if beside.is_possible():
        longest = 48 if quick else 128
        tiny = await asyncio.to_thread(beside.measure, "tiny", rounds, longest)
        mid = {} if quick else {"mid": await asyncio.to_thread(beside.measure, "mid", 2, 24)}
        found["beside_transformers"] = {"tiny": tiny} | mid
        found["gpu"] = await asyncio.to_thread(beside.on_gpu, rounds, longest)
    return found


async def _measure(case: Case, rounds: int) -> dict[str, Any]:
    padded, unpadded = case.decoders()
    async with booted(cores=[case.core(padded)]) as kernel:
        contestants = _contestants(kernel, principal(kernel), padded, unpadded)
        seen = {(name, batch): Times() for name in contestants for batch in BATCHES}
        for number in range(rounds + 1):
            for batch in BATCHES:
                tokens = case.tokens * (3 if batch == 1 else 1)
                for name, work in contestants.items():
                    with (Times() if number == 0 else seen[name, batch]).once():  # the first round warms up
                        await work(batch, tokens)
    return {f"batch_{batch}": _figures(batch, case.tokens * (3 if batch == 1 else 1), seen) for batch in BATCHES}


def _figures(batch: int, tokens: int, seen: dict[tuple[str, int], Times]) -> dict[str, float]:
    bare, unpadded, kernel = (seen[name, batch] for name in ("bare", "unpadded", "kernel"))
    number = batch * tokens
    return {
        "bare_per_s": round(number / bare.wall_s, 1),
        "kernel_per_s": round(number / kernel.wall_s, 1),
        "bare_per_cpu_s": round(number / bare.cpu_s, 1),
        "unpadded_per_cpu_s": round(number / unpadded.cpu_s, 1),
        "kernel_per_cpu_s": round(number / kernel.cpu_s, 1),
        "kernel_share": round(ratio(bare.cpu, kernel.cpu), 3),
        "constant_rows_cost": round(ratio(bare.cpu, unpadded.cpu), 3),
    }


def _contestants(kernel: Kernel, who: Principal, padded: Decoder, unpadded: Decoder) -> dict[str, Contestant]:
    async def in_kernel(batch: int, tokens: int) -> None:
        await asyncio.gather(*(generate(kernel, who, number, tokens) for number in range(batch)))

    async def bare(batch: int, tokens: int) -> None:
        decode_bare(padded, batch, tokens)

    async def bare_unpadded(batch: int, tokens: int) -> None:
        decode_bare(unpadded, batch, tokens)

    return {"bare": bare, "unpadded": bare_unpadded, "kernel": in_kernel}


def table(figures: dict[str, Any]) -> str:
    lines = [f"{'tokens per CPU-second':<22}" + "".join(f"{f'batch {b}':>10}" for b in BATCHES)]
    rows = [
        ("bare_per_cpu_s", "bare decoder", ",.0f"),
        ("kernel_per_cpu_s", "under the kernel", ",.0f"),
        ("kernel_share", "kernel / bare", ".2f"),
        ("constant_rows_cost", "constant rows cost", ".2f"),
    ]
    for model, batches in figures["own"].items():
        lines.append(model)
        for key, title, form in rows:
            lines.append(f"  {title:<20}" + "".join(f"{format(batches[f'batch_{b}'][key], form):>10}" for b in BATCHES))
    for model, found in figures.get("beside_transformers", {}).items():
        one, many = found["one"], found["unequal"]
        lines += [
            f"{model} on torch, beside transformers",
            f"  one sequence: {one['times_transformers']} times its speed",
            f"  {beside.UNEQUAL} of unequal length: {many['times_one_by_one']} times its speed one by one, "
            f"{many['times_transformers']} times in a padded batch",
        ]
    return "\n".join(lines)

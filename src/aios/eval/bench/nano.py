"""`aios bench nano`: tokens per CPU-second of the bare decoder, the engine and the whole kernel. Asserts nothing.

All are measured in turn, round by round, and the median round counts, since machines are shared. Time is the CPU time
of this process, all threads together: what one core would need. All decode the same number of tokens greedily, from
prompts of about the same length. "bare" is the decoder and an argmax; "unpadded" is bare without constant row counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from aios.abi.calls import LLMGenerate
from aios.abi.messages import Message
from aios.kernel import Kernel, Principal
from aios.kernel.llm.local.decoder import Decoder
from aios.kernel.llm.local.engine import Engine
from aios.kernel.llm.local.load import load
from aios.kernel.llm.local.sequence import Spec
from aios.kernel.llm.local.tokenizer import Tokenizer
from aios.kernel.llm.nano import WEIGHTS, NanoCore, vocabulary_of
from aios.testing import booted, principal

BATCHES = (1, 8, 32)
PROMPT = 12
KV_BYTES = 4 << 30

Contestant = Callable[[int, int], Awaitable[None]]
"""Decodes a number of tokens for a batch of a size."""


async def measure(*, rounds: int = 5, tokens: int = 128, folder: Path = WEIGHTS) -> dict[str, Any]:
    """Tokens per CPU-second by contestant and batch, and the ratios that the docs promise."""
    core = NanoCore(folder=folder, slots=max(BATCHES), kv_bytes=KV_BYTES)
    async with booted(cores={"nano": core}) as kernel:
        contestants = _contestants(kernel, principal(kernel), folder)
        seen: dict[tuple[str, int], list[float]] = {(name, b): [] for name in contestants for b in BATCHES}
        for _ in range(rounds):
            for batch in BATCHES:
                for name, contestant in contestants.items():
                    with _timed(seen[name, batch], batch * tokens):
                        await contestant(batch, tokens)
    speed = {name: {b: round(statistics.median(seen[name, b])) for b in BATCHES} for name in contestants}
    return {"unit": "tokens per CPU-second", "speed": speed, "ratios": _ratios(speed)}


def _contestants(kernel: Kernel, who: Principal, folder: Path) -> dict[str, Contestant]:
    unpadded, padded = load(folder, is_padded=False), load(folder)
    engine = Engine(padded, vocabulary_of(Tokenizer.load(folder / "tokenizer.json")), kv_bytes=KV_BYTES)

    async def in_kernel(batch: int, tokens: int, **more: Any) -> None:
        await asyncio.gather(*(generate(kernel, who, n, tokens, **more) for n in range(batch)))

    async def streamed(batch: int, tokens: int) -> None:
        await in_kernel(batch, tokens, on_chunk=lambda chunk: None)

    async def bare_unpadded(batch: int, tokens: int) -> None:
        decode_bare(unpadded, batch, tokens)

    async def bare(batch: int, tokens: int) -> None:
        decode_bare(padded, batch, tokens)

    async def in_engine(batch: int, tokens: int) -> None:
        decode_engine(engine, batch, tokens)

    return {
        "bare, unpadded": bare_unpadded,
        "bare": bare,
        "engine": in_engine,
        "kernel": in_kernel,
        "kernel, streamed": streamed,
    }


def decode_bare(decoder: Decoder, batch: int, tokens: int) -> None:
    """The smallest loop that speaks: prefill, then for each token one step and an argmax."""
    pool = decoder.pool(KV_BYTES)
    kvs = [pool.open(PROMPT + tokens) for _ in range(batch)]
    for index, kv in enumerate(kvs):
        decoder.prefill(kv, range(index, index + PROMPT), 0)
    last = [0] * batch
    for position in range(PROMPT, PROMPT + tokens):
        last = decoder.decode(last, kvs, [position] * batch).argmax(axis=-1).tolist()


def decode_engine(engine: Engine, batch: int, tokens: int) -> None:
    """The same with sampler, text and rules, and the engine's own order of things."""
    for index in range(batch):
        prompt = tuple(range(index, index + PROMPT))
        engine.add(engine.new(str(index), Spec(prompt, max_tokens=tokens, min_tokens=tokens)))
    while not engine.is_idle:
        engine.step()


async def generate(kernel: Kernel, who: Principal, number: int, tokens: int, **more: Any) -> None:
    ask = LLMGenerate(messages=[Message("user", f"number {number:02d}")], max_tokens=tokens, min_tokens=tokens)
    await kernel.call(who, "llm_generate", ask, **more)


@contextlib.contextmanager
def _timed(into: list[float], tokens: int) -> Iterator[None]:
    start = time.process_time()
    yield
    into.append(tokens / (time.process_time() - start))


def _ratios(speed: dict[str, dict[int, int]]) -> dict[str, float]:
    ratios = {f"kernel / bare unpadded, batch {b}": speed["kernel"][b] / speed["bare, unpadded"][b] for b in BATCHES}
    ratios["kernel, batch 32 / bare unpadded, batch 1"] = speed["kernel"][32] / speed["bare, unpadded"][1]
    ratios["cost of constant rows, batch 1"] = speed["bare, unpadded"][1] / speed["bare"][1]
    return {name: round(ratio, 2) for name, ratio in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = asyncio.run(measure(rounds=options.rounds, tokens=options.tokens))
    if options.json:
        print(json.dumps(found))
        return
    print(f"{found['unit']:24}" + "".join(f"{f'batch {b}':>10}" for b in BATCHES))
    for name, by_batch in found["speed"].items():
        print(f"{name:24}" + "".join(f"{by_batch[b]:>10,}" for b in BATCHES))
    for name, ratio in found["ratios"].items():
        print(f"{ratio:6.2f}  {name}")


if __name__ == "__main__":
    main()

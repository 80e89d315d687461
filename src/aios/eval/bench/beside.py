"""Our decoder on torch beside `transformers`, on the same shape, device and numbers. Knows no kernel, asserts nothing.

One sequence, and sixteen of unequal length: ours leave the batch when they are done, and theirs are generated one by
one, or as one padded batch, which is as long as its longest. What counts is the tokens that were asked for.
"""

from __future__ import annotations

import asyncio
import importlib.util
import random
from collections.abc import Callable
from typing import Any

from aios.kernel.llm.local.backend import Compute, make_backend
from aios.kernel.llm.local.decoder import Decoder
from aios.kernel.llm.local.engine import Engine
from aios.kernel.llm.local.sequence import Spec
from aios.testing.models import config

from .shapes import SHAPES, Random, shape_of, vocabulary_of
from .switch import by_length
from .timing import Times, ratio

CONTEXT = 1024
KV_BYTES = 4 << 30
UNEQUAL = 16
GPU_SIZES, GPU_LENGTHS = (1, 16, 64), (1024, 4096)

Batch = list[tuple[tuple[int, ...], int]]
"""Prompts, and how many tokens each is to get."""


def is_possible() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))


def batch_of(size: int, longest: int) -> Batch:
    """One sequence of `longest` tokens, or more of unequal length: as many short ones as long ones."""
    dice = random.Random(size)
    prompts = [tuple(dice.randrange(256) for _ in range(dice.randint(4, 40))) for _ in range(size)]
    return [(prompt, round(longest / 32 ** dice.random()) if size > 1 else longest) for prompt in prompts]


def measure(name: str, rounds: int, longest: int) -> dict[str, Any]:
    """On the CPU, in f32: tokens per second, by the wall, of both, in turn; and, by the time of the CPU, how many times
    theirs ours is."""
    compute = Compute("torch")
    ours, theirs = _ours(_decoder(name, compute)), _theirs(name, compute)
    one = {"ours": ours, "transformers": theirs}
    many = one | {"one_by_one": lambda batch: _one_by_one(theirs, batch)}
    return {
        "one": _race(batch_of(1, longest), one, rounds, is_cpu=True),
        "unequal": _race(batch_of(UNEQUAL, longest), many, rounds, is_cpu=True),
    }


def on_gpu(rounds: int, longest: int) -> dict[str, Any]:
    """The same on a GPU with random weights of the shape of Llama 3.1 8B in bf16, by the wall; and what switches cost
    there. Nothing where there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        return {}
    return _on("8B", Compute("torch", "bf16", "cuda"), rounds, longest)


def _on(name: str, compute: Compute, rounds: int, longest: int) -> dict[str, Any]:
    decoder = _decoder(name, compute)
    contestants = {"ours": _ours(decoder), "transformers": _theirs(name, compute)}
    found = {f"batch_{size}": _race(batch_of(size, longest), contestants, rounds) for size in GPU_SIZES}
    words = vocabulary_of(decoder.shape.vocabulary)
    return found | {"switch": asyncio.run(by_length(lambda: (decoder, words), GPU_LENGTHS, rounds))}


def _decoder(name: str, compute: Compute) -> Decoder:
    shape = shape_of(name)
    return Decoder(shape, Random(shape), backend=make_backend(compute))


def _race(
    batch: Batch, contestants: dict[str, Callable[[Batch], None]], rounds: int, *, is_cpu: bool = False
) -> dict[str, Any]:
    seen = {who: Times() for who in contestants}
    for number in range(rounds + 1):
        for who, work in contestants.items():
            with (Times() if number == 0 else seen[who]).once():  # the first round warms up
                work(batch)
    tokens = sum(length for _, length in batch)
    found = {f"{who}_per_s": round(tokens / times.wall_s, 1) for who, times in seen.items()}
    spent = {who: times.cpu if is_cpu else times.wall for who, times in seen.items()}
    ours = spent.pop("ours")
    return found | {f"times_{who}": round(ratio(theirs, ours), 2) for who, theirs in spent.items()}


def _ours(decoder: Decoder) -> Callable[[Batch], None]:
    engine = Engine(decoder, vocabulary_of(decoder.shape.vocabulary), kv_bytes=KV_BYTES)

    def work(batch: Batch) -> None:
        for number, (prompt, length) in enumerate(batch):
            engine.add(engine.new(str(number), Spec(prompt, max_tokens=length, min_tokens=length)))
        while not engine.is_idle:
            engine.step()

    return work


def _one_by_one(work: Callable[[Batch], None], batch: Batch) -> None:
    for each in batch:
        work([each])


def _theirs(name: str, compute: Compute) -> Callable[[Batch], None]:
    import torch
    import transformers

    numbers = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[compute.dtype]
    sizes = config(**SHAPES[name], max_position_embeddings=CONTEXT)
    with torch.device(compute.device):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).to(numbers).eval()
    model.generation_config.eos_token_id = None

    def work(batch: Batch) -> None:
        widest = max(len(prompt) for prompt, _ in batch)
        padded = [[0] * (widest - len(prompt)) + list(prompt) for prompt, _ in batch]
        mask = [[0] * (widest - len(prompt)) + [1] * len(prompt) for prompt, _ in batch]
        most = max(length for _, length in batch)
        with torch.inference_mode():
            model.generate(
                torch.tensor(padded, device=compute.device),
                attention_mask=torch.tensor(mask, device=compute.device),
                max_new_tokens=most, min_new_tokens=most, do_sample=False, pad_token_id=0,
            )  # fmt: skip

    return work

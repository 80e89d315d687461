"""Our decoder on torch beside `transformers`, on the same shape, device and numbers. Knows no kernel, asserts nothing.

One sequence, and sixteen of unequal length: ours leave the batch when they are done, and theirs are generated one by
one, or as one padded batch, which is as long as its longest. What counts is the tokens that were asked for.
"""

from __future__ import annotations

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
from .timing import Times, ratio

CONTEXT = 1024
KV_BYTES = 4 << 30
UNEQUAL = 16

Batch = list[tuple[tuple[int, ...], int]]
"""Prompts, and how many tokens each is to get."""


def is_possible() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))


def batches(longest: int) -> dict[str, Batch]:
    dice = random.Random(0)

    def prompt() -> tuple[int, ...]:
        return tuple(dice.randrange(256) for _ in range(dice.randint(4, 40)))

    lengths = [round(longest / 32 ** dice.random()) for _ in range(UNEQUAL)]  # as many short ones as long ones
    return {"one": [(prompt(), longest)], "unequal": [(prompt(), length) for length in lengths]}


def measure(name: str, rounds: int, longest: int, compute: Compute | None = None) -> dict[str, Any]:
    """Tokens per second, by the wall, of both, in turn; and, by the time of the CPU, how many times theirs ours is."""
    compute = compute or Compute("torch")
    shape = shape_of(name, context=CONTEXT)
    decoder = Decoder(shape, Random(shape), backend=make_backend(compute))
    theirs = _theirs(name, compute)
    found: dict[str, Any] = {}
    for title, batch in batches(longest).items():
        contestants: dict[str, Callable[[Batch], None]] = {"ours": _ours(decoder), "transformers": theirs}
        if len(batch) > 1:
            contestants["one_by_one"] = lambda many: _one_by_one(theirs, many)
        seen = {who: Times() for who in contestants}
        for number in range(rounds + 1):
            for who, work in contestants.items():
                with (Times() if number == 0 else seen[who]).once():  # the first round warms up
                    work(batch)
        tokens = sum(length for _, length in batch)
        found[title] = {f"{who}_per_s": round(tokens / times.wall_s, 1) for who, times in seen.items()}
        for who in contestants.keys() - {"ours"}:
            found[title][f"times_{who}"] = round(ratio(seen[who].cpu, seen["ours"].cpu), 2)
    return found


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

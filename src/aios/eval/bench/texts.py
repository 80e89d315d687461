"""Texts to be remembered: as many as one likes, in words, and always the same. Knows no kernel."""

from __future__ import annotations

import random

from ..workload import generate

SEED = 11


def dialogue(num_tasks: int) -> str:
    """Demo agents' tasks one after the other: what is asked, what the files say, what a good agent answers."""
    lines = []
    for task in generate(count=num_tasks, seed=SEED):
        for prompt, turn in zip(task.prompts, task.turns, strict=True):
            lines += [f"user: {prompt}", *(f"tool: {text}" for text in task.files.values())]
            lines += [f"assistant: {step.thought} {step.tool} {dict(step.arguments)}" for step in turn.steps]
            lines.append(f"assistant: {turn.answer}")
    return "\n".join(lines)


def corpus(size: int) -> str:
    """Words of the demo agents' tasks, in no order, of which parts begin alike by chance only: ASCII."""
    dice = random.Random(SEED)
    words = sorted({word for task in generate(count=200) for word in " ".join(task.prompts).split() if word.isascii()})
    words += [f"{dice.choice(words)}{number}" for number in range(20_000)]
    some = " ".join(dice.choices(words, k=200_000))
    return (some * (size // len(some) + 1))[:size]


def logs(size: int) -> str:
    """Text of long words out of some thousands, as dumps and logs are: it is quick to index. ASCII."""
    dice = random.Random(SEED)
    words = [dice.randbytes(24).hex() for _ in range(2000)]
    return " ".join(dice.choices(words, k=size // 49 + 1))[:size]

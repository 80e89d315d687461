"""Endless tasks from a seed: draws a family, builds, offers tools, keeps the splits apart. Knows no agent."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from aios.eval.workload.base import Task
from aios.eval.workload.families import BUILDERS, BUILTINS, Draft, Draw, Rejected
from aios.eval.workload.split import Phrasing, Split, numbers_fit

FAMILIES = tuple(BUILDERS)


def generate(
    split: Split = "test",
    phrasing: Phrasing = "seen",
    seed: int = 0,
    count: int | None = None,
    families: Sequence[str] | None = None,
) -> Iterator[Task]:
    """`count` tasks (endless without), the families in turn, the same for the same arguments."""
    rng = random.Random(f"{split}/{phrasing}/{seed}")
    names = list(families or FAMILIES)
    unknown = [name for name in names if name not in BUILDERS]
    if unknown:
        raise ValueError(f"unknown family {unknown[0]!r}; there are: {', '.join(FAMILIES)}")
    index = 0
    while count is None or index < count:
        family = names[index % len(names)]
        yield one_task(rng, family, split, phrasing, f"{split}-{phrasing}-{seed}-{index}")
        index += 1


def one_task(
    rng: random.Random, family: str, split: Split, phrasing: Phrasing, name: str, source: type[Draw] = Draw
) -> Task:
    """A task of the family; `source` may be a kind of `Draw` with wordings of its own."""
    while True:
        draw = source(rng, split, phrasing)
        try:
            draft = BUILDERS[family](draw)
        except Rejected:
            continue
        prompts = tuple(draw.dress(prompt) for prompt in draft.prompts)
        if all(numbers_fit(text, split) for text in (*prompts, *draft.files.values())):
            break
    return Task(
        id=name,
        family=family,
        prompts=prompts,
        files=draft.files,
        tools=_offer(rng, draft),
        expected=draft.expected,
        phrasing=draft.phrasing,
        is_seen_phrasing=phrasing == "seen",
        entities=tuple(draw.names),
        without=draft.rivals,
        turns=tuple(draft.turns),
    )


def _offer(rng: random.Random, draft: Draft) -> tuple[str, ...]:
    """The tools that are needed and one to three others, in any order."""
    needed = sorted({step.tool for turn in draft.turns for step in turn.steps})
    others = [name for name in BUILTINS if name not in needed and name not in draft.rivals]
    offered = needed + rng.sample(others, min(len(others), rng.randint(1, 3)))
    rng.shuffle(offered)
    return tuple(offered)

"""`aios bench retrieval`: whether a search of memory finds the passage that answers a question. Asserts nothing.

A corpus of the program's own making goes into the memory of an agent of a kernel, and every question is asked in each
mode, by calls. What was tuned was tuned on one half of the lexicon; this is the other. With a folder the vectors are
made by the model in it, as a core of kind "embed".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import msgspec

from aios.abi.calls import MemSearch, MemWrite
from aios.abi.memory import SearchMode
from aios.kernel import CoreSection, Kernel, Principal, parse
from aios.kernel.llm.sentences import SentenceCore
from aios.testing import ScriptedCore, booted, principal

from ..retrieval import Corpus, Question, corpus, scores

SEED = 12
TEST_HALF = 1
LOOKED_AT = 50
"""Entries of an answer; a passage that is not among them is not found."""
MODES: tuple[SearchMode, ...] = get_args(SearchMode)
GROUPS = {
    "all": ("same words", "other words"),
    "same words": ("same words",),
    "other words": ("other words",),
    "misspelt": ("misspelt",),
}


def main(as_json: bool, quick: bool, embed_folder: Path | None = None) -> dict[str, Any]:
    """Measure it; print it unless the caller wants it as it is."""
    figures = asyncio.run(measure(quick=quick, embed_folder=embed_folder))
    if not as_json:
        print(table(figures))
    return figures


async def measure(*, quick: bool = False, embed_folder: Path | None = None) -> dict[str, Any]:
    made = corpus(SEED, half=TEST_HALF, num_passages=300 if quick else 2000, num_questions=60 if quick else 500)
    figures: dict[str, Any] = {
        "passages": len(made.passages),
        "questions": len(made.questions),
        "misspelt": len(made.misspelt),
        "lexical": await _judged(made, None),
    }
    if embed_folder is not None:
        figures["model"] = embed_folder.name
        figures["embedded"] = await _judged(made, embed_folder)
    return figures


async def _judged(made: Corpus, folder: Path | None) -> dict[str, Any]:
    async with _running(folder) as kernel:
        who = principal(kernel, "reader")
        await kernel.access.settled()
        ids = [(await kernel.call(who, "mem_write", MemWrite(content=text))).id for text in made.passages]
        begun = time.perf_counter()
        await kernel.search.idle()
        seen = kernel.search.statistics()
        found: dict[str, Any] = {"model": seen["model"], "seconds_to_embed": round(time.perf_counter() - begun, 2)}
        asked = [*made.questions, *made.misspelt]
        for mode in MODES:
            ranks = [(each.kind, await _rank(kernel, who, each, ids, mode)) for each in asked]
            found[mode] = {name: _rounded(ranks, kinds) for name, kinds in GROUPS.items()}
        return found


@asynccontextmanager
async def _running(folder: Path | None) -> Any:
    cores: list[Any] = [ScriptedCore()]
    if folder is None:
        async with booted(cores=cores) as kernel:
            yield kernel
        return
    cores.append(SentenceCore(CoreSection(name="sentences", kind="embed", path=str(folder))))
    path = msgspec.json.encode(str(folder)).decode()
    config = f'[search]\nembed_with = "sentences"\n[[core]]\nname = "sentences"\nkind = "embed"\npath = {path}'
    async with booted(cores=cores, config=parse(config)) as kernel:
        yield kernel


async def _rank(kernel: Kernel, who: Principal, question: Question, ids: Sequence[str], mode: SearchMode) -> int | None:
    answer = await kernel.call(who, "mem_search", MemSearch(query=question.text, k=LOOKED_AT, mode=mode))
    found = [entry.id for entry in answer.entries]
    wanted = ids[question.passage]
    return found.index(wanted) + 1 if wanted in found else None


def _rounded(ranks: Sequence[tuple[str, int | None]], kinds: Sequence[str]) -> dict[str, float]:
    judged = scores([rank for kind, rank in ranks if kind in kinds])
    return {name: round(value, 4) for name, value in asdict(judged).items()}


def table(figures: dict[str, Any]) -> str:
    lines = [f"{figures['passages']} passages, {figures['questions']} questions; recall@5 and mean reciprocal rank"]
    for key in ("lexical", "embedded"):
        if key in figures:
            lines.append(f"{figures[key]['model']:<14}" + "".join(f"{name:>18}" for name in GROUPS))
            for mode in MODES:
                cells = [figures[key][mode][name] for name in GROUPS]
                lines.append(f"  {mode:<12}" + "".join(f"{c['recall_5']:>11.3f}{c['mrr']:>7.3f}" for c in cells))
    return "\n".join(lines)

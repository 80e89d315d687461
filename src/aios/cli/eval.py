"""Measure how well models and agents do their tasks. What costs how much is for 'aios bench'."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aios.abi.errors import BadRequest
from aios.eval.exact import Found, prove
from aios.eval.isolation import prove as prove_isolation
from aios.eval.nano import Column, Setting, evaluate
from aios.eval.runner import Run

from .console import cut, note, print_json, table, width
from .exits import FAILED
from .options import one_of
from .up import run_loop

_PHRASINGS: dict[str, tuple[Literal["seen", "unseen"], ...]] = {
    "seen": ("seen",),
    "unseen": ("unseen",),
    "both": ("seen", "unseen"),
}
_CONSTRAINED = {"yes": (True,), "no": (False,), "both": (True, False)}


def nano(
    tasks: Annotated[int, typer.Option(min=1, help="Held-out tasks in each setting.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Draws other tasks.")] = 0,
    phrasing: Annotated[str, typer.Option(help="Wordings that training saw or not: seen, unseen or both.")] = "both",
    constrained: Annotated[str, typer.Option(help="Tool calls held to a grammar: yes, no or both.")] = "both",
    wrong: Annotated[
        Path | None, typer.Option(help="Write what went wrong to this file, one JSON object a line.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Figures as JSON; progress goes to stderr.")] = False,
) -> None:
    """Run held-out tasks with the packaged model through the ReAct agent and the real tools, and say how many answers
    were right, by family. No name and no number of three digits or more in them was seen in training.

    \b
    Examples:
      aios eval nano
      aios eval nano --tasks 200 --phrasing unseen --constrained yes --json
    """
    settings = [
        Setting(each, is_constrained)
        for each in _PHRASINGS[one_of("phrasing", phrasing, _PHRASINGS)]
        for is_constrained in _CONSTRAINED[one_of("value of --constrained", constrained, _CONSTRAINED)]
    ]
    if wrong is not None:
        _write_wrong(wrong, [])  # a file that cannot be written is told before the work, not after it
    columns = [_measure(setting, tasks, seed) for setting in settings]
    if wrong is not None:
        _write_wrong(wrong, columns)
    if as_json:
        print_json({"model": "nano", "tasks": tasks, "seed": seed, "settings": [c.to_dict() for c in columns]})
    else:
        print(_report(columns))


def _measure(setting: Setting, tasks: int, seed: int) -> Column:
    done, right = 0, 0
    is_terminal = sys.stderr.isatty()

    def tell(run: Run) -> None:
        nonlocal done, right
        done, right = done + 1, right + run.is_right
        if is_terminal:
            sys.stderr.write(f"\r{setting.name}: {done}/{tasks}, {right / done:.1%} right ")
        elif done % 100 == 0:
            note(f"{setting.name}: {done}/{tasks}, {right / done:.1%} right")

    column = asyncio.run(evaluate(setting, tasks=tasks, seed=seed, on_end=tell))
    if is_terminal:
        note("")
    return column


def _report(columns: list[Column]) -> str:
    families = list(dict.fromkeys(name for column in columns for name in column.families))
    rows: list[list[object]] = [
        [family, *(_percent(column.families.get(family)) for column in columns)] for family in families
    ]
    rows.append(["all", *(_percent(column.overall) for column in columns)])
    return table(["FAMILY", *(f">{column.setting.name.upper()}" for column in columns)], rows, columns=width())


def _percent(share: Any) -> str:
    return "-" if share is None else f"{share.value:.1%} of {share.total}"


def _write_wrong(path: Path, columns: list[Column]) -> None:
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise BadRequest(f"{path} cannot be written: {error.strerror}", code="not_writable", param="wrong") from None
    with file:
        for column in columns:
            for run in column.wrong:
                row = {
                    "setting": column.setting.name,
                    "id": run.task.id,
                    "family": run.task.family,
                    "prompts": run.task.prompts,
                    "tools": run.tools,
                    "answers": run.answers,
                    "error": run.error,
                }
                file.write(json.dumps(row, default=list) + "\n")


BACKENDS = ("numpy", "torch")


def exact(
    count: Annotated[int, typer.Option(min=1, help="Generations to compare.")] = 2000,
    backend: Annotated[str, typer.Option(help="What computes: numpy or torch.")] = "numpy",
    seed: Annotated[int, typer.Option(min=0, help="Draws other generations.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Figures as JSON; progress goes to stderr.")] = False,
) -> None:
    """Prove that an own core says the same whatever else runs: greedy, sampled, beam and grammar-bound generations of
    the packaged model and of small random ones, interrupted every few tokens, with and without the prefix cache, moved
    out of the pool, stopped and killed with their kernel, each compared byte for byte with what it says alone.

    \b
    Examples:
      aios eval exact --count 200
      aios eval exact --backend torch --json
    """
    one_of("backend", backend, BACKENDS)
    told = logging.getLogger("aios.context")
    level = told.level
    told.setLevel(logging.ERROR)  # some kernels get too little disk, and are meant to
    with tempfile.TemporaryDirectory(prefix="aios-exact-") as folder:
        work = prove(count, Path(folder), seed=seed, backend=backend, on_round=lambda found: _tell_exact(found, count))
        try:
            found: Found = run_loop(work)
        finally:
            told.setLevel(level)
    if sys.stderr.isatty():
        note("")
    if as_json:
        print_json(found.to_dict())
    else:
        print(_exact_report(found))
    if not found.is_proven:
        raise typer.Exit(FAILED)


def _tell_exact(found: Found, count: int) -> None:
    line = f"{found.count}/{count} compared, {found.equal} equal, {found.wall_s:.0f} s"
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{line} ")
    elif found.count % 100 == 0:
        note(line)


def _exact_report(found: Found) -> str:
    counts = [("by way", found.by_way), ("by kernel", found.by_fate), ("by model", found.by_model)]
    lines = [f"{found.equal} of {found.count} equal to their solo runs, byte for byte ({found.backend})"]
    lines += [f"  {name:<10} {_counts(each)}" for name, each in counts]
    lines.append(f"  {'meanwhile':<10} {_counts(found.covered)}")
    for each in found.different:
        lines += [f"DIFFERENT: round {each.round}, {each.model}, {each.fate}, {each.way}"]
        lines += [cut(f"  alone  {each.alone}", 400), cut(f"  amid   {each.amid}", 400)]
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return " · ".join(f"{name} {number}" for name, number in counts.items())


def isolation(
    count: Annotated[int, typer.Option(min=1, help="Operations of both agents together.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Draws other operations.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Figures as JSON; progress goes to stderr.")] = False,
) -> None:
    """Prove that agents see their own: two of them do random things with memory and files, also what a group lets them
    share, ask for each other's ids, and are shown nothing of the other's own, in results, errors, searches, lists or
    behind links.

    \b
    Examples:
      aios eval isolation --count 10000
      aios eval isolation --json
    """
    with tempfile.TemporaryDirectory(prefix="aios-isolation-") as folder:
        work = prove_isolation(count, Path(folder), seed=seed, on_step=lambda found: _tell_step(found.count, count))
        found = run_loop(work)
    if sys.stderr.isatty():
        note("")
    if as_json:
        print_json(found.to_dict())
    else:
        print(f"{found.count} operations, {found.refused} refused, {found.foreign_asks} for what is the other's")
        print(f"  {_counts(found.by_call)}")
        print(f"  {found.passages} passages found, {found.followed} links followed")
        faults = [*(f"LEAK: {each}" for each in found.leaks), *(f"BROKEN: {each}" for each in found.broken)]
        print("\n".join(cut(each, 400) for each in faults) or "nobody saw what is the other's own")
    if not found.is_proven:
        raise typer.Exit(FAILED)


def _tell_step(done: int, count: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done}/{count} ")
    elif done % 10_000 == 0:
        note(f"{done}/{count}")


commands = {"nano": nano, "exact": exact, "isolation": isolation}

"""Measure how well models and agents do their tasks. What costs how much is for 'aios bench'."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aios.abi.errors import BadRequest
from aios.eval.nano import Column, Setting, evaluate
from aios.eval.runner import Run

from .console import note, print_json, table, width
from .options import one_of

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


commands = {"nano": nano}

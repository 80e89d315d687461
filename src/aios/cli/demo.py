"""`aios demo`: two dozen agents share one small model under a kernel made for the occasion; or another scene."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aios.eval.report import Waits, share
from aios.eval.runner import Run, Runner
from aios.eval.workload import generate
from aios.kernel import Config, CoreSection, Kernel, RouterSection, Scheduler

from .console import counted, span, table, width
from .demo_view import Lines, Live, View, one_line
from .exits import FAILED
from .options import POLICIES, one_of
from .up import run_loop

SCENES = ("agents", "context")
SLOTS = 8


def command(
    scene: Annotated[str, typer.Argument(metavar="SCENE", help="agents (unless said) or context.")] = "agents",
    agents: Annotated[int, typer.Option(min=1, max=1000, help="How many agents, all at once.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Draws other tasks.")] = 0,
    policy: Annotated[str, typer.Option(help="Who goes next: rr or fifo.")] = "rr",
    quantum: Annotated[int, typer.Option(min=1, max=100_000, help="Tokens a turn under rr.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Figures as one JSON object in the last line.")] = False,
) -> None:
    """Boot a kernel in a temporary home and let two dozen ReAct agents loose on it at once: they share one model of a
    few million parameters, call tools, wait their turns, are interrupted and resumed. Their tasks hold names and
    numbers that the model never saw in training. Nothing is left behind.

    'aios demo context' shows a beam search that is interrupted in its middle, saved with its keys and values or as text
    alone, and gone on with: the tree of what was tried, and that nothing changed. It takes --json only.

    \b
    Examples:
      aios demo
      aios demo --agents 48 --quantum 4 --seed 7
      aios demo context
    """
    if one_of("scene", scene, SCENES) == "context":
        from .demo_context import play

        if not play(as_json=as_json):
            raise typer.Exit(FAILED)
        return
    one_of("policy", policy, POLICIES)
    with tempfile.TemporaryDirectory(prefix="aios-demo-") as home:
        runs, figures = run_loop(_play(Path(home), agents, seed, policy, quantum, as_json))
    _sum_up(runs, figures)
    if as_json:
        print(json.dumps(figures))
    if not figures["succeeded"]:
        raise typer.Exit(FAILED)


def settings(policy: str, quantum: int, slots: int = SLOTS) -> Config:
    """One packaged model and nothing else."""
    kind: Literal["fifo", "rr"] = "fifo" if policy == "fifo" else "rr"
    return Config(
        scheduler=Scheduler(policy=kind, quantum=quantum),
        router=RouterSection(default="nano"),
        core=[CoreSection(name="nano", kind="nano", slots=slots)],
    )


async def _play(
    home: Path, agents: int, seed: int, policy: str, quantum: int, as_json: bool
) -> tuple[list[Run], dict[str, Any]]:
    kernel = await Kernel.boot(settings(policy, quantum), home)
    try:
        waits = Waits()
        kernel.trace.listen(waits)
        view: View = Live(kernel, agents) if width() is not None and not as_json else Lines(kernel)
        runner = Runner(kernel, concurrency=agents, on_start=view.started, on_end=view.ended)
        begun = time.perf_counter()
        with view:
            runs = await runner.run_all(generate("test", "seen", seed, agents))
        return runs, _figures(kernel, runs, waits, time.perf_counter() - begun, policy, quantum, seed)
    finally:
        await kernel.stop(0.0)


def _figures(
    kernel: Kernel, runs: list[Run], waits: Waits, seconds: float, policy: str, quantum: int, seed: int
) -> dict[str, Any]:
    pids = {run.pid for run in runs}
    processes = [p for p in kernel.processes.list(ended=True) if p.pid in pids]
    tokens = sum(p.tokens_out for p in processes)
    return {
        "agents": len(runs),
        "succeeded": share(runs).right,
        "calls": sum(p.num_calls for p in processes),
        "tokens": tokens,
        "prompt_tokens": sum(p.tokens_in for p in processes),
        "context_switches": sum(p.num_switches for p in processes),
        "wall_s": round(seconds, 3),
        "tokens_per_s": round(tokens / seconds, 1),
        "mean_wait_s": round(waits.mean, 4),
        "p90_wait_s": round(waits.quantile(0.9), 4),
        "policy": policy,
        "quantum": quantum,
        "slots": SLOTS,
        "seed": seed,
    }


def _sum_up(runs: list[Run], figures: dict[str, Any]) -> None:
    columns = width()
    half = (columns or 140) // 2 - 8
    rows = [
        (
            run.agent,
            "right" if run.is_right else "WRONG",
            one_line(run.task.prompts[-1], half),
            one_line(_said(run), half),
        )
        for run in runs
    ]
    print(table(("AGENT", "IS", "TASK", "ANSWER"), rows, columns=columns))
    print()
    right = f"{figures['succeeded']} of {counted(figures['agents'], 'agent')} right"
    calls, tokens = counted(figures["calls"], "call"), counted(figures["tokens"], "token")
    print(f"{right} · {calls} · {tokens} in {span(figures['wall_s'])} ({figures['tokens_per_s']:.0f}/s)")
    print(
        f"{counted(figures['context_switches'], 'context switch', 'context switches')} · a generation waited "
        f"{span(figures['mean_wait_s'])} in the mean, {span(figures['p90_wait_s'])} at p90"
    )
    print("The model is a tiny one, made for demonstration.")


def _said(run: Run) -> str:
    return f"({run.error})" if run.error else run.answers[-1] if run.answers else ""

"""How well the packaged model does its tasks: held-out tasks, the ReAct agent, the real tools. Knows a kernel's door.

Each setting (seen or unseen phrasings, tool calls constrained by a grammar or not) runs the same tasks on a kernel of
its own, so that no setting reads what another one left behind.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aios.kernel import Config, CoreSection, Kernel, RouterSection, Scheduler

from .report import Share, by_family, share
from .runner import Run, Runner
from .workload import FAMILIES, Phrasing, generate

SLOTS = 32


@dataclass(frozen=True, slots=True)
class Setting:
    """One column of the report."""

    phrasing: Phrasing
    is_constrained: bool

    @property
    def name(self) -> str:
        return f"{self.phrasing}, {'constrained' if self.is_constrained else 'free'}"


@dataclass(frozen=True, slots=True)
class Column:
    """What came of a setting. `wrong` holds the runs that were not right."""

    setting: Setting
    overall: Share
    families: dict[str, Share]
    seconds: float
    tokens: int
    wrong: list[Run]

    def to_dict(self) -> dict[str, Any]:
        return {
            "phrasing": self.setting.phrasing,
            "constrained": self.setting.is_constrained,
            "overall": self.overall.to_dict(),
            "families": {name: each.to_dict() for name, each in self.families.items()},
            "seconds": round(self.seconds, 1),
            "tokens": self.tokens,
        }


async def evaluate(
    setting: Setting, *, tasks: int, seed: int, concurrency: int = SLOTS, on_end: Callable[[Run], None] | None = None
) -> Column:
    """Run `tasks` held-out tasks, drawn by `seed`, the families in turn."""
    config = Config(
        scheduler=Scheduler(policy="fifo"),
        router=RouterSection(default="nano"),
        core=[CoreSection(name="nano", kind="nano", slots=SLOTS)],
    )
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="aios-eval-") as home:
        kernel = await Kernel.boot(config, Path(home))
        try:
            runner = Runner(kernel, concurrency=concurrency, is_constrained=setting.is_constrained, on_end=on_end)
            runs = await runner.run_all(generate("test", setting.phrasing, seed, tasks))
        finally:
            await kernel.stop(0.0)
    families = {name: each for name, each in by_family(runs).items() if name in FAMILIES}
    tokens = sum(run.tokens for run in runs)
    wrong = [run for run in runs if not run.is_right]
    return Column(setting, share(runs), families, time.perf_counter() - begun, tokens, wrong)

"""The demonstration and the evaluation on the packaged model, small."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import CLEAN, aios

PROMISED = {
    "agents", "succeeded", "calls", "tokens", "context_switches", "wall_s", "tokens_per_s", "mean_wait_s", "p90_wait_s",
}  # fmt: skip


def test_the_demo_ends_with_a_table_and_its_figures_in_the_last_line(tmp_path: Path) -> None:
    env = {**CLEAN, "AIOS_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = aios("demo", "--agents", "9", "--seed", "5", "--quantum", "2", "--json", env=env)
    *lines, last = done.stdout.splitlines()
    figures = json.loads(last)
    assert set(figures) >= PROMISED
    assert figures["agents"] == 9
    assert figures["context_switches"] > 0
    assert sum(line.startswith("react-") for line in lines) == 9
    assert not list(tmp_path.iterdir())


def test_the_evaluation_reports_every_setting_by_family() -> None:
    done = aios("eval", "nano", "--tasks", "4", "--phrasing", "seen", "--json", env=CLEAN)
    settings = json.loads(done.stdout)["settings"]
    assert [(s["phrasing"], s["constrained"]) for s in settings] == [("seen", True), ("seen", False)]
    assert all(s["overall"]["total"] == 4 for s in settings)


def test_wrong_options_are_refused() -> None:
    assert aios("demo", "--policy", "lottery", env=CLEAN).returncode == 2
    assert "one of seen, unseen, both" in aios("eval", "nano", "--phrasing", "odd", env=CLEAN).stderr
    assert "did you mean 'nano'?" in aios("bench", "nan", env=CLEAN).stderr

"""The demonstration and the evaluation on the packaged model, small."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import subprocess
from pathlib import Path

from rich.console import Console
from tests.cli.command import CLEAN, aios

from aios.abi.calls import ProcSpawn
from aios.cli.demo_view import Live
from aios.eval.runner import Run
from aios.eval.workload import generate
from aios.testing import ScriptedCore, booted

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
    assert sum("tiny" in line and "demonstration" in line for line in lines) == 1
    assert not list(tmp_path.iterdir())


def test_the_live_view_shows_no_tokens_before_it_knows_of_any_and_says_what_it_has_no_room_for() -> None:
    async def go() -> list[str]:
        core = ScriptedCore("one two three", slots=1)
        core.gate.clear()
        async with booted(cores=[core]) as kernel:
            screen = Console(width=80, height=10, file=io.StringIO())
            live = Live(kernel, 5, screen)
            _, key = kernel.access.mint(owner="o", agent="a", is_admin=True)
            admin = kernel.authenticate(key)
            for number in range(5):
                spawned = await kernel.call(admin, "proc_spawn", ProcSpawn(agent=f"react-0{number}"))
                live.started(Run(next(iter(generate("test", "seen", 0, 1))), f"react-0{number}", pid=spawned.pid))
            with screen.capture() as captured:
                screen.print(live.frame())
            return captured.get().splitlines()

    lines = asyncio.run(go())
    assert lines[-1].strip() == "… and 1 more, idle"
    rows = [line for line in lines if "react-" in line]
    assert [row.split()[-2:] for row in rows] == [["0", "0ms"]] * 4  # switches, waited; before them stands the task
    assert all(row.split()[-3] != "0" for row in rows)


def test_help_of_the_demo_script_installs_nothing(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(Path(__file__).parent.parent.parent / "scripts" / "demo", tmp_path / "scripts" / "demo")
    (tmp_path / "scripts" / "setup").write_text("#!/bin/sh\ntouch installed\nexit 1\n")
    (tmp_path / "scripts" / "setup").chmod(0o755)
    for option in ("--help", "-h"):
        done = subprocess.run([tmp_path / "scripts" / "demo", option], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Usage: scripts/demo [OPTIONS]")
    assert not (tmp_path / "installed").exists()


def test_the_evaluation_reports_every_setting_by_family() -> None:
    done = aios("eval", "nano", "--tasks", "4", "--phrasing", "seen", "--json", env=CLEAN)
    settings = json.loads(done.stdout)["settings"]
    assert [(s["phrasing"], s["constrained"]) for s in settings] == [("seen", True), ("seen", False)]
    assert all(s["overall"]["total"] == 4 for s in settings)


def test_the_proof_of_exactness_tells_its_figures() -> None:
    done = aios("eval", "exact", "--count", "4", "--json", env=CLEAN)
    figures = json.loads(done.stdout)
    assert (figures["count"], figures["equal"], figures["is_proven"]) == (4, 4, True)
    assert "there are numpy and torch" in aios("eval", "exact", "--backend", "abacus", env=CLEAN).stderr


def test_wrong_options_are_refused() -> None:
    assert aios("demo", "--policy", "lottery", env=CLEAN).returncode == 2
    assert "there are seen, unseen and both" in aios("eval", "nano", "--phrasing", "odd", env=CLEAN).stderr
    assert "did you mean 'nano'?" in aios("bench", "nan", env=CLEAN).stderr

"""Promise 2 for memory and files, under kills and a failing disk: the short forms of two commands in scripts/."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"


def outcome(place: Path, script: str, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPTS / script), "--json", *options]
    environment = {**os.environ, "TMPDIR": str(place)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert figures["faults"] == 0, figures["first_faults"]
    return figures


@pytest.mark.parametrize(
    "mode",
    [("--mode", "fast"), ("--mode", "durable"), ("--mode", "durable", "--power")],
    ids=["fast", "durable", "power"],
)
def test_killed_while_agents_write_a_kernel_loses_nothing_that_it_acknowledged(
    tmp_path: Path, mode: tuple[str, ...]
) -> None:
    figures = outcome(tmp_path, "kill_writes.py", "--kills", "5", *mode)
    assert figures["counts"]["kills under load"] > 0
    assert figures["counts"]["calls without an answer"] > 0


@pytest.mark.parametrize("mode", ["fast", "durable"])
def test_on_a_disk_that_fails_each_call_is_done_or_refused_and_nothing_is_in_between(tmp_path: Path, mode: str) -> None:
    figures = outcome(tmp_path, "fail_writes.py", "--count", "12", "--mode", mode)
    assert sum(figures["runs_with_a_failure"].values()) >= 9
    assert sum(figures["errors"].values()) > 0

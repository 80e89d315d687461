"""A served kernel, killed with -9 under mixed load: the short form of scripts/kill_loop.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "kill_loop.py"


def test_killed_under_load_a_kernel_loses_no_call_and_answers_none_twice_differently() -> None:
    command = [sys.executable, str(SCRIPT), "--core", "scripted", "--kills", "2", "--clients", "4"]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    counts = json.loads(outcome.stdout.splitlines()[-1])
    assert counts["faults"] == 0
    assert counts["answered_with_key"] == counts["calls_with_key"] > 0

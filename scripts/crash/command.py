"""`aios fs check` on a home, as its owner would run it: a command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def fs_check(home: Path) -> list[str]:
    """What it says is wrong, a line each."""
    command = [sys.executable, "-m", "aios.cli.main", "fs", "check", "--json"]
    environment = {**os.environ, "AIOS_HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        return [f"aios fs check ended with {done.returncode}: {done.stderr[-300:]}"]
    return [f"{each['where']}: {each['what']}" for each in json.loads(done.stdout)["faults"]]

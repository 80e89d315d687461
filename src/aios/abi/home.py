"""Where the home is: the kernel keeps there what must outlive it, and a client finds its kernel there."""

from __future__ import annotations

import os
from pathlib import Path


def home_path() -> Path:
    """`$AIOS_HOME`, else `~/.aios`."""
    return Path(os.environ.get("AIOS_HOME") or Path.home() / ".aios").expanduser()

"""The kernel that a verb speaks to: its client, and where its home says it runs. Knows no verb."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from aios.sdk import AsyncClient, Client
from aios.sdk.client import home_path

__all__ = ["async_client", "client", "forget_state", "home_path", "is_running", "read_state", "write_state"]

# A person waits at the terminal: what fails is said at once instead of tried again.
RETRIES = 0


def client() -> Client:
    """A client for the kernel of this environment."""
    return Client(retries=RETRIES)


def async_client(key: str | None = None) -> AsyncClient:
    return AsyncClient(key=key, retries=RETRIES)


# ── what a running kernel says in its home ──


def state_file(home: Path) -> Path:
    return home / "kernel.json"


def write_state(home: Path, url: str) -> None:
    """Say where this process serves, whole or not at all."""
    path = state_file(home)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"pid": os.getpid(), "url": url}))
    part.replace(path)


def read_state(home: Path) -> dict[str, Any] | None:
    """What the last kernel of `home` said: pid and url. Whether it still runs, `is_running` knows."""
    try:
        state = json.loads(state_file(home).read_text())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) and isinstance(state.get("pid"), int) else None


def forget_state(home: Path) -> None:
    state = read_state(home)
    if state is not None and state["pid"] == os.getpid():
        state_file(home).unlink(missing_ok=True)


def is_running(home: Path) -> bool:
    """Whether a kernel holds the lock of `home`. True also while it boots or drains."""
    try:
        descriptor = os.open(home / "kernel.lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False

"""The kernel that a verb speaks to: its client, and where its home says it runs. Knows no verb."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aios.sdk import AsyncClient, Client
from aios.sdk.client import home_path

if TYPE_CHECKING:
    from aios.kernel import Config

__all__ = [
    "async_client",
    "client",
    "forget_state",
    "home_path",
    "is_running",
    "key_names",
    "read_state",
    "write_state",
]

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


def write_state(home: Path, url: str, key_names: Sequence[str] = ()) -> None:
    """Say where this process serves, whole or not at all; and in which variables its configuration has keys of cores,
    so that `aios run` takes them from programs."""
    path = state_file(home)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"pid": os.getpid(), "url": url, "key_names": list(key_names)}))
    part.replace(path)


def read_state(home: Path) -> dict[str, Any] | None:
    """What the last kernel of `home` said: pid, url and key_names. Whether it still runs, `is_running` knows."""
    try:
        state = json.loads(state_file(home).read_text())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) and isinstance(state.get("pid"), int) else None


def key_names(settings: Config) -> list[str]:
    """The variables in which keys of cores are, as far as `settings` says."""
    return [core.api_key_env for core in settings.core if core.api_key_env]


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

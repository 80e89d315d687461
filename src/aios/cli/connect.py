"""The kernel that a verb speaks to: its client, and where its home says it runs. Knows no verb."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aios.abi.errors import BadRequest
from aios.sdk import AsyncClient, Client
from aios.sdk.client import home_path

if TYPE_CHECKING:
    from aios.kernel import Config

__all__ = [
    "async_client",
    "checked_home",
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
    _check_needed_home()
    return Client(retries=RETRIES)


def async_client(key: str | None = None) -> AsyncClient:
    _check_needed_home()
    return AsyncClient(key=key, retries=RETRIES)


def checked_home() -> Path:
    """The home, which is a folder or not made yet. Raises BadRequest."""
    home = home_path()
    for place in (home, *home.parents):
        if place.exists() and not place.is_dir():
            what = "it" if place == home else f"{place}, on the way to it,"
            raise BadRequest(
                f"{home} cannot be the home: {what} is a file, not a folder; "
                f"move that away, or set AIOS_HOME to {'a folder' if os.environ.get('AIOS_HOME') else 'another place'}",
                code="home_unusable",
            )
    return home


def _check_needed_home() -> None:
    if not (os.environ.get("AIOS_URL") and os.environ.get("AIOS_KEY")):
        checked_home()


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


def missing_keys(settings: Config) -> list[str]:
    """A sentence for each core whose key is not to be had: its server will refuse what is sent without."""
    return [
        f"core '{core.name}' takes its key from {core.api_key_env}, which is not set, so its server may refuse calls; "
        f"set {core.api_key_env} and start the kernel again, or remove api_key_env if the server wants no key"
        for core in settings.core
        if core.api_key_env and not os.environ.get(core.api_key_env)
    ]


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

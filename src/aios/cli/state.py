"""What a running kernel says in its home: its process, its address, its configuration. Knows no client and no verb."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aios.sdk.client import home_path

if TYPE_CHECKING:
    from aios.kernel import Config


def state_file(home: Path) -> Path:
    return home / "kernel.json"


def write_state(home: Path, url: str, key_names: Sequence[str] = (), config: Path | None = None) -> None:
    """Say where this process serves, whole or not at all; with which file of configuration, if not the home's own; and
    in which variables that has keys of cores, so that `aios run` takes them from programs."""
    said = {"pid": os.getpid(), "url": url, "key_names": list(key_names), "config": config and str(config.resolve())}
    _put(home, said)


def _put(home: Path, said: dict[str, Any]) -> None:
    path = state_file(home)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(said))
    part.replace(path)


def add_key_name(home: Path, name: str) -> None:
    """A core that came later has its key in the variable `name`."""
    state = read_state(home)
    if state is not None and name not in state.get("key_names", ()):
        state["key_names"] = [*state.get("key_names", ()), name]
        _put(home, state)


def read_state(home: Path) -> dict[str, Any] | None:
    """What the last kernel of `home` said: pid, url, key_names, config. Whether it still runs, `is_running` knows."""
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
    """Whether a kernel of another process holds the lock of `home`. True also while it boots or drains."""
    try:
        descriptor = os.open(home / "kernel.lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # nothing can be locked here, so nothing is
        return False
    finally:
        os.close(descriptor)
    return False


def config_in_use(given: Path | None) -> Path | None:
    """The file of configuration that a verb is to look at: `given`, else what this home's running kernel was started
    with. None for the home's own."""
    home = home_path()
    if given is None and is_running(home):
        named = (read_state(home) or {}).get("config")
        return Path(named) if isinstance(named, str) else None
    return given


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

"""The kernel that a verb speaks to: its clients, and a clear word where there is none. Knows no verb."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from aios.abi.errors import BadRequest
from aios.sdk import AsyncClient, Client, NoKernel
from aios.sdk.client import default_url, home_path

from .neighbours import who_serves
from .state import is_running, read_state

# A person waits at the terminal: what fails is said at once instead of tried again.
RETRIES = 0


def client() -> Client:
    """A client for the kernel of this environment. Raises NoKernel when it is to be this home's, and none runs."""
    _check_home()
    return Client(retries=RETRIES)


def async_client(key: str | None = None) -> AsyncClient:
    """The same for those who await, with another key than the environment's if `key` is given."""
    _check_home(key)
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


def _check_home(key: str | None = None) -> None:
    """Where the home is to name the kernel or its key, there must be a home; where both, its kernel must run: the usual
    port may be another kernel's, which is not to be sent this home's key."""
    is_named, has_key = os.environ.get("AIOS_URL"), key or os.environ.get("AIOS_KEY")
    if is_named and has_key:
        return
    home = checked_home()
    if not is_named and not has_key:
        if not is_running(home):
            raise none_runs(home)
        if read_state(home) is None:
            raise NoKernel(f"the kernel of {home} is starting or stopping; try again in a moment")


def none_runs(home: Path) -> NoKernel:
    """Says that, and whose kernel it is that serves the address where this home's would be."""
    host, port = _address()
    neighbour = who_serves(host, port)
    if neighbour is None:
        return NoKernel(f"no kernel runs on {home}; start one with 'aios up', or name one by AIOS_URL and AIOS_KEY")
    return NoKernel(
        f"no kernel runs on {home}: what serves {host}:{port} is {neighbour.who}; start one for this home with "
        f"'aios up --port 0', or use that one with {neighbour.setting}"
    )


def _address() -> tuple[str, int]:
    """Where a kernel of this home would serve."""
    from aios.kernel import ConfigError, load

    try:
        server = load().server
    except ConfigError:
        parts = urlsplit(default_url())
        return parts.hostname or "", parts.port or 0
    return server.host, server.port

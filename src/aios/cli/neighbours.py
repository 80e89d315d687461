"""Whose kernel serves a port. Each kernel leaves a link to its home where this user's other commands look.

A link is a hint, no more: it is believed when the home that it leads to says the same. Knows no verb.
"""

from __future__ import annotations

import http.client
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from aios.abi.errors import Conflict

from .state import is_running, read_state

ASK_SECONDS = 2.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Neighbour(NamedTuple):
    """Who serves, in words, and which variables lead a command to it."""

    who: str
    setting: str


def announce(home: Path) -> None:
    """Leave a link to the home of this process's kernel. Where that cannot be, others are told of no home."""
    with suppress(OSError):
        folder = _folder()
        folder.mkdir(mode=0o700, exist_ok=True)
        if _is_ours(folder):
            _sweep(folder)
            (folder / str(os.getpid())).unlink(missing_ok=True)
            (folder / str(os.getpid())).symlink_to(home.resolve())


def withdraw() -> None:
    link = _folder() / str(os.getpid())
    with suppress(OSError):
        if link.is_symlink():  # the folder may be somebody's link to where our own files are
            link.unlink(missing_ok=True)


def who_serves(host: str, port: int) -> Neighbour | None:
    """None when nothing answers there, or something that is no kernel."""
    for home, state in _known():
        if urlsplit(str(state.get("url"))).port == port:
            return Neighbour(f"the kernel of {home} (process {state['pid']})", f"AIOS_HOME={home}")
    host = _EVERYWHERE.get(host, host)
    if not _is_kernel(host, port):
        return None
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    setting = f"AIOS_URL={url} and a key of it in AIOS_KEY"
    return Neighbour("another home's kernel, which does not say whose", setting)


def bound(host: str, port: int) -> socket.socket:
    """A listening address. Raises Conflict that says whose kernel has it, if that can be told."""
    from aios.gateway import bind  # slow to load, and most verbs bind nothing

    try:
        return bind(host, port)
    except Conflict as error:
        neighbour = who_serves(host, port) if error.code == "port_taken" else None
        if neighbour is None:
            raise
        raise Conflict(
            f"port {port} on {host} is taken by {neighbour.who}; start this one on another with --port (0 takes any "
            f"free one) or [server] port, or use that one with {neighbour.setting}",
            code="port_taken",
        ) from None


def _known() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Homes whose kernels run, with what they say. What kernels left behind that were killed is removed."""
    folder = _folder()
    if not _is_ours(folder):
        return
    for link in sorted(folder.iterdir()):
        with suppress(OSError):
            home = link.readlink()
            state = read_state(home)
            if not is_running(home):
                link.unlink(missing_ok=True)
            elif state is not None and str(state["pid"]) == link.name:
                yield home, state


def _sweep(folder: Path) -> None:
    """Remove what killed kernels left behind. Goes by processes: who holds a home's lock and asks for it loses it."""
    for link in folder.iterdir():
        if link.is_symlink() and link.name.isdecimal():
            try:
                os.kill(int(link.name), 0)
            except ProcessLookupError:
                link.unlink(missing_ok=True)
            except (PermissionError, OverflowError):
                continue


def _folder() -> Path:
    own = os.environ.get("XDG_RUNTIME_DIR")
    return Path(own) / "aios" if own else Path(tempfile.gettempdir()) / f"aios-{os.getuid()}"


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can have put there what is in it: the folder of temporary files is everybody's."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _is_kernel(host: str, port: int) -> bool:
    """Whether a kernel answers: to a call without a key it alone says whose fault that is."""
    asking = http.client.HTTPConnection(host, port, timeout=ASK_SECONDS)
    try:
        asking.request("GET", "/aios/v1/cores")
        told = msgspec.json.decode(asking.getresponse().read(65_536))
        return bool(told["error"]["fault"])
    except (OSError, http.client.HTTPException, msgspec.DecodeError, LookupError, TypeError):
        return False
    finally:
        asking.close()

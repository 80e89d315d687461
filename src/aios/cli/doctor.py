"""`aios doctor`: is this machine fit for a kernel, and what is wrong if not."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from aios import __version__
from aios.abi.errors import AiosError
from aios.kernel import Config, ConfigError, load
from aios.sdk import Client
from aios.sdk.client import default_key, default_url

from . import confine, connect
from .console import print_json, table, width
from .exits import FAILED

LEAST_DISK = 1 << 30


class Finding(NamedTuple):
    """`level` is ok, note (works, with a limit) or bad (does not work)."""

    what: str
    level: str
    detail: str


def command(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Check Python, packages, the home, the configuration, the port, the cores, and how programs can be confined. Ends
    with 1 when something is bad.

    \b
    Example:
      aios doctor
    """
    findings = [finding for check in CHECKS for finding in check()]
    if as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        print(table(("", "WHAT", "FOUND"), [(f.level, f.what, f.detail) for f in findings], columns=width()))
    if any(finding.level == "bad" for finding in findings):
        raise typer.Exit(FAILED)


def check_python() -> list[Finding]:
    version = platform.python_version()
    level = "ok" if sys.version_info >= (3, 11) else "bad"
    return [Finding("python", level, f"{version} on {platform.system()} {platform.machine()}, aios {__version__}")]


def check_packages() -> list[Finding]:
    """Those with compiled parts: one that does not load is the likeliest trouble of an installation."""
    missing = []
    for name in ("msgspec", "apsw", "numpy", "safetensors", "llguidance", "jsonschema_rs", "aiohttp", "httptools"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing.append(f"{name} ({error})")
    if missing:
        return [Finding("packages", "bad", f"cannot be loaded: {', '.join(missing)}; install aios-kernel again")]
    return [Finding("packages", "ok", "all load")]


def check_home() -> list[Finding]:
    home = connect.home_path()
    if not home.exists():
        return [Finding("home", "ok", f"{home} will be made by the first 'aios up'")]
    if not os.access(home, os.W_OK | os.X_OK):
        return [Finding("home", "bad", f"{home} is not writable; set AIOS_HOME to a folder that is")]
    free = shutil.disk_usage(home).free
    level = "ok" if free >= LEAST_DISK else "note"
    findings = [Finding("home", level, f"{home}, {free / (1 << 30):.1f} GiB free")]
    key = home / "admin.key"
    if key.exists() and key.stat().st_mode & 0o077:
        findings.append(Finding("admin key", "bad", f"{key} can be read by others; run chmod 600 {key}"))
    return findings


def check_config() -> list[Finding]:
    try:
        settings = load()
    except ConfigError as error:
        return [Finding("configuration", "bad", error.message)]
    place = connect.home_path() / "aios.toml"
    findings = [Finding("configuration", "ok", str(place) if place.exists() else f"defaults (no {place})")]
    for core in settings.core:
        findings.append(_core(core.name, core.base_url, core.api_key_env))
    return findings


def _core(name: str, base_url: str | None, key_name: str | None) -> Finding:
    what = f"core {name}"
    if base_url is None:
        weights = Path(str(importlib.util.find_spec("aios").origin)).parent / "kernel/llm/local/weights"  # type: ignore[union-attr]
        is_there = (weights / "model.safetensors").exists()
        return Finding(what, "ok" if is_there else "bad", "packaged model" if is_there else f"no model in {weights}")
    if key_name and not os.environ.get(key_name):
        return Finding(what, "bad", f"its key is read from {key_name}, which is not set")
    host, port = _address(base_url)
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError as error:
        return Finding(what, "bad", f"{base_url} cannot be reached: {error}")
    return Finding(what, "ok", f"{base_url} is reached")


def _address(url: str) -> tuple[str, int]:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def check_kernel() -> list[Finding]:
    """Running and answering, or not running and free to start."""
    home = connect.home_path()
    if connect.is_running(home) or os.environ.get("AIOS_URL"):
        try:
            with Client(retries=0) as kernel:
                kernel.proc_list()
        except AiosError as error:
            return [Finding("kernel", "bad", error.message)]
        whose = "with AIOS_KEY" if os.environ.get("AIOS_KEY") else "with the admin key" if default_key() else ""
        return [Finding("kernel", "ok", f"answers at {default_url()} {whose}".strip())]
    return [Finding("kernel", "ok", "none runs; start one with 'aios up'"), *_port()]


def _port() -> list[Finding]:
    try:
        settings: Config = load()
    except ConfigError:
        return []  # told already
    host, port = settings.server.host, settings.server.port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return [Finding("port", "bad", f"{host}:{port}: {error.strerror}; choose another with [server] port")]
    return [Finding("port", "ok", f"{host}:{port} is free")]


def check_confinement() -> list[Finding]:
    """One way that works is enough."""
    found = confine.probe()
    working = [(name, detail) for name, works, detail in found if works]
    if not working:
        whys = "; ".join(f"{name}: {detail}" for name, _, detail in found)
        return [Finding("confinement", "bad", f"'aios run -- PROGRAM' needs --unconfined here: {whys}")]
    return [Finding("confinement", "ok", f"{working[0][0]}: {working[0][1]}")]


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    check_python,
    check_packages,
    check_home,
    check_config,
    check_kernel,
    check_confinement,
)

"""`aios doctor`: is this machine fit for a kernel, and what is wrong if not."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import platform
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer

import aios
from aios.abi.errors import AiosError, BadRequest
from aios.kernel import Config, ConfigError, CoreSection, check_key, load
from aios.sdk.client import default_key, default_url, home_path

from . import confine
from .connect import checked_home, client
from .console import counted, print_json, table
from .exits import FAILED
from .neighbours import bound
from .options import ConfigFile
from .state import config_in_use, is_running
from .tools import AGAIN, problem

LOCAL_PACKAGES = ("tokenizers", "jinja2")
"""What models in folders need."""
LEAST_DISK = 128 << 20
"""Bytes: with less the disk is as good as full."""
GOOD_DISK = 1 << 30


class Finding(NamedTuple):
    """`level` is ok, note (works, with a limit) or bad (does not work)."""

    what: str
    level: str
    detail: str


def command(
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Check Python, packages, the home and its disk, the configuration, the cores, the kernel or its port, the tools,
    and how programs can be confined. Ends with 1 when something is bad.

    \b
    Examples:
      aios doctor
      aios doctor --config other.toml
    """
    findings = examined(config)
    if as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        # Whole lines, however wide: at their end is what to do.
        print(table(("", "WHAT", "FOUND"), [(f.level, f.what, f.detail) for f in findings]))
    if any(finding.level == "bad" for finding in findings):
        raise typer.Exit(FAILED)


def examined(config: Path | None = None) -> list[Finding]:
    """All findings; about the configuration in `config`, else the one in use."""
    settings, told = check_config(config_in_use(config))
    findings = [*check_python(), *check_packages(), *check_home(), *told]
    for check in (check_cores, check_kernel, check_tools):
        findings += check(settings)
    return [*findings, *check_confinement()]


def check_python() -> list[Finding]:
    version = platform.python_version()
    level = "ok" if sys.version_info >= (3, 11) else "bad"
    return [Finding("python", level, f"{version} on {platform.system()} {platform.machine()}, aios {aios.__version__}")]


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
    try:
        home = checked_home()
    except BadRequest as error:
        return [Finding("home", "bad", error.message)]
    place = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        return [Finding("home", "bad", f"{place} is not writable; set AIOS_HOME to a folder that is")]
    detail = str(home) if home.exists() else f"{home} will be made by the first 'aios up'"
    findings = [Finding("home", "ok", detail), _disk(place)]
    key = home / "admin.key"
    if key.exists() and key.stat().st_mode & 0o077:
        findings.append(Finding("admin key", "bad", f"{key} can be read by others; run chmod 600 {key}"))
    return findings


def _disk(place: Path) -> Finding:
    """A kernel whose disk is full can record nothing, and so takes no calls."""
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    found = f"{free / (1 << 20):,.0f} MiB free" if free < 10 << 30 else f"{free / (1 << 30):,.0f} GiB free"
    advice = f"make room on the disk of {place}, or set AIOS_HOME to a folder on another one"
    if disk.f_files and not disk.f_favail:
        return Finding("disk", "bad", f"full: {found}, but no file can be added; {advice}")
    if free < LEAST_DISK:
        return Finding("disk", "bad", f"{'nearly full' if free else 'full'}: {found}; {advice}")
    if free < GOOD_DISK:
        return Finding("disk", "note", f"{found}; the journal and the memory of many agents take more")
    return Finding("disk", "ok", found)


def check_config(path: Path | None) -> tuple[Config | None, list[Finding]]:
    """The settings, if they can be used."""
    place = path or home_path() / "aios.toml"
    try:
        settings = load(path)
    except ConfigError as error:
        return None, [Finding("configuration", "bad", error.message)]
    return settings, [Finding("configuration", "ok", str(place) if place.exists() else f"defaults (no {place})")]


def check_cores(settings: Config | None) -> list[Finding]:
    return [_found(core) for core in (settings.core if settings else ())]


def _found(core: CoreSection) -> Finding:
    if core.hub is not None:
        return _of_hub(f"core {core.name}", core.hub)
    if core.path is None:
        return _core(core)
    look = _file if core.kind == "gguf" else _folder
    return look(f"core {core.name}", Path(core.path).expanduser())


def _file(what: str, file: Path) -> Finding:
    """A GGUF file, from outside."""
    try:
        with file.open("rb") as opened:
            magic = opened.read(4)
    except OSError as error:
        return Finding(what, "bad", f"{file} cannot be read: {error.strerror}")
    if magic != b"GGUF":
        return Finding(what, "bad", f"{file} is no GGUF file")
    if importlib.util.find_spec("xllamacpp") is None:
        return Finding(what, "bad", "it needs xllamacpp, which pip install 'aios-kernel[gguf]' brings")
    return Finding(what, "ok", f"the model in {file}")


def _of_hub(what: str, name: str) -> Finding:
    """A model of the hub: the kernel fetches it, and says what is in the way."""
    for package in ("huggingface_hub", *LOCAL_PACKAGES):
        if importlib.util.find_spec(package) is None:
            return Finding(what, "bad", f"it needs {package}, which pip install 'aios-kernel[local]' brings")
    return Finding(what, "ok", f"{name} of the hub; the kernel fetches it when it starts, if it has not yet")


def _folder(what: str, folder: Path) -> Finding:
    """A model's folder, from outside: whether it is sound is seen when it is loaded."""
    for file in ("config.json", "tokenizer.json"):
        if not (folder / file).is_file():
            return Finding(what, "bad", f"{folder} holds no {file}: it is no folder of a model")
    if not any(folder.glob("*.safetensors")):
        return Finding(what, "bad", f"{folder} holds no .safetensors, and weights of other kinds cannot be read")
    for package in LOCAL_PACKAGES:
        if importlib.util.find_spec(package) is None:
            return Finding(what, "bad", f"it needs {package}, which pip install 'aios-kernel[local]' brings")
    return Finding(what, "ok", f"the model in {folder}")


def _core(core: CoreSection) -> Finding:
    what, base_url = f"core {core.name}", core.url
    if base_url is None:
        weights = Path(aios.__file__).parent / "kernel/llm/local/weights"
        is_there = (weights / "model.safetensors").exists()
        return Finding(what, "ok" if is_there else "bad", "packaged model" if is_there else f"no model in {weights}")
    try:
        check_key(core)
    except ConfigError as error:
        return Finding(what, "bad", error.message.partition(": ")[2])
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


def check_kernel(settings: Config | None) -> list[Finding]:
    """Running, answering and able to take calls; or not running and free to start."""
    if not _is_up():
        return [Finding("kernel", "ok", "none runs; start one with 'aios up'"), *_port(settings)]
    try:
        with client() as kernel:
            kernel.proc_list()
            kernel.fetch("GET", "/readyz")
    except AiosError as error:
        return [Finding("kernel", "bad", error.message)]
    whose = "with AIOS_KEY" if os.environ.get("AIOS_KEY") else "with the admin key" if default_key() else ""
    return [Finding("kernel", "ok", f"answers at {default_url()} {whose}".strip())]


def _is_up() -> bool:
    return is_running(home_path()) or bool(os.environ.get("AIOS_URL"))


def _port(settings: Config | None) -> list[Finding]:
    if settings is None:
        return []  # why not is told already
    host, port = settings.server.host, settings.server.port
    try:
        bound(host, port).close()
    except AiosError as error:
        return [Finding("port", "bad", error.message)]
    return [Finding("port", "ok", f"{host}:{port} is free")]


def check_tools(settings: Config | None) -> list[Finding]:
    """Files of tools that do not load: as the running kernel says, else by loading them."""
    return [*(_told_problems() if _is_up() else _tried_problems(settings)), _workers()]


def _told_problems() -> list[Finding]:
    try:
        with client() as kernel:
            found = kernel.tool_list()
    except AiosError:
        return []  # told already
    bad = [Finding("tools", "bad", f"{problem(*each)}; {AGAIN}") for each in found.problems.items()]
    return bad or [Finding("tools", "ok", f"{counted(len(found.tools), 'tool')} listed by the kernel")]


def _tried_problems(settings: Config | None) -> list[Finding]:
    if settings is None:
        return []  # why not is told already
    if not settings.tool:
        return [Finding("tools", "ok", "the built-in ones; no file of tools is configured")]
    try:
        problems = asyncio.run(_load_tools(settings))
    except AiosError as error:
        return [Finding("tools", "bad", error.message)]
    bad = [Finding("tools", "bad", f"{problem(*each)}; mend that before 'aios up'") for each in problems.items()]
    return bad or [Finding("tools", "ok", f"{counted(len(settings.tool), 'file')} configured, and all load")]


async def _load_tools(settings: Config) -> dict[str, str]:
    """Load them with a kernel that has nothing else, not even this home: why any does not load, by file."""
    from aios.kernel import Kernel  # loads every room: not needed where no file of tools is configured

    logging.getLogger("aios.tool").addHandler(logging.NullHandler())  # what it would say is in the findings
    home = home_path()
    tried = []
    for section in settings.tool:
        path = home / section.module
        tried.append(msgspec.structs.replace(section, module=str(path)) if path.is_file() else section)
    with tempfile.TemporaryDirectory(prefix="aios-doctor-") as empty:
        kernel = await Kernel.boot(msgspec.structs.replace(settings, core=[], tool=tried), Path(empty), cores={})
        try:
            return dict(kernel.tools.problems)
        finally:
            await kernel.stop(0)


def _workers() -> Finding:
    """What ends all that a tool starts: a namespace of processes, else a search for them."""
    what = "tool workers"
    probe = (sys.executable, "-P", "-m", "aios.kernel.tool.host", "probe")
    if subprocess.run(probe, check=False, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0:
        return Finding(what, "ok", "in namespaces: what a tool starts ends with it")
    advice = "allow unprivileged user namespaces, also to the container if this is one"
    if Path(f"/proc/self/task/{os.getpid()}/children").exists():
        return Finding(what, "note", f"no namespaces: what a tool starts is searched for, to be ended; {advice}")
    return Finding(what, "note", f"no namespaces, no lists of children: what a tool starts may outlive it; {advice}")


def check_confinement() -> list[Finding]:
    """One way that works is enough."""
    found = confine.probe()
    working = [(name, detail) for name, works, detail in found if works]
    if not working:
        whys = "; ".join(f"{name}: {detail}" for name, _, detail in found)
        return [Finding("confinement", "bad", f"'aios run -- PROGRAM' needs --unconfined here: {whys}")]
    return [Finding("confinement", "ok", f"{working[0][0]}: {working[0][1]}")]

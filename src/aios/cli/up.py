"""`aios up`: boot the kernel of a home and serve it until ctrl-C, SIGTERM or `aios down`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from aios import __version__
from aios.abi.errors import BadRequest, Conflict, TimedOut
from aios.kernel import Config, load

from .confine import undumpable
from .connect import checked_home
from .console import counted, note, print_json, safe
from .exits import FAILED, INTERRUPTED
from .neighbours import announce, bound, withdraw
from .options import POLICIES, ConfigFile, one_of
from .state import forget_state, is_running, key_names, missing_keys, read_state, write_state
from .tools import problem

if TYPE_CHECKING:
    from aios.kernel import Kernel

BOOT_SECONDS = 60.0
HURRY_SECONDS = 2.0
"""What an end that was asked for twice may take."""


def command(
    host: Annotated[str | None, typer.Option(help="Where to listen; [server] host.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="[server] port; 0 takes any free one.")] = None,
    config: ConfigFile = None,
    policy: Annotated[str | None, typer.Option(help="rr or fifo; [scheduler] policy.")] = None,
    quantum: Annotated[int | None, typer.Option(min=1, help="Tokens; [scheduler] quantum.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return as soon as it is up.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Once it is up, where it is, as JSON on stdout.")] = False,
) -> None:
    """Start the kernel: load the models, open the home ($AIOS_HOME, default ~/.aios) and serve HTTP on loopback.

    \b
    Examples:
      aios up
      aios up --detach --port 9000
    """
    if policy is not None:
        one_of("policy", policy, POLICIES)
    home = checked_home()
    if detach:
        _detach(home)
        if as_json:
            _print_state(home)
        return
    settings = configured(config, host=host, port=port, policy=policy, quantum=quantum)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    _tell_fetching()
    run_loop(_serve(settings, home, config, as_json))
    note("The kernel has stopped.")


def configured(path: Path | None, **changes: Any) -> Config:
    """The configuration with the command's own options on top. Raises ConfigError."""
    settings = load(path)
    for section, names in (("server", ("host", "port")), ("scheduler", ("policy", "quantum"))):
        given = {name: changes[name] for name in names if changes.get(name) is not None}
        if given:
            old = getattr(settings, section)
            new = {**msgspec.structs.asdict(old), **given}
            settings = msgspec.structs.replace(settings, **{section: convert(new, type(old))})
    return settings


def convert(value: dict[str, Any], kind: type[Any]) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise typer.BadParameter(str(error).replace(" - at `$.", " (").replace("`", ")", 1)) from None


def run_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """Run `work` on the fastest event loop there is."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


def _tell_fetching() -> None:
    """How far models of the hub are is news, and no warning."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note(safe(record.getMessage()))

    hub = logging.getLogger("aios.hub")
    hub.setLevel(logging.INFO)
    hub.propagate = False
    hub.addHandler(Notes())


async def _serve(settings: Config, home: Path, config: Path | None, as_json: bool) -> None:
    from aios.gateway import serve, url_of
    from aios.kernel import Kernel

    if is_running(home):
        who = (read_state(home) or {}).get("pid", "?")
        raise Conflict(f"another kernel (process {who}) already runs on {home}: 'aios down' stops it")
    undumpable()  # what runs as the same user is not to read keys out of this process
    gc.freeze()  # what was imported stays: looking through it for garbage would hold up the loop for 10 to 20 ms
    sock = bound(settings.server.host, settings.server.port)  # before the models: a taken port is said at once
    try:
        kernel = await Kernel.boot(settings, home)
    except BaseException:
        sock.close()
        raise
    url = url_of(sock)

    def ready() -> None:
        for module, why in kernel.statistics()["tools"]["problems"].items():
            note(f"warning: {problem(module, why)}")
        for warning in failed_cores(kernel):
            note(safe(f"warning: {warning}"))
        for warning in missing_keys(settings):
            note(safe(f"warning: {warning}"))
        write_state(home, url, key_names(settings), config)
        announce(home)
        note(_greeting(kernel, url))
        if as_json:
            _print_state(home)

    try:
        await serve(kernel, sock, on_ready=ready, on_stop=partial(stopping, kernel))
    finally:
        _leave(home)


def _leave(home: Path) -> None:
    """Nobody is to look for this process's kernel any more."""
    forget_state(home)
    withdraw()


def _print_state(home: Path) -> None:
    """What a script that starts a kernel goes on with."""
    state = read_state(home) or {}
    where = {"home": str(home), "admin_key": str(home / "admin.key")}
    print_json({"pid": state.get("pid"), "url": state.get("url"), **where})
    sys.stdout.flush()


def stopping(kernel: Kernel, is_again: bool) -> None:
    """A stop begins, or is to be over. Calls that only wait for others are not waited for."""
    if is_again:
        note("Ending now.")
        timer = threading.Timer(HURRY_SECONDS, _end_hard, [kernel.home])
        timer.daemon = True
        timer.start()
        return
    calls = [call for process in kernel.processes.list() for call in process.open_calls.values()]
    number = sum(not call.spec.is_wait for call in calls)
    if number:
        again = "; ctrl-C again ends now" if _has_terminal() else ""
        note(f"Finishing {counted(number, 'call')}, for {kernel.config.server.drain:g} s at most{again}.")


def _end_hard(home: Path) -> None:
    """A module does not let go. Nothing acknowledged is lost: a kernel may be killed at any instant."""
    _leave(home)
    os._exit(INTERRUPTED)


def failed_cores(kernel: Kernel) -> list[str]:
    """A sentence for each core that could not be opened, and a loud one when none is left."""
    cores = kernel.llm.info()
    failed = [core for core in cores if core.state == "failed"]
    told = [
        f"core '{core.name}' could not be opened: {core.why}; mend that, then 'aios cores add {core.name}'"
        for core in failed
    ]
    told += [f"core '{core.name}' is still being opened; its calls wait" for core in cores if core.state == "opening"]
    if failed and len(failed) == len(cores):
        told.append("NO CORE IS LEFT: every call for a model is refused until one is added")
    return told


def _has_terminal() -> bool:
    """Whether ctrl-C can reach this process: one that was detached has no terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _greeting(kernel: Any, url: str) -> str:
    settings = kernel.config
    ready = [core for core in kernel.llm.info() if core.state == "ready"]
    cores = ", ".join(f"{core.name} ({core.slots} slots)" for core in ready) or "NONE: no model answers"
    policy = settings.scheduler.policy
    order = f"{policy}, {settings.scheduler.quantum} tokens a turn" if policy != "fifo" else policy
    home = os.environ.get("AIOS_HOME")
    other = f"AIOS_HOME={home} " if home else ""
    return "\n".join(
        [
            f"AIOS {__version__} is up at {url} (pid {os.getpid()})",
            f"  cores      {cores}",
            f"  scheduler  {order}",
            f"  admin key  {kernel.home / 'admin.key'} (the aios command uses it)",
            "",
            "Point an agent at it:",
            f"  {other}aios run -- python my_agent.py",
            f"  or: export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=$({other}aios keys new my-agent)",
            "",
            f"Look with '{other}aios top'; stop with {'ctrl-C or ' if _has_terminal() else ''}'{other}aios down'.",
        ]
    )


def _detach(home: Path) -> None:
    """Start the same command once more, without --detach, and wait until it says that it is up."""
    arguments = [each for each in sys.argv[2:] if each not in ("--detach", "-d", "--json")]
    log = home / "kernel.log"
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with log.open("ab") as out:
            begin = out.tell()
            child = subprocess.Popen(
                [sys.executable, "-m", "aios.cli.main", "up", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
    except OSError as error:
        raise BadRequest(
            f"{error.filename or home} cannot be written ({error.strerror}): make it writable, or set AIOS_HOME to a "
            "folder that is",
            code="home_unusable",
        ) from None
    _wait_until_up(home, child)
    sys.stderr.write(_since(log, begin))
    if child.poll() is not None:
        raise typer.Exit(child.returncode or FAILED)


def _wait_until_up(home: Path, child: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + BOOT_SECONDS
    size = 0
    while child.poll() is None:
        state = read_state(home)
        if size != (now := (home / "kernel.log").stat().st_size):  # it says that it gets on: a model is being fetched
            size, end = now, time.monotonic() + BOOT_SECONDS
        if state is not None and state["pid"] == child.pid:
            return
        if time.monotonic() > end:
            child.terminate()
            raise TimedOut(f"the kernel was not up after {BOOT_SECONDS:g} s; see {home / 'kernel.log'}")
        time.sleep(0.05)


def _since(log: Path, begin: int) -> str:
    with log.open("rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace")

"""A kernel that serves on a free port, in a thread of this process, and the command to use on it."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aios.cli.main import main
from aios.gateway import bind, serve, url_of
from aios.kernel import Kernel
from aios.testing import ScriptedCore, booted

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("AIOS_", "OPENAI_", "ANTHROPIC_"))}

FAR = """
[router]
default = "far"

[[core]]
name = "far"
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
probe = false
"""
"""A configuration whose only core costs nothing to load: its server is asked when a call is there."""


def home_env(home: Path, config: str = FAR) -> dict[str, str]:
    """The environment of a home that has `config`."""
    home.mkdir(exist_ok=True)
    (home / "aios.toml").write_text(config)
    return {**CLEAN, "AIOS_HOME": str(home)}


@dataclass
class Served:
    """`core` may be touched by way of `call` only: it lives on another thread's event loop."""

    url: str
    key: str
    home: Path
    kernel: Kernel
    core: ScriptedCore
    loop: asyncio.AbstractEventLoop

    def call(self, action: Callable[[], Any]) -> None:
        self.loop.call_soon_threadsafe(action)

    def env(self) -> dict[str, str]:
        return {**CLEAN, "AIOS_URL": self.url, "AIOS_KEY": self.key, "AIOS_HOME": str(self.home)}


class Server(threading.Thread):
    """Boots, serves, and stops when told."""

    def __init__(self, home: Path) -> None:
        super().__init__(daemon=True)
        self._home = home
        self._is_ready = threading.Event()
        self._failure: BaseException | None = None
        self.served: Served | None = None

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        core = ScriptedCore("four words are said", slots=2)
        async with booted(cores=[core], home=self._home, quantum=2) as kernel:
            sock = bind("127.0.0.1", 0)
            _, key = kernel.access.mint(owner="admin", agent="admin", is_admin=True)
            loop = asyncio.get_running_loop()
            self.served = Served(url_of(sock), key, self._home, kernel, core, loop)
            self._task = asyncio.ensure_future(serve(kernel, sock, on_ready=self._is_ready.set))
            await asyncio.wait((self._task,))

    def wait_ready(self) -> Served:
        assert self._is_ready.wait(60)
        assert self.served is not None
        return self.served

    def stop(self) -> None:
        if self.served is not None:
            self.served.call(self._task.cancel)
        self.join(60)


@dataclass
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def aios(*args: str, env: dict[str, str]) -> Done:
    """Run the command to its end, in this process: starting an interpreter each time would take most of the time."""
    before = dict(os.environ)
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as errors:
        try:
            os.environ.clear()
            os.environ.update(env)
            main(args)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            os.environ.clear()
            os.environ.update(before)
    return Done(code, out.getvalue(), errors.getvalue())


def apart(*args: str, env: dict[str, str]) -> Done:
    """Run the command to its end in a process of its own."""
    process = started(*args, env=env)
    out, errors = process.communicate(timeout=120)
    return Done(process.returncode, out, errors)


def started(*args: str, env: dict[str, str]) -> subprocess.Popen[str]:
    """Start the command; whoever starts it ends it."""
    return subprocess.Popen(
        [sys.executable, "-m", "aios.cli.main", *args],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "aios.cli.main", *sys.argv[1:]])
"""


class OnTerminal:
    """The command on a terminal of its own, so that ctrl-C reaches it. `said` is all that it printed yet."""

    def __init__(self, *args: str, env: dict[str, str]) -> None:
        self.said = ""
        self._ours, theirs = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *args],
            env={**env, "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def read_until(self, words: str) -> None:
        """Returns when `words` were printed; raises when the command ends without them."""
        while words not in self.said:
            try:
                part = os.read(self._ours, 4096)
            except OSError:  # nobody has the terminal open any more
                part = b""
            if not part:
                raise AssertionError(f"it ended and said only: {self.said}")
            self.said += part.decode(errors="replace")

    def press_ctrl_c(self) -> None:
        os.write(self._ours, b"\x03")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

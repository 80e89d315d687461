"""`aios down`: stop the kernel of this home; open calls may finish first."""

from __future__ import annotations

import os
import signal
import time
from typing import Annotated

import typer

from aios.abi.errors import TimedOut
from aios.sdk import NoKernel

from .connect import checked_home
from .console import note, print_json
from .state import is_running, read_state


def command(
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for it to be gone.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Which kernel has stopped, as JSON.")] = False,
) -> None:
    """Stop the kernel that runs on this home: it takes no more calls, lets open ones finish for [server] drain seconds
    (10), keeps those with an idempotency key for its next start, and ends.

    \b
    Example:
      aios down
    """
    home = checked_home()
    state = read_state(home)
    if state is None or not is_running(home):
        raise NoKernel(f"no kernel runs on {home}; nothing to stop")
    os.kill(state["pid"], signal.SIGTERM)
    end = time.monotonic() + timeout
    while is_running(home):
        if time.monotonic() > end:
            raise TimedOut(f"the kernel (pid {state['pid']}) still drains after {timeout:g} s; it will end by itself")
        time.sleep(0.05)
    if as_json:
        print_json({"pid": state["pid"], "url": state["url"], "home": str(home)})
    else:
        note(f"The kernel at {state['url']} has stopped.")

"""A converter that is no converter: it tells what of the machine it can still reach. Run by `host.py`."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable


def convert(data: bytes, limit: int) -> tuple[str, str]:
    order, _, rest = data.decode().partition(" ")
    if order == "reach":
        return "\n".join(f"{name} {_tried(attempt)}" for name, attempt in _attempts(rest).items()), ""
    if order == "memory":
        return str(len(bytearray(int(rest)))), ""
    if order == "spin":
        end = time.process_time() + float(rest)
        while time.process_time() < end:
            pass
    if order == "sleep":
        time.sleep(float(rest))
    if order == "die":
        os._exit(3)
    if order == "crash":
        os.abort()
    if order == "lie":
        os.write(1, b"t" + b"\xff" * 1000)
    if order == "mumble":
        os.write(1, b"t\0\0\0\4\0\0\0\0" + b"\xff" * 4)
    if order == "shout":
        return "x" * int(rest), ""
    if order == "raise":
        raise KeyError(rest)
    if order == "nest":
        return convert(data, limit)
    return f"{order} done", ""


def _attempts(folder: str) -> dict[str, Callable[[], object]]:
    key = f"{folder}/admin.key"
    return {
        "read": lambda: open(key).read(),
        "write": lambda: open(f"{folder}/new", "w"),
        "list": lambda: os.listdir(folder),
        "remove": lambda: os.unlink(key),
        "rename": lambda: os.rename(key, f"{folder}/other"),
        "link": lambda: os.symlink(key, f"{folder}/link"),
        "folder": lambda: os.mkdir(f"{folder}/made"),
        "program": lambda: subprocess.run(["/bin/true"], check=True),
        "socket": lambda: socket.socket(),
        "pair": lambda: socket.socketpair(),
        "parent": lambda: os.kill(os.getppid(), 0),
        "memory of others": lambda: open(f"/proc/{os.getppid()}/environ").read(),
        "keys": lambda: {name: os.environ[name] for name in ("AIOS_TEST_SECRET",)},
        "import": lambda: __import__("sqlite3"),
    }


def _tried(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except (OSError, KeyError, ImportError, subprocess.SubprocessError) as error:
        return f"refused: {error}"
    return "done"

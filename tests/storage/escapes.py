"""Ways out of a mounted folder: paths that are made up, and a process that swaps folders for links."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SECRET = "the secret of outside"
PIECES = [
    "..", ".", "", "sub", "inner", "a.txt", "out", "abs", "root", "up", "self", "file", "loop", "secret", "outside",
    "deep", "top", "b.txt", "etc", "passwd", "..\0", "..\\", "\\..", "%2e%2e", "．．", "‥", "..\u200d", "\u202e..", "~",
    "~root", "C:", "OUT", "Secret", "...", ".. ", " ..", "..;", "nowhere", "new", "x" * 300, "\ud800", "a\nb", "proc",
    "fd", "\u2215", "\u2024\u2024", ".aios-0123456789abcdef.part",
]  # fmt: skip
JOINTS = ["/", "/", "/", "//", "\\", "/./", "/../", "\0/", "\u2215"]


def escapes(seed: int, count: int, top: Path) -> Iterator[str]:
    """Paths that try to get out: steps up, links, absolute names, and names that look like these."""
    dice = random.Random(seed)
    for _ in range(count):
        path = ""
        for _ in range(dice.randint(1, 7)):
            path += dice.choice(PIECES) + dice.choice(JOINTS)
        ends = ["secret", "outside/secret", "out/secret", "../outside/secret", str(top.parent / "outside/secret"), ""]
        path += dice.choice(ends)
        yield dice.choice(["", "", "", "/", "//", "../", "sub/../../", f"{top.parent}/"]) + path


def outside(top: Path) -> dict[str, bytes | None]:
    """All that is in the folder beside it that links lead to."""
    beside = [*(top.parent / "outside").rglob("*"), *top.parent.iterdir()]
    return {str(path): path.read_bytes() if path.is_file() else None for path in beside}


SWAP = """
import os, sys
top, outside = sys.argv[1:]
os.chdir(top)
print("ready", flush=True)
while os.getppid() == int(os.environ["PARENT"]) and not os.path.exists("stop"):
    for name in ("d", "d/e"):
        try:
            os.rename(name, "away")
            os.symlink(outside, name)
            for _ in range(100): os.lstat(name)
            os.unlink(name)
            os.rename("away", name)
            for _ in range(100): os.lstat(name)
        except OSError:
            try: os.rename("away", name)
            except OSError: pass
"""


@contextlib.contextmanager
def swapping(top: Path) -> Iterator[None]:
    """A process that makes `d` and `d/e` of the folder links to outside and back again, as fast as it can."""
    (top / "d" / "e").mkdir(parents=True)
    (top.parent / "outside" / "e").mkdir()
    (top.parent / "outside" / "e" / "secret").write_text(SECRET)
    (top.parent / "outside" / "f0").write_text(SECRET)
    program = [sys.executable, "-I", "-c", SWAP, str(top), str(top.parent / "outside")]
    environment = {**os.environ, "PARENT": str(os.getpid())}
    with subprocess.Popen(program, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            (top / "stop").touch()

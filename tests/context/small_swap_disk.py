"""A disk of so many bytes, which can really be full: a tmpfs in a namespace of its own, seen through /proc."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_MOUNT = 'mount -t tmpfs -o size="$2" none "$1" && echo mounted && cat'
"""The mount is there for as long as the process is, which ends with its standard input."""


class SmallDisk:
    """`folder` is on it. One page of 4 KiB is the least that a file takes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def free(self) -> int:
        told = os.statvfs(self.folder)
        return told.f_bavail * told.f_frsize

    def leave(self, free: int) -> None:
        """Somebody else's file takes all but about `free` bytes."""
        filler = self.folder / "filler"
        filler.unlink(missing_ok=True)
        filler.write_bytes(b"\0" * max(0, self.free - free))


@contextlib.contextmanager
def small_disk(at: Path, size: int) -> Iterator[SmallDisk]:
    """Skips the test where the machine lets nobody mount one."""
    at.mkdir()
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _MOUNT, "sh", str(at), str(size)]
    pipe = subprocess.PIPE
    try:
        holder = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare(1) here")
    with holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stderr is not None
        folder = Path(f"/proc/{holder.pid}/root{at.resolve()}")
        if holder.stdout.readline() != "mounted\n":
            pytest.skip(f"no small disk can be mounted here: {holder.stderr.read().strip()}")
        try:
            (folder / "probe").touch()
        except OSError as error:
            holder.stdin.close()
            pytest.skip(f"another namespace's files cannot be seen here: {error}")
        (folder / "probe").unlink()
        yield SmallDisk(folder)
        holder.stdin.close()

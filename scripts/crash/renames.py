"""Hearing of the renames that mounts ask the system for (renameat2), which no function of `os` is. Knows no fault."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from aios.kernel.storage.mounts import exchange

Hear = Callable[[int, bytes, int, bytes, int], int]
"""(folder, name, other folder, other name, flags) → the error that it fails with; 0: it is carried out."""


def on_rename(hear: Hear) -> None:
    """From now on, in this process."""
    really = exchange._renameat2()

    def rename(folder: int, name: bytes, to_folder: int, new: bytes, flags: int) -> int:
        if error := hear(folder, name, to_folder, new, flags):
            ctypes.set_errno(error)
            return -1
        assert really is not None
        return int(really(folder, name, to_folder, new, flags))

    if really is not None:
        exchange._renameat2 = lambda: rename  # type: ignore[assignment]

"""The linear algebra library under NumPy: one thread, and its name. Knows nothing about models.

NumPy wheels bring their own OpenBLAS, whose thread pool spins while it waits: on a machine that is shared, or under a
kernel with many agents, that costs more than it gives, and the number of threads changes the bits of a result. So the
own cores compute on one thread. The call is made on the library itself; where it is not found (a NumPy built on
another library) nothing changes, and the caller is told by the answer.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_SET_THREADS = ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads")
_CORE_NAME = ("scipy_openblas_get_corename64_", "openblas_get_corename64_", "openblas_get_corename")
_FOLDERS = ("../numpy.libs", ".dylibs", ".libs")


@functools.cache
def _library() -> ctypes.CDLL | None:
    for path in _candidates():
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    return None


def _candidates() -> Iterator[Path]:
    home = Path(np.__file__).parent
    for folder in _FOLDERS:
        yield from sorted((home / folder).glob("*openblas*"))


def use_one_thread() -> bool:
    """Make this process's matrix products single-threaded. Returns whether the library was found."""
    for name in _SET_THREADS:
        if (function := getattr(_library(), name, None)) is not None:
            function.argtypes, function.restype = [ctypes.c_int], None
            function(1)
            return True
    return False


def kernel_family() -> str:
    """Which set of kernels computes here, such as "SkylakeX"; results of two families differ in their last bits."""
    for name in _CORE_NAME:
        if (function := getattr(_library(), name, None)) is not None:
            function.argtypes, function.restype = [], ctypes.c_char_p
            return bytes(function() or b"").decode()
    return f"{platform.system()}-{platform.machine()}"

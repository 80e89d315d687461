"""Turns files which nobody vouches for into text: `python -I -S host.py MODULE SECONDS MEMORY FOLDER...`.

A process of its own. MODULE is what converts, found beside this file; FOLDERs are where it finds what it needs. It may
use SECONDS of the processor for a file, and MEMORY bytes of addresses in all. Once its module is loaded the process can
open nothing any more, start nothing, and write nowhere but into its answer: what it is given through stdin is all that
it knows. It ends when stdin does.

    request    8 bytes: how long the file is · 8 bytes: how many characters are wanted at most · the file
    answer     b"t" (text) or b"w" (why there is none) · 4 bytes: length · 4 bytes: length of what is said beside it ·
               both, in UTF-8

Run with `-I -S`, it knows nothing of ours.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import os
import signal
import struct
import sys
from collections.abc import Callable

try:
    import resource
except ImportError:  # a system without limits
    resource = None  # type: ignore[assignment]

Convert = Callable[[bytes, int], tuple[str, str]]
REQUEST = struct.Struct(">QQ")
ANSWER = struct.Struct(">cII")
_PDEATHSIG, _NO_NEW_PRIVS = 1, 38
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Landlock's rights on files, all that each version of it knows."""
_ON_NETWORK, _SCOPES = 3, 3
"""Landlock's: TCP from version 4, sockets without a name and signals from version 6."""


def main(words: list[str]) -> int:
    module, seconds, memory, *folders = words
    sys.path += [os.path.dirname(os.path.abspath(__file__)), *folders]
    logging.disable()
    convert: Convert = importlib.import_module(module).convert
    shut_in(int(memory))
    with open(0, "rb") as requests, open(1, "wb") as answers:
        while head := requests.read(REQUEST.size):
            size, limit = REQUEST.unpack(head)
            data = requests.read(size)
            _allow(int(seconds))
            answers.write(_answer(convert, data, limit))
            answers.flush()
    return 0


def _answer(convert: Convert, data: bytes, limit: int) -> bytes:
    try:
        text, beside = convert(data, limit)
    except MemoryError:
        return _packed(b"w", "it takes more memory than there is for one file", "")
    except RecursionError:
        return _packed(b"w", "it is nested too deeply", "")
    except Exception as error:  # noqa: BLE001  # whatever a broken file breaks: it is told, and the next file is another
        return _packed(b"w", f"it is broken ({type(error).__name__}: {str(error)[:200]})", "")
    return _packed(b"t", text, beside) if text or not beside else _packed(b"w", beside, "")


def _packed(kind: bytes, text: str, beside: str) -> bytes:
    said, more = text.encode("utf-8", "replace"), beside.encode("utf-8", "replace")
    return ANSWER.pack(kind, len(said), len(more)) + said + more


# ── being shut in ──


def shut_in(memory: int) -> None:
    """From here on no file, folder, process or socket of the machine can be reached, as far as the system can do that.
    That none can be opened is so on every system that has limits."""
    os.chdir("/")
    os.umask(0o777)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
        _forbid_everything(libc)
    for name, value in (("CORE", 0), ("FSIZE", 0), ("NPROC", 0), ("AS", memory), ("NOFILE", 0)):
        _limit(name, value)


def _forbid_everything(libc: ctypes.CDLL) -> None:
    """By Landlock, where the system has it: all that it knows of, without any exception."""
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return
    rights = max(rights for first, rights in _RIGHTS_BY_ABI.items() if first <= version)
    attributes = (ctypes.c_uint64 * 3)(rights, _ON_NETWORK if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    ruleset = libc.syscall(_CREATE_RULESET, attributes, 8 * (1 + (version >= 4) + (version >= 6)), 0)
    if ruleset >= 0:
        libc.syscall(_RESTRICT_SELF, ruleset, 0)
        os.close(ruleset)


def _limit(name: str, value: int) -> None:
    with contextlib.suppress(AttributeError, ValueError, OSError):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def _allow(seconds: int) -> None:
    """So many more seconds of the processor, from now on; then the system ends this process."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        used = resource.getrusage(resource.RUSAGE_SELF)
        bound = int(used.ru_utime + used.ru_stime) + seconds + 1
        resource.setrlimit(resource.RLIMIT_CPU, (bound, resource.RLIM_INFINITY))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

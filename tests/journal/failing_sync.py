"""Makes every later fsync of this process fail with EIO, as a dying disk does: a seccomp filter, without any rights."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

SYSCALLS = {"x86_64": (74, 75, 317), "aarch64": (82, 83, 277)}
"""Numbers of fsync, fdatasync and seccomp."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _statement(code: int, if_true: int, if_false: int, operand: int) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, operand)


def fail_every_sync() -> bool:
    """Whether it could be done here. It cannot be undone: only for a process of one's own."""
    numbers = SYSCALLS.get(platform.machine())
    if platform.system() != "Linux" or numbers is None:
        return False
    fsync, fdatasync, seccomp = numbers
    program = b"".join(
        [
            _statement(0x20, 0, 0, 0),  # load the system call's number
            _statement(0x15, 1, 0, fsync),
            _statement(0x15, 0, 1, fdatasync),
            _statement(0x06, 0, 0, 0x00050000 | errno.EIO),
            _statement(0x06, 0, 0, 0x7FFF0000),  # allow
        ]
    )
    buffer = ctypes.create_string_buffer(program)
    target = _Program(len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    # No new privileges, then the filter for every thread of the process.
    return libc.prctl(38, 1, 0, 0, 0) == 0 and libc.syscall(seccomp, 1, 1, ctypes.byref(target)) == 0

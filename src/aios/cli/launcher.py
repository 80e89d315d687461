"""What `aios run` puts between itself and a foreign program: hides a folder, then runs it. Standard library only.

    launcher.py MECHANISM HIDDEN PROGRAM ARGUMENTS…

`namespaces`: a mount namespace in which HIDDEN is an empty folder, and a pid namespace in which no other process is
seen, so nobody's environment or memory can be read. The program keeps user, folder, terminal, network, process group
(send signals there) and exit status (128 + n for a signal n).
`landlock`: the program may use all but HIDDEN, and may not make new entries in the very folders that lead there.
Both are one way: nothing that the program starts gets out again. Run with `-I -S`, it knows nothing of ours.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

CANNOT = 125
"""Exit status when the folder could not be hidden: the program was not started."""

_NEWNS, _NEWUSER, _NEWPID = 0x00020000, 0x10000000, 0x20000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND = 1, 2, 4, 8, 32, 4096
_REC, _PRIVATE = 16384, 1 << 18
_PDEATHSIG, _CAPBSET_DROP, _NO_NEW_PRIVS = 1, 24, 38
DANGEROUS = {
    "DAC_READ_SEARCH": 2,
    "SYS_MODULE": 16,
    "SYS_RAWIO": 17,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
    "SYS_BOOT": 22,
    "MKNOD": 27,
    "PERFMON": 38,
    "BPF": 39,
    "CHECKPOINT_RESTORE": 40,
}
"""What root would need to look behind the hiding. All else that root may do, the program may do."""
_THE_PROGRAMS = {signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
"""Signals to the group that end the program, or do not, and must leave those who wait for it alone."""

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ON_FILES = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
_SCOPE_SIGNAL = 2
_READ_DIR, _MAKE_CHAR, _MAKE_BLOCK = 1 << 3, 1 << 6, 1 << 11
_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Landlock's rights on files, all that each version of it knows."""


class Refused(OSError):
    """This machine does not let us."""


def main(words: list[str]) -> NoReturn:
    mechanism, hidden, *command = words
    try:
        if mechanism == "namespaces":
            _run_in_namespaces(hidden, command)
        _forbid(Path(hidden))
    except OSError as error:
        print(f"aios run: cannot hide {hidden} by {mechanism}: {error}", file=sys.stderr)
        sys.exit(CANNOT)
    _exec(command)


def _exec(command: list[str]) -> NoReturn:
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)  # Python ignores these; a program is not to inherit that
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"aios run: cannot start '{command[0]}': {error.strerror}", file=sys.stderr)
        os._exit(126 if isinstance(error, PermissionError) else 127)


def _call(name: str, *arguments: object) -> None:
    """A function of the C library. Raises Refused."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise Refused(code, f"{name}: {os.strerror(code)}")


# ── namespaces ──


def _run_in_namespaces(hidden: str, command: list[str]) -> NoReturn:
    """launcher (outside) ─▶ init of the pid namespace ─▶ program."""
    _die_with_parent()
    folder = os.getcwd()
    _unshare()
    _call("mount", b"none", b"/", None, _REC | _PRIVATE, None)
    # The program's own folder must not keep a way into what is hidden.
    if Path(folder).is_relative_to(hidden):
        raise Refused(f"the current folder {folder} is inside it")
    _cover(hidden)
    for door in side_doors():
        _cover(door)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _THE_PROGRAMS)
    ready, tell = os.pipe()
    init = os.fork()
    if init == 0:
        os.close(ready)
        _be_init(command, tell, mask)
    os.close(tell)
    why = os.read(ready, 1000)
    os.close(ready)
    status = _wait_for(init)
    if why:
        raise Refused(why.decode("utf-8", "replace"))
    os._exit(status)


def side_doors() -> list[str]:
    """Where a program could ask somebody outside to run something for it: user managers, containers, terminals."""
    user = f"/run/user/{os.getuid()}"
    doors = [f"{user}/systemd", f"{user}/bus", f"{user}/podman", f"{user}/docker.sock", f"/tmp/tmux-{os.getuid()}"]
    doors += ["/run/docker.sock", "/run/podman", "/run/containerd", "/run/systemd/private", "/run/screen"]
    return [door for door in doors if os.path.exists(door)]


def _cover(path: str) -> None:
    """Put an empty folder over a folder, nothing over a file."""
    if os.path.isdir(path):
        flags = _NOSUID | _NODEV | _NOEXEC | _RDONLY
        _call("mount", b"none", os.fsencode(path), b"tmpfs", flags, b"mode=555,size=4k")
    else:
        _call("mount", b"/dev/null", os.fsencode(path), None, _BIND, None)


def _unshare() -> None:
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        with contextlib.suppress(Refused):
            return _call("unshare", _NEWNS | _NEWPID)
    _call("unshare", _NEWUSER | _NEWNS | _NEWPID)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _be_init(command: list[str], tell: int, mask: Iterable[int]) -> NoReturn:
    """Process 1 of the namespace: sees to /proc, starts the program, ends as it ends, and all that is left with it."""
    _die_with_parent()
    try:
        _hide_processes()
        _drop_power()
        program = os.fork()
        if program == 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            _exec(command)
    except OSError as error:
        os.write(tell, str(error).encode())
        os._exit(CANNOT)
    os.close(tell)
    os._exit(_wait_for(program))


def _hide_processes() -> None:
    """A /proc of this namespace. Where that may not be mounted, Landlock forbids looking into other processes."""
    try:
        _call("mount", b"proc", b"/proc", b"proc", _NOSUID | _NODEV | _NOEXEC, None)
    except Refused:
        _landlock(_MAKE_CHAR | _MAKE_BLOCK, ())
        return
    if os.getuid() == 0:
        for place in (b"/proc/sys", b"/sys"):  # where root could have the machine run something outside
            with contextlib.suppress(Refused):
                _call("mount", place, place, None, _BIND | _REC, None)
                _call("mount", None, place, None, _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV | _NOEXEC, None)


def _drop_power() -> None:
    _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    for capability in DANGEROUS.values():
        with contextlib.suppress(Refused):
            _call("prctl", _CAPBSET_DROP, capability, 0, 0, 0)


def _die_with_parent() -> None:
    parent = os.getppid()
    _call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(CANNOT)


def _wait_for(child: int) -> int:
    """Wait until `child` has ended, and for strays. Its status as shells tell it."""
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


# ── landlock ──


def _forbid(hidden: Path) -> None:
    """Allow what stands beside each folder on the way to `hidden`. All else stays forbidden: `hidden`."""
    if Path.cwd().is_relative_to(hidden):
        raise Refused(f"the current folder {Path.cwd()} is inside it")
    # Listing folders stays free everywhere: a right to list `/` would be one to list all below.
    rights = _all_rights() & ~_READ_DIR
    beside = [other for place in (hidden, *hidden.parents[:-1]) for other in place.parent.iterdir() if other != place]
    _drop_power()
    _landlock(rights, beside)


def _all_rights() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        raise Refused(ctypes.get_errno(), "Landlock is not switched on")
    return max(rights for first, rights in _RIGHTS_BY_ABI.items() if first <= version)


def _landlock(handled: int, allowed: Iterable[Path]) -> None:
    """Forbid `handled` everywhere but below `allowed`. It also forbids to look into, or signal, processes outside."""
    libc = ctypes.CDLL(None, use_errno=True)
    attributes = (ctypes.c_uint64 * 3)(handled, 0, _SCOPE_SIGNAL)
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.sizeof(attributes), 0)
    if ruleset < 0:  # older than version 6: it cannot keep signals in
        ruleset = libc.syscall(_CREATE_RULESET, attributes, 8, 0)
    if ruleset < 0:
        raise Refused(ctypes.get_errno(), "Landlock is not to be had")
    for path in allowed:
        with contextlib.suppress(OSError):  # what we cannot open, or what has gone, the program may do without
            _allow(libc, ruleset, handled, path)
    _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
        raise Refused(ctypes.get_errno(), "Landlock refused")
    os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, handled: int, path: Path) -> None:
    class Beneath(ctypes.Structure):
        _pack_ = 1
        _fields_ = (("rights", ctypes.c_uint64), ("folder", ctypes.c_int32))

    if path.is_symlink():
        return
    folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights = handled if path.is_dir() else handled & _ON_FILES
        libc.syscall(_ADD_RULE, ruleset, 1, ctypes.byref(Beneath(rights, folder)), 0)
    finally:
        os.close(folder)


if __name__ == "__main__":
    main(sys.argv[1:])

"""The program of a worker process: loads one file of `@tool` functions and runs them, one request at a time.

    kernel ─▶ keeper ─▶ (init of a pid namespace) ─▶ the tools

The keeper outlives whatever the tools do, and ends all that they started: when they end, when it is told to with
SIGTERM, and when the kernel dies. It says by its exit status how they ended.
Requests come over a socket of their own, so what a tool prints cannot be mistaken for an answer. Knows the manifests
and nothing else of the kernel; it is never imported by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.util
import inspect
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from aios.kernel.tool import scratch

_PDEATHSIG, _SUBREAPER, _NO_NEW_PRIVS = 1, 36, 38
_NEWUSER, _NEWPID = 0x10000000, 0x20000000
_LIMITS = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": 1 << 30, "RLIMIT_NOFILE": 1024}
_LEAST_MEMORY = 1 << 30
_HEARD = {signal.SIGTERM, signal.SIGCHLD}
"""What the keeper waits for. Blocked all the while, so that neither is lost nor comes between two other steps."""
_RUNNING = -1
Functions = dict[str, Callable[..., Any]]


def main() -> NoReturn:
    """`host LINK MODULE FOLDER OWNER`: become the keeper, and serve from a child.

    LINK is the socket to the kernel; OWNER the descriptor that keeps FOLDER, the worker's own, from being swept. The
    keeper takes FOLDER away whenever it ends, once nobody is left to write in it.
    `host probe` only tells by its exit status whether a worker gets a namespace here.
    """
    if sys.argv[1:] == ["probe"]:
        os._exit(0 if _unshare_pids() else 1)
    link, path, folder, owner = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    signal.signal(signal.SIGCHLD, lambda *_: None)  # where it is ignored, it is not kept for `sigwait` everywhere
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    _prctl(_PDEATHSIG, signal.SIGTERM)
    # A kernel that died before this line sends no signal any more, but its end of the link is closed.
    status = 1 if _is_closed(link) else _keep(link, path, owner)
    scratch.remove(folder)
    os._exit(status)


def _keep(link: int, path: Path, owner: int) -> int:
    """Serve from a child until that has ended, and all that it started. Its status."""
    _prctl(_NO_NEW_PRIVS, 1)
    _prctl(_SUBREAPER, 1)
    _limit()
    is_contained = _unshare_pids()
    child = os.fork()
    if child == 0:
        os.close(owner)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
        _prctl(_PDEATHSIG, signal.SIGKILL)
        if is_contained:
            _be_init(link)
        _serve(link, path, is_contained)
    os.close(link)
    status = _watch(child)
    _kill_children()
    return status


def _is_closed(link: int) -> bool:
    """Whether the other end has gone."""
    poll = select.poll()
    poll.register(link, 0)
    return bool(poll.poll(0))


def _watch(child: int) -> int:
    """Wait until `child` has ended; its status. A SIGTERM, as when the kernel dies, is the end of it."""
    status = _RUNNING
    while status == _RUNNING:
        if signal.sigwait(_HEARD) == signal.SIGTERM:
            os.kill(child, signal.SIGKILL)
        status = _reap(child, os.WNOHANG)
    return status


def _be_init(link: int) -> None:
    """Become process 1 of the namespace, and return in its child. When process 1 ends, all in there are killed."""
    child = os.fork()
    if child:
        os.close(link)
        os._exit(_reap(child))


def _reap(child: int, options: int = 0) -> int:
    """Take in strays that fell to this process, up to `child`: its status as shells tell it, or that it runs."""
    while True:
        pid, status = os.waitpid(-1, options)
        if pid == 0:
            return _RUNNING
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _kill_children() -> None:
    """Without a namespace: strays fall to the keeper one generation after the other."""
    while True:
        try:
            pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            for pid in pids:
                os.kill(int(pid), signal.SIGKILL)
            os.wait()
        except OSError:
            return


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _limit() -> None:
    import resource

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name, value in {**_LIMITS, "RLIMIT_DATA": max(_LEAST_MEMORY, memory // 2)}.items():
        which = getattr(resource, name)
        _, hard = resource.getrlimit(which)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(which, (value, value))


def _unshare_pids() -> bool:
    """Give children a pid namespace of their own, where this machine lets us. Whether it did."""
    if sys.platform != "linux":
        return False
    uid, gid = os.getuid(), os.getgid()
    flags = _NEWPID if uid == 0 else _NEWPID | _NEWUSER
    if ctypes.CDLL(None).unshare(flags) != 0:
        return False
    if uid != 0:
        with contextlib.suppress(OSError):
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    return True


# ── the tools' own process: what only it needs is imported only there, for a keeper is to be small ──


def _serve(link: int, path: Path, is_contained: bool) -> NoReturn:
    from aios.kernel.tool.frames import PREFIX, Hello, Here, Request, pack, size_of, unpack
    from aios.sdk.tool import manifest_of

    os.set_inheritable(link, False)
    with socket.socket(fileno=link) as kernel:
        kernel.sendall(pack(Here(is_contained)))
        functions, error = _load(path)
        me = os.getpid()
        kernel.sendall(pack(Hello([manifest_of(function) for function in functions.values()], error)))
        while prefix := _receive(kernel, PREFIX):
            request = unpack(_receive(kernel, size_of(prefix)), Request)
            reply = _answer(functions, request)
            if os.getpid() != me:
                os._exit(0)  # the tool forked, and this is the copy: the kernel has one to talk to
            kernel.sendall(pack(reply))
    os._exit(0)  # threads that a tool left behind do not hold the process


def _receive(kernel: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes; b"" when the kernel has gone."""
    got = bytearray()
    while len(got) < size:
        piece = kernel.recv(min(size - len(got), 1 << 20))
        if not piece:
            return b""
        got += piece
    return bytes(got)


def _load(path: Path) -> tuple[Functions, str | None]:
    """The `@tool` functions of the file by name, or what is wrong with it."""
    from aios.kernel.tool.base import words_of
    from aios.sdk.tool import is_tool, manifest_of

    module = _module_of(path)
    try:
        assert module.__spec__ is not None
        assert module.__spec__.loader is not None
        module.__spec__.loader.exec_module(module)
    except BaseException as error:  # noqa: BLE001 - foreign code, in a process of its own
        return {}, f"{path.name} cannot be loaded: {words_of(error)}{_place(error, path)}"
    functions: Functions = {}
    for thing in vars(module).values():
        if is_tool(thing):
            functions.setdefault(manifest_of(thing).name, thing)
    return functions, None if functions else f"{path.name} has no function with @tool"


def _module_of(path: Path) -> ModuleType:
    sys.path.insert(0, str(path.parent))
    name = f"aios_tools_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise SystemExit(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    return module


def _answer(functions: Functions, request: Any) -> Any:
    from aios.kernel.tool.base import error_of, result_of, words_of
    from aios.kernel.tool.frames import Reply
    from aios.sdk.tool import bind

    try:
        function = functions[request.tool]
        value = function(**bind(function, request.arguments))
        result = result_of(asyncio.run(value) if inspect.iscoroutine(value) else value)
    except BaseException as error:  # noqa: BLE001 - foreign code, in a process of its own
        traceback.print_exc()
        result = error_of(words_of(error))
    return Reply(request.id, result.content, result.is_error, result.data)


def _place(error: BaseException, path: Path) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f" (line {frames[-1].lineno})" if frames else ""


if __name__ == "__main__":
    main()

"""Threads that read a process's first snapshots or answers at once, as after a restart: msgspec crashes where two
threads come upon a type for the first time together."""

from __future__ import annotations

import subprocess
import sys

FIRST_OF_ALL = """
import importlib, sys, threading
from aios.kernel.context import pack
from aios.kernel.context.base import About
from aios.kernel.llm.local import snapshot
from aios.kernel.llm.local.sequence import Spec

sys.setswitchinterval(1e-6)
packed = b"".join(pack.pack("text", About("k", "c", "f", "v"), b"{}", []))

def read():
    gate.wait()
    try:
        snapshot.sequence_of("a", state, None)
    except snapshot.SnapshotError:
        pass
    pack.unpack(packed)

for _ in range(60):
    importlib.reload(pack)
    importlib.reload(snapshot)
    state = snapshot.msgspec.json.encode(snapshot._State(Spec((1, 2), max_tokens=3), 2, 0, 1, {"state": "1"}, [], []))
    gate = threading.Barrier(8)
    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_threads_that_read_snapshots_for_the_first_time_do_not_crash_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_OF_ALL], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


CALLS = """
import importlib, sys, threading, msgspec
from aios.abi import messages, calls

sys.setswitchinterval(1e-6)
answer = b'{"message": {"role": "assistant"}, "finish_reason": "stop", "usage": {}, "model": "m", "core": "c"}'

def read():
    gate.wait()
    msgspec.json.decode(answer, type=calls.Generation)

for _ in range(60):
    importlib.reload(messages)
    importlib.reload(calls)
    calls.know_types()
    gate = threading.Barrier(8)
    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_threads_that_read_answers_for_the_first_time_do_not_crash_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", CALLS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

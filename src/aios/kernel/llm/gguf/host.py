"""The program of a gguf core's process: one llama.cpp server, for as long as the kernel lives. Never imported by it.

It is told what to serve in one line of JSON over a socket of its own, says where it listens in another, and ends when
the kernel's end of that socket closes: however the kernel ended.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import threading
from typing import Any, NoReturn

_PDEATHSIG = 1
CPU_BATCH = 64
"""Tokens of a prompt that are read at once on a processor, which is as fast with these as with more."""


def main() -> NoReturn:
    """`host LINK`: LINK is the descriptor of the socket to the kernel."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    link = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(link.fileno(), False)
    with link.makefile("rb") as lines:
        line = lines.readline()
        if not line:
            os._exit(0)
        threading.Thread(target=_end_with, args=(link,), daemon=True).start()
        server, hello = _serve(json.loads(line))
        link.sendall(json.dumps(hello).encode() + b"\n")
        threading.Event().wait()
    del server
    os._exit(0)


def _end_with(link: socket.socket) -> None:
    """The kernel says nothing more: what comes is the end of it. Nothing here is worth an orderly end."""
    link.recv(1)
    os._exit(0)


def _serve(order: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The server, which lives as long as it is held, and what the kernel is told of it."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = order["path"]
    params.n_parallel = order["slots"]
    params.n_ctx = order["slots"] * order["context"]
    params.kv_unified = False  # each slot has its own room, and its bits do not depend on what the others hold
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.api_keys = [order["key"]]
    params.slot_save_path = order["folder"]
    params.endpoint_slots = True
    params.cache_ram_mib = 0  # no second store of prompts beside the slots: the kernel says who shares what
    params.ctx_shift = False  # nothing is dropped from a conversation in silence
    if pooling := order.get("pooling"):
        params.embedding = True
        params.n_batch = params.n_ubatch = max(order["context"], order["slots"])  # a text is read in one piece
        if pooling == "mean":
            params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    elif not _has_accelerator(xllamacpp):
        # Between two batches of a prompt the server looks whether anybody still waits, and lets the others go on.
        params.n_batch = params.n_ubatch = max(CPU_BATCH, order["slots"])  # all slots may say a token at once
    params.ui = False
    params.verbosity = 1  # faults only
    for threads in (params.cpuparams, params.cpuparams_batch):
        threads.n_threads = order["threads"]
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        sys.exit(1)  # why was printed, or will be at an orderly end, and the kernel reads that
    return server, {"address": server.listening_address, "version": xllamacpp.__version__}


def _has_accelerator(xllamacpp: Any) -> bool:
    """Whether llama.cpp has found anything to compute on but the processor."""
    processor = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
    return any(device["type"] != processor for device in xllamacpp.get_device_info())


if __name__ == "__main__":
    main()

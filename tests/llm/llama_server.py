"""A llama-server as people start one: of xllamacpp, in a process of its own, on a free loopback port without a key."""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PROGRAM = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_parallel, params.n_ctx, params.port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), 0
params.hostnames, params.verbosity, params.kv_unified = ["127.0.0.1"], 0, False
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@asynccontextmanager
async def llama_server(model: Path, *, slots: int = 2, context: int = 512) -> AsyncIterator[str]:
    """Its address, as `base_url` wants it."""
    order = (sys.executable, "-c", PROGRAM, str(model), str(slots), str(slots * context))
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.DEVNULL}
    process = await asyncio.create_subprocess_exec(*order, **pipes)
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip() + "/v1"
    finally:
        process.kill()
        await process.wait()


def slots_of(url: str, key: str | None = None) -> list[dict[str, Any]]:
    """What the server says of its slots."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    connection.request("GET", "/slots", headers={"authorization": f"Bearer {key}"} if key else {})
    said: list[dict[str, Any]] = json.loads(connection.getresponse().read())
    connection.close()
    return said

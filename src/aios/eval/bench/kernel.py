"""`aios bench kernel`: what a call costs, in process and through HTTP, streamed, for a thousand agents, and at rest.

Costs are CPU time of the process measured, all its threads, per call; what is compared is measured in turn, round by
round, and the median counts, since machines are shared. The model is a stub that answers at once. Asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from aios.abi.calls import AccCheck, Args, Entries, LLMGenerate, MemList
from aios.abi.messages import Generation, Message, Usage
from aios.kernel import Kernel, Principal
from aios.testing import ScriptedCore, booted, principal

from .load import ask_all, request

CONNECTIONS = 64
TOKENS = (1, 129)
"""Lengths of the two streams whose difference is the cost of a token."""
GAP_MS = 3.0
AGENTS = (250, 500, 1000)
CALLS = 5


def main(json: bool, quick: bool) -> dict[str, Any]:
    """Measure all of it; print it unless the caller wants it as it is."""
    figures: dict[str, Any] = uvloop.run(measure(quick=quick))
    if not json:
        print(table(figures))
    return figures


async def measure(*, quick: bool = False) -> dict[str, Any]:
    rounds, number = (2, 512) if quick else (5, 3072)
    figures: dict[str, Any] = {"rounds": rounds, "in_process": await in_process(rounds, number)}
    if sys.platform != "linux":
        return figures | {"note": "the rest needs Linux, where one process may read another's CPU time"}
    figures["http"] = await over_http(rounds, number)
    figures["stream"] = await streaming(rounds, 64 if quick else 192)
    figures["agents"] = await many_agents(tuple(n // 10 for n in AGENTS) if quick else AGENTS)
    figures["idle"] = await at_rest()
    return figures


# ── in process ──


class Nothing:
    """A module whose calls are done when they begin: what is left is the kernel's own work."""

    def check(self, call: Any) -> None:
        pass

    def free(self) -> tuple[str, ...]:
        return ("nothing",)

    def fits(self, call: Any, slot: str) -> bool:
        return True

    def take(self, call: Any, slot: str) -> None:
        pass

    release = take

    async def run(self, call: Any, slot: str, quantum: int | None) -> Entries:
        return Entries(entries=[])

    def drop(self, call: Any) -> None:
        pass


class Instant(ScriptedCore):
    """A core that has answered before it was asked."""

    async def run(self, asked: Any, quantum: int | None) -> Generation:
        return Generation(Message("assistant", "ok"), "stop", Usage.of(1, 1), self.model, self.name, asked.args.seed)


async def in_process(rounds: int, number: int) -> dict[str, float]:
    """µs of CPU from `submit` to DONE: an empty call through queue and worker, one that is journalled as well (a
    generation that takes no time), and one that the kernel answers itself."""
    cases: dict[str, Args] = {
        "mem_list": MemList(),
        "llm_generate": LLMGenerate(messages=[Message("user", "hi")], seed=1),
        "acc_check": AccCheck(call="mem_list"),
    }
    labels = {"mem_list": "empty", "llm_generate": "journalled", "acc_check": "in_kernel"}
    seen: dict[str, list[float]] = {name: [] for name in cases}
    async with booted(cores={"instant": Instant(name="instant", slots=CONNECTIONS)}) as kernel:
        who = principal(kernel)
        kernel.queues["memory"].runner = Nothing()
        for _ in range(rounds + 1):
            for name, args in cases.items():
                seen[name].append(await _cost_in_process(kernel, who, name, args, number))
    return {f"{labels[name]}_us": round(statistics.median(costs[1:]), 1) for name, costs in seen.items()}


async def _cost_in_process(kernel: Kernel, who: Principal, name: str, args: Args, number: int) -> float:
    before = time.process_time()
    for _ in range(number // CONNECTIONS):
        calls = [kernel.submit(who, name, args) for _ in range(CONNECTIONS)]
        for call in calls:
            assert call.future is not None
            await call.future
    return (time.process_time() - before) / (number // CONNECTIONS * CONNECTIONS) * 1e6


# ── processes to measure ──


@dataclass
class Measured:
    """A server in a process of its own."""

    pid: int
    port: int
    key: str = ""
    started_s: float = 0.0

    def cpu(self) -> float:
        """Seconds of CPU that it has used, all threads. (Linux gives each process a clock; this is its number.)"""
        return time.clock_gettime((~self.pid << 3) | 2)

    def rss(self) -> int:
        """Bytes of memory it holds."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def cost(self, work: Callable[[], Awaitable[None]], number: int) -> float:
        """µs of its CPU for each of `number` things that `work` makes it do."""
        before = self.cpu()
        await work()
        return (self.cpu() - before) / number * 1e6


@contextlib.asynccontextmanager
async def helper(*arguments: str) -> AsyncIterator[Measured]:
    """One of our servers."""
    command = (sys.executable, "-m", "aios.eval.bench.servers", *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield Measured(process.pid, int(await process.stdout.readline()))
    finally:
        process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def kernel_up(config: str) -> AsyncIterator[Measured]:
    """`aios up` with a home of its own, ready to be asked."""
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as home:
        (Path(home) / "aios.toml").write_text(config)
        port = _free_port()
        begun = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from aios.cli.main import main; main()", "up", "--port", str(port)),
            env={**os.environ, "AIOS_HOME": home},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await _until_ready(port, process)
            yield Measured(process.pid, port, (Path(home) / "admin.key").read_text().strip(), time.monotonic() - begun)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _until_ready(port: int, process: asyncio.subprocess.Process) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        while process.returncode is None:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.01)
    raise RuntimeError(f"'aios up' ended with code {process.returncode} before it was ready")


def _config(stub: Measured) -> str:
    core = f'[[core]]\nname = "stub"\nkind = "openai"\nbase_url = "http://127.0.0.1:{stub.port}/v1"\nslots = 256\n'
    return f'[router]\ndefault = "stub"\n{core}'


# ── through HTTP ──


async def over_http(rounds: int, number: int) -> dict[str, float]:
    """µs of CPU a request at 64 connections: the kernel with key, scheduling, journal and accounting, and a plain
    proxy in front of the same stub."""
    seen: dict[str, list[float]] = {"proxy": [], "kernel": []}
    times = number // CONNECTIONS
    async with (
        helper("stub", "1", "0") as stub,
        helper("proxy", str(stub.port)) as proxy,
        kernel_up(_config(stub)) as kernel,
    ):
        for _ in range(rounds + 1):
            for name, server in (("proxy", proxy), ("kernel", kernel)):
                asks = [request(server.port, server.key)] * CONNECTIONS
                seen[name].append(await server.cost(partial(ask_all, server.port, asks, times), number))
    ratio = statistics.median(k / p for k, p in zip(seen["kernel"][1:], seen["proxy"][1:], strict=True))
    costs = {f"{name}_us": round(statistics.median(each[1:]), 1) for name, each in seen.items()}
    return {**costs, "ratio": round(ratio, 2), "connections": CONNECTIONS}


async def streaming(rounds: int, number: int) -> dict[str, float]:
    """µs of CPU for each streamed token passed through, each in a packet of its own; beside a bare pipe's, in turn."""
    short, long = TOKENS
    async with (
        helper("stub", str(short), str(GAP_MS)) as few,
        helper("stub", str(long), str(GAP_MS)) as many,
        kernel_up(_config(few)) as brief,
        kernel_up(_config(many)) as lengthy,
        helper("pipe", str(few.port)) as brief_pipe,
        helper("pipe", str(many.port)) as lengthy_pipe,
    ):
        seen: dict[str, list[float]] = {"pipe": [], "kernel": []}
        for _ in range(rounds + 1):
            for name, pair in (("pipe", (brief_pipe, lengthy_pipe)), ("kernel", (brief, lengthy))):
                each = [await _stream_cost(server, number) for server in pair]
                seen[name].append((each[1] - each[0]) / (long - short))
    ratio = statistics.median(k / p for k, p in zip(seen["kernel"][1:], seen["pipe"][1:], strict=True))
    token, pipe = (round(statistics.median(seen[name][1:]), 1) for name in ("kernel", "pipe"))
    return {"token_us": token, "pipe_us": pipe, "ratio": round(ratio, 2), "tokens": long - short, "gap_ms": GAP_MS}


async def _stream_cost(server: Measured, number: int) -> float:
    asks = [request(server.port, server.key, is_streamed=True)] * CONNECTIONS
    return await server.cost(lambda: ask_all(server.port, asks, number // CONNECTIONS), number)


# ── a thousand agents ──


async def many_agents(sizes: tuple[int, ...]) -> dict[str, Any]:
    """So many agents at once, each a process with a key of its own, five calls each, on a fresh kernel each."""
    return {str(size): await _agents(size) for size in sizes}


async def _agents(size: int) -> dict[str, float]:
    async with helper("stub", "1", "0") as stub, kernel_up(_config(stub)) as kernel:
        await ask_all(kernel.port, [request(kernel.port, kernel.key)] * CONNECTIONS, CALLS)
        rss = kernel.rss()
        keys = await _spawn(kernel, size)
        cpu, begun = kernel.cpu(), time.monotonic()
        await ask_all(kernel.port, [request(kernel.port, key) for key in keys], CALLS)
        seconds = time.monotonic() - begun
        cpu_us = (kernel.cpu() - cpu) / (size * CALLS) * 1e6
        grown = (kernel.rss() - rss) / size / 1024
    return {"seconds": round(seconds, 2), "cpu_us_per_call": round(cpu_us, 1), "rss_kib_per_agent": round(grown, 1)}


async def _spawn(kernel: Measured, size: int) -> list[str]:
    headers = {"authorization": f"Bearer {kernel.key}"}
    url = f"http://127.0.0.1:{kernel.port}/aios/v1/calls/proc_spawn"
    keys = []
    async with aiohttp.ClientSession(headers=headers) as session:
        for number in range(size):
            async with session.post(url, json={"agent": f"agent-{number}"}) as response:
                keys.append((await response.json())["key"])
    return keys


async def at_rest() -> dict[str, float]:
    """A kernel with its own small model loaded, and nothing to do."""
    async with kernel_up("") as kernel:
        cpu = kernel.cpu()
        await asyncio.sleep(1.0)
        return {
            "start_s": round(kernel.started_s, 2),
            "start_cpu_s": round(cpu, 2),
            "rss_mib": round(kernel.rss() / (1 << 20), 1),
        }


# ── for people ──


def table(figures: dict[str, Any]) -> str:
    lines = [f"{name:<24} {value:>8} µs of CPU" for name, value in figures["in_process"].items()]
    if "http" in figures:
        http, stream, idle = figures["http"], figures["stream"], figures["idle"]
        lines += [
            f"{'through HTTP':<24} {http['kernel_us']:>8} µs, {http['ratio']} of a plain proxy's {http['proxy_us']} µs",
            f"{'streamed token':<24} {stream['token_us']:>8} µs, {stream['ratio']} of a bare pipe's"
            f" {stream['pipe_us']} µs",
        ]
        lines += [
            f"{size + ' agents':<24} {each['seconds']:>8} s, {each['cpu_us_per_call']} µs a call,"
            f" {each['rss_kib_per_agent']} KiB an agent"
            for size, each in figures["agents"].items()
        ]
        lines.append(f"{'idle':<24} {idle['rss_mib']:>8} MiB, up in {idle['start_s']} s (CPU {idle['start_cpu_s']} s)")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    result = main(given.json, given.quick)
    if given.json:
        print(json.dumps(result))

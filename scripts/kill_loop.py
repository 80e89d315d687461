"""Kill a serving kernel with -9 again and again under mixed load, and audit what it promised.

Clients write memory and files, ask the model (whole and streamed) and run tools with side effects, with and without an
Idempotency-Key. Whatever has a key is repeated until it is answered. At the end:

* every call with a key was answered, and answers the same each time it is asked again, across all restarts;
* what a stream had said before its kernel died is how the answer begins;
* entries and versions that were acknowledged are there, each once;
* a tool that may not run twice ran at most once, and exactly once when it was answered;
* the store passes SQLite's integrity check after each kill.

    scripts/kill_loop.py --kills 200 --seed 1            the packaged model behind `aios up`
    scripts/kill_loop.py --kills 5 --core scripted       a core that needs no weights
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import apsw

TOOLS = '''
import os, time
from aios import tool

@tool
def pay(token: str) -> str:
    """Pay a bill, once.

    Args:
        token: Which bill.
    """
    time.sleep(0.005)
    with open({ledger!r}, "a") as ledger:
        ledger.write(token + "\\n")
    time.sleep(0.005)
    return "paid " + token

@tool(effect="write", idempotent=True)
def stamp(token: str) -> str:
    """Stamp a letter; a second stamp on it changes nothing.

    Args:
        token: Which letter.
    """
    with open(os.path.join({stamps!r}, token), "w"):
        return "stamped " + token
'''

CONFIG = """
[server]
port = {port}
[scheduler]
quantum = 4
[journal]
mode = "{mode}"
[router]
default = "{core}"
[[core]]
name = "{core}"
kind = "nano"
slots = 8
[[tool]]
module = "{tools}"
max_instances = 2
"""


MAX_ANSWERS = 40
"""A kernel lives for fewer answers than this."""


# ── the kernel under test ──


class Server:
    """A kernel in a process of its own, on one home and one port."""

    def __init__(self, home: Path, core: str, mode: str) -> None:
        self.home, self.core, self.mode = home, core, mode
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.ledger, self.stamps = home / "ledger", home / "stamps"
        self.stamps.mkdir(parents=True)
        tools = home / "tools.py"
        tools.write_text(TOOLS.format(ledger=str(self.ledger), stamps=str(self.stamps)))
        text = CONFIG.format(port=self.port, mode=mode, core=core, tools=tools)
        (home / "aios.toml").write_text(text)
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.core == "scripted":
            command = [sys.executable, __file__, "--serve", str(self.home)]
        else:
            command = [sys.executable, "-m", "aios.cli.main", "up"]
        log = (self.home / "kernel.log").open("ab")
        environment = {**os.environ, "AIOS_HOME": str(self.home)}
        self.child = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        log.close()

    async def ready(self, session: aiohttp.ClientSession) -> None:
        for _ in range(1200):
            with contextlib.suppress(aiohttp.ClientError, OSError):
                async with session.get(f"{self.url}/readyz") as response:
                    if response.status == 200:
                        return
            assert self.child is not None
            if self.child.poll() is not None:
                raise SystemExit(f"the kernel does not start:\n{(self.home / 'kernel.log').read_text()[-3000:]}")
            await asyncio.sleep(0.05)
        raise SystemExit("the kernel was not ready within a minute")

    def kill(self) -> None:
        assert self.child is not None
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()

    def stop(self) -> int:
        assert self.child is not None
        self.child.terminate()
        return self.child.wait(60)

    def check_store(self) -> None:
        """SQLite's own check, on a copy, so that the kernel itself has to recover the log."""
        with tempfile.TemporaryDirectory() as folder:
            for path in self.home.glob("aios.db*"):
                if not path.name.endswith("-shm"):
                    shutil.copy(path, folder)
            store = apsw.Connection(str(Path(folder) / "aios.db"))
            found = store.execute("PRAGMA integrity_check").fetchall()
            store.close()
        assert found == [("ok",)], f"the store is damaged: {found}"


async def serve_scripted(home: Path) -> None:
    """The kernel of `--core scripted`: the answer is a function of the seed, a word a token."""
    from aios.gateway import bind, serve
    from aios.kernel import Kernel, load
    from aios.testing import ScriptedCore

    def words(args: Any) -> str:
        dice = random.Random(args.seed)
        return " ".join(dice.choice(["ab", "cd", "ef", "gh"]) for _ in range(args.max_tokens or 20))

    config = load(home / "aios.toml")
    core = ScriptedCore(words, slots=8)
    kernel = await Kernel.boot(config, home, cores={core.name: core})
    await serve(kernel, bind("127.0.0.1", config.server.port))


# ── what the clients do, and remember ──


@dataclass
class Call:
    """One call of a client. `key` is its Idempotency-Key; `answer` is (status, body) once there was one."""

    client: int
    name: str
    arguments: dict[str, Any]
    key: str | None
    token: str
    is_streamed: bool = False
    answer: tuple[int, Any] | None = None
    said: str = ""
    num_tries: int = 0


@dataclass
class Book:
    """All calls of a run, and what went wrong."""

    calls: list[Call] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def blame(self, call: Call, why: str) -> None:
        self.faults.append(f"{call.name} {call.token}: {why}")


KINDS = ["ask", "ask", "stream", "stream", "mem", "mem", "mem", "file", "file", "pay", "pay", "stamp"]


def new_call(client: int, number: int, dice: random.Random) -> Call:
    token = f"t{client}x{number}"
    kind = dice.choice(KINDS)
    key = f"key-{token}" if kind in ("stream", "stamp") or dice.random() < 0.7 else None
    if kind in ("ask", "stream"):
        messages = [{"role": "user", "content": f"Say something about {token}."}]
        asked = {"messages": messages, "temperature": 0.8, "max_tokens": 24, "min_tokens": 24}
        return Call(client, "llm_generate", asked, key, token, is_streamed=kind == "stream")
    if kind == "mem":
        return Call(client, "mem_write", {"content": f"remember {token}"}, key, token)
    if kind == "file":
        size = dice.choice([1, 100, 9000])
        written = {"path": f"folder/file{dice.randrange(3)}", "content": f"{token} " * size}
        return Call(client, "sto_write", written, key, token)
    return Call(client, "tool_run", {"name": kind, "arguments": {"token": token}}, key, token)


def is_final(status: int, body: Any) -> bool:
    """Whether a repeated call must get this answer again."""
    code = body.get("error", {}).get("code") if isinstance(body, dict) else None
    return (status < 500 and status != 429) or code == "outcome_unknown"


class Client:
    """Makes one call after the other with the key of one agent."""

    def __init__(self, number: int, api_key: str, server: Server, book: Book, dice: random.Random) -> None:
        self.number, self.server, self.book, self.dice = number, server, book, dice
        self.headers = {"authorization": f"Bearer {api_key}"}
        self.stopping = asyncio.Event()

    async def run(self, session: aiohttp.ClientSession) -> None:
        number = 0
        while not self.stopping.is_set():
            number += 1
            call = new_call(self.number, number, self.dice)
            self.book.calls.append(call)
            while True:
                if await self.attempt(session, call) or call.key is None:
                    break
                self.book.counts["repeats"] += 1
                await asyncio.sleep(0.1)
            await asyncio.sleep(self.dice.random() * 0.02)

    async def attempt(self, session: aiohttp.ClientSession, call: Call) -> bool:
        """Make the call; whether there is a final answer. Compares it with an earlier one."""
        headers = {**self.headers, **({"idempotency-key": call.key} if call.key else {})}
        headers["accept"] = "text/event-stream" if call.is_streamed else "application/json"
        call.num_tries += 1
        url = f"{self.server.url}/aios/v1/calls/{call.name}"
        try:
            async with session.post(url, json=call.arguments, headers=headers) as response:
                if call.is_streamed and response.status == 200:
                    status, body = await read_stream(response, call, self.book)
                else:
                    status, body = response.status, await response.json()
        except (aiohttp.ClientError, OSError, ValueError):
            return False
        if status >= 500:
            self.book.counts[f"{status} {body.get('error', {}).get('code')}"] += 1
        if not is_final(status, body):
            return False
        compare(call, (status, body), self.book)
        self.book.answered.set()
        return True


async def read_stream(response: aiohttp.ClientResponse, call: Call, book: Book) -> tuple[int, Any]:
    """The result at the end of a stream. What was said before must be how every other attempt begins."""
    said, event = "", ""
    try:
        async for line in response.content:
            text = line.decode().rstrip("\n")
            if text.startswith("event: "):
                event = text[7:]
            elif text.startswith("data: "):
                data = json.loads(text[6:])
                if event == "chunk":
                    said += data.get("text", "")
                elif event == "error":
                    return int(data["error"].get("status", 503)), data
                else:
                    return 200, data
    finally:
        common = min(len(said), len(call.said))
        if said[:common] != call.said[:common]:
            book.blame(call, f"a stream began {call.said[:60]!r} and then {said[:60]!r}")
        call.said = max(said, call.said, key=len)
    raise ValueError("the stream ended early")


def compare(call: Call, answer: tuple[int, Any], book: Book) -> None:
    if call.answer is None:
        call.answer = answer
        if call.is_streamed and answer[0] == 200:
            text = answer[1]["message"].get("content") or ""
            if not text.startswith(call.said):
                book.blame(call, f"the stream had said {call.said[:60]!r} and the answer is {text[:60]!r}")
    elif call.answer != answer:
        book.blame(call, f"was answered twice differently: {str(call.answer)[:200]} and {str(answer)[:200]}")


# ── the audit ──


async def audit(book: Book, clients: list[Client], session: aiohttp.ClientSession) -> None:
    """Ask everything again, and look at what the calls left behind."""
    for call in book.calls:
        if call.key is not None and not await clients[call.client].attempt(session, call):
            book.blame(call, f"is not answered after {call.num_tries} tries")
    server = clients[0].server
    ledger = Counter(server.ledger.read_text().split() if server.ledger.exists() else [])
    for call in book.calls:
        if call.name == "tool_run":
            audit_tool(call, ledger, server, book)
    for client in clients:
        await audit_memory(book, client, session)
        await audit_files(book, client, session)


def audit_tool(call: Call, ledger: Counter[str], server: Server, book: Book) -> None:
    status = call.answer[0] if call.answer else 0
    if call.arguments["name"] == "stamp":
        if status == 200 and not (server.stamps / call.token).exists():
            book.blame(call, "was answered and never ran")
        return
    count = ledger[call.token]
    if count > 1:
        book.blame(call, f"had its side effect {count} times")
    if status == 200 and count != 1:
        book.blame(call, f"was answered and had its side effect {count} times")
    if status >= 500:
        book.counts["outcome unknown"] += 1
        book.counts["outcome unknown, was done"] += count


async def ask(client: Client, session: aiohttp.ClientSession, name: str, arguments: dict[str, Any]) -> Any:
    url = f"{client.server.url}/aios/v1/calls/{name}"
    async with session.post(url, json=arguments, headers=client.headers) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def audit_memory(book: Book, client: Client, session: aiohttp.ClientSession) -> None:
    entries: list[dict[str, Any]] = []
    while page := (await ask(client, session, "mem_list", page_after(entries)))["entries"]:
        entries += page
    found = Counter(entry["content"] for entry in entries)
    by_id = {entry["id"]: entry["content"] for entry in entries}
    for call in book.calls:
        if call.name == "mem_write" and call.client == client.number:
            count = found[call.arguments["content"]]
            if count > 1 or (call.answer and count != 1):
                book.blame(call, f"is in memory {count} times")
            if call.answer and by_id.get(call.answer[1]["id"]) != call.arguments["content"]:
                book.blame(call, "is in memory under another id")


def page_after(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {"limit": 1000, **({"after": entries[-1]["id"]} if entries else {})}


async def audit_files(book: Book, client: Client, session: aiohttp.ClientSession) -> None:
    versions: dict[tuple[str, int], str] = {}
    for call in book.calls:
        if call.name == "sto_write" and call.client == client.number and call.answer:
            place = (call.answer[1]["path"], call.answer[1]["version"])
            if place in versions:
                book.blame(call, f"has the version of another write: {place}")
            versions[place] = call.arguments["content"]
            file = await ask(client, session, "sto_read", {"path": place[0], "version": place[1]})
            if file["content"] != call.arguments["content"]:
                book.blame(call, f"version {place} is not what was written")


# ── the loop ──


async def api_keys(server: Server, session: aiohttp.ClientSession, count: int) -> list[str]:
    """Keys of agents, and the last one of a process."""
    admin = {"authorization": f"Bearer {(server.home / 'admin.key').read_text().strip()}"}
    keys = []
    for n in range(count - 1):
        async with session.post(f"{server.url}/aios/v1/keys", json={"name": f"agent{n}"}, headers=admin) as response:
            keys.append((await response.json())["key"])
    async with session.post(
        f"{server.url}/aios/v1/calls/proc_spawn", json={"agent": "spawned"}, headers=admin
    ) as response:
        keys.append((await response.json())["key"])
    return keys


async def some_answers(book: Book, count: int) -> None:
    """Let the clients get `count` answers, so that a slow machine is under load too when its kernel dies."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            for _ in range(count):
                book.answered.clear()
                await book.answered.wait()


async def torment(server: Server, kills: int, book: Book, session: aiohttp.ClientSession, dice: random.Random) -> None:
    """Kill and restart, at any instant of a kernel's life: booting, recovering, busy."""
    started = time.monotonic()
    for n in range(1, kills + 1):
        if dice.random() < 0.9:
            await server.ready(session)
            book.counts["kills while serving"] += 1
            await some_answers(book, dice.randrange(MAX_ANSWERS))
        await asyncio.sleep(dice.random() * 0.05)
        server.kill()
        server.check_store()
        server.start()
        if n % 10 == 0 or n == kills:
            spent = time.monotonic() - started
            done = sum(call.answer is not None for call in book.calls)
            print(f"{n}/{kills} kills, {len(book.calls)} calls, {done} answered, {len(book.faults)} faults,"
                  f" {spent:.0f} s", flush=True)  # fmt: skip


async def run(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    dice = random.Random(options.seed)
    server, book = Server(home, options.core, options.mode), Book()
    server.start()
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        try:
            await server.ready(session)
            keys = await api_keys(server, session, options.clients)
            clients = [Client(n, key, server, book, random.Random(dice.random())) for n, key in enumerate(keys)]
            working = [asyncio.create_task(client.run(session)) for client in clients]
            await torment(server, options.kills, book, session, dice)
            await server.ready(session)
            for client in clients:
                client.stopping.set()
            await asyncio.wait_for(asyncio.gather(*working), 120)
            await audit(book, clients, session)
            code = server.stop()
            if code != 0:
                book.faults.append(f"the kernel ended with exit code {code} on SIGTERM")
            server.check_store()
        finally:
            if server.child is not None and server.child.poll() is None:
                server.kill()
    return report(book, options, home)


def report(book: Book, options: argparse.Namespace, home: Path) -> dict[str, Any]:
    keyed = [call for call in book.calls if call.key is not None]
    return {
        "kills": options.kills,
        "core": options.core,
        "mode": options.mode,
        "seed": options.seed,
        "calls": len(book.calls),
        "calls_with_key": len(keyed),
        "answered_with_key": sum(call.answer is not None for call in keyed),
        "answered_after_a_repeat": sum(call.num_tries > 2 for call in keyed),
        "by_call": dict(Counter(call.name for call in book.calls)),
        "counts": dict(book.counts),
        "store_bytes": (home / "aios.db").stat().st_size,
        "faults": len(book.faults),
        "first_faults": book.faults[:5],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--core", choices=["nano", "scripted"], default="nano")
    parser.add_argument("--mode", choices=["fast", "durable"], default="fast")
    parser.add_argument("--serve", metavar="HOME", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve_scripted(options.serve))
        return 0
    home = Path(tempfile.mkdtemp(prefix="aios-kills-"))
    outcome = asyncio.run(run(options, home))
    print(json.dumps(outcome))
    if outcome["faults"]:
        print(f"the home is kept: {home}", file=sys.stderr)
        return 1
    shutil.rmtree(home)
    return 0


if __name__ == "__main__":
    sys.exit(main())

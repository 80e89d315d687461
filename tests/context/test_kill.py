"""A real server is killed while generations lie on its disk: the next one goes on from there, with the same bytes."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.cli.command import aios, home_env, started

from aios.abi.calls import LLMGenerate
from aios.abi.messages import Generation, Message
from aios.kernel.config import parse
from aios.kernel.llm.folder import FolderCore
from aios.testing import booted, principal
from aios.testing.models import write_model

pytestmark = pytest.mark.anyio

AGENTS = 3
CONFIG = """
[scheduler]
policy = "rr"
quantum = 16

[context]
ram_bytes = 0

[[core]]
name = "tiny"
kind = "local"
path = "{path}"
slots = 1
kv_bytes = 1048576
prefix_bytes = 0
"""


def ask(n: int) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": "a" * 20 * (n + 1)}],
        "seed": n,
        "temperature": 0.8,
        "max_tokens": 500,
        "min_tokens": 500,
    }


async def solo(config: str) -> list[str]:
    core = FolderCore(parse(config).core[0])
    async with booted(cores=[core], policy="fifo") as kernel:
        answers: list[Generation] = []
        for n in range(AGENTS):
            asked = ask(n)
            messages = [Message(**message) for message in asked.pop("messages")]
            answers.append(
                await kernel.call(principal(kernel), "llm_generate", LLMGenerate(messages=messages, **asked))
            )
        return [answer.message.text() for answer in answers]


def begun(env: dict[str, str]) -> tuple[subprocess.Popen[str], str]:
    """A server, once it is ready."""
    up = started("up", "--port", "0", env=env)
    assert up.stderr is not None
    assert up.stderr.readline().startswith("AIOS ")
    return up, json.loads((Path(env["AIOS_HOME"]) / "kernel.json").read_text())["url"]


async def answer(session: aiohttp.ClientSession, url: str, key: str, n: int) -> str:
    headers = {"authorization": f"Bearer {key}", "idempotency-key": "k"}
    async with session.post(f"{url}/aios/v1/calls/llm_generate", json=ask(n), headers=headers) as response:
        found = await response.json()
        assert response.status == 200, found
        text: str = found["message"]["content"]
        return text


async def of_core(session: aiohttp.ClientSession, url: str, home: Path) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {(home / 'admin.key').read_text().strip()}"}
    async with session.get(f"{url}/aios/v1/cores", headers=headers) as response:
        (found,) = (await response.json())["cores"]
        detail: dict[str, Any] = found["detail"]
        return detail


async def test_killed_with_generations_on_its_disk_a_server_goes_on_from_there(tmp_path: Path) -> None:
    config = CONFIG.format(path=write_model(tmp_path / "model", "qwen2"))
    alone = await solo(config)
    env, home = home_env(tmp_path / "home", config), tmp_path / "home"
    up, url = begun(env)
    try:
        keys = [aios("keys", "new", f"agent{n}", env=env).stdout.strip() for n in range(AGENTS)]
        async with aiohttp.ClientSession() as session:
            asked = [asyncio.create_task(answer(session, url, keys[n], n)) for n in range(AGENTS)]
            while (await of_core(session, url, home))["suspended_disk"] < 2:
                pass
            up.send_signal(signal.SIGKILL)
            await asyncio.gather(*asked, return_exceptions=True)
        up.communicate()
        assert len(list((home / "swap" / "context").glob("*.swap"))) >= 1
        up, url = begun(env)
        async with aiohttp.ClientSession() as session:
            answers = await asyncio.gather(*(answer(session, url, keys[n], n) for n in range(AGENTS)))
            detail = await of_core(session, url, home)
        assert answers == alone
        assert detail["restores_disk"] >= 1
        assert detail["tokens"] < 500 * AGENTS, "what was on disk was not said again"
        assert aios("down", env=env).returncode == 0
        assert up.wait(60) == 0
    finally:
        up.kill()
        up.communicate()

"""Promise 2, nothing lost: what an agent on the packaged model was told, it knows after its kernel was killed."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from tests.cli.command import aios, home_env, started

from aios.agents import ReAct
from aios.eval.workload import Task, check, generate
from aios.sdk import AsyncClient

pytestmark = pytest.mark.anyio

NANO = """
[router]
default = "nano"

[[core]]
name = "nano"
kind = "nano"
"""
NUM_TASKS = 3


def tasks() -> list[Task]:
    """Facts with names and numbers that the model never saw, to be remembered and asked for later."""
    return list(generate("test", "seen", 0, NUM_TASKS, ["memory"]))


def begun(env: dict[str, str]) -> tuple[subprocess.Popen[str], str]:
    """A server, once it is ready."""
    up = started("up", "--port", "0", env=env)
    assert up.stderr is not None
    assert up.stderr.readline().startswith("AIOS ")
    return up, json.loads((Path(env["AIOS_HOME"]) / "kernel.json").read_text())["url"]


async def told(task: Task, prompt: str, url: str, key: str) -> str:
    """What the agent says to a prompt, in a conversation of its own."""
    async with AsyncClient(url, key) as client:
        agent = ReAct("agent", client, tools=task.tools, temperature=0.0, max_tokens=160)
        return (await agent.run(prompt)).text


async def test_an_agent_that_was_told_facts_answers_from_them_when_its_kernel_was_killed_in_between(
    tmp_path: Path,
) -> None:
    env = home_env(tmp_path / "home", NANO)
    up, url = begun(env)
    try:
        keys = [aios("keys", "new", f"agent{n}", env=env).stdout.strip() for n in range(NUM_TASKS + 1)]
        for task, key in zip(tasks(), keys, strict=False):
            for prompt in task.prompts[:-1]:
                await told(task, prompt, url, key)
        up.send_signal(signal.SIGKILL)
        up.communicate()
        up, url = begun(env)
        answers = [await told(task, task.prompts[-1], url, key) for task, key in zip(tasks(), keys, strict=False)]
        assert [check(task, [*task.prompts[:-1], said]) for task, said in zip(tasks(), answers, strict=True)] == [
            True
        ] * NUM_TASKS, answers
        stranger = await told(tasks()[0], tasks()[0].prompts[-1], url, keys[-1])
        assert not check(tasks()[0], [*tasks()[0].prompts[:-1], stranger]), "nobody else was told"
        assert aios("down", env=env).returncode == 0
        assert up.wait(60) == 0
    finally:
        up.kill()
        up.communicate()

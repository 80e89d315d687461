"""A program under the kernel: what ends it, and what does not."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.cli.command import FAR, aios, apart, home_env, started

from aios.abi.errors import AiosError, KernelFault, NotFound, Stopping, TimedOut, Unauthorized
from aios.cli import program, state
from aios.cli.confine import Confined, clean
from aios.kernel import load
from aios.sdk import AsyncClient, NoKernel


class Told:
    """A client whose kernel answers as told, one answer after the other."""

    def __init__(self, *answers: AiosError | str) -> None:
        self.left = list(answers)

    async def proc_wait(self, pid: int, timeout: float) -> Any:
        return self._next()

    async def proc_list(self) -> Any:
        return self._next()

    def _next(self) -> Any:
        answer = self.left.pop(0)
        if isinstance(answer, AiosError):
            raise answer
        return SimpleNamespace(state=answer)


class Patient(Told):
    """One whose process never ends."""

    async def proc_wait(self, pid: int, timeout: float) -> Any:
        await asyncio.Event().wait()


def unheard(admin: Told, own: Told) -> list[AiosError | str]:
    """Follow the process until it is taken to be over: what the kernel would have said after that."""
    asyncio.run(program._ended(cast(AsyncClient, admin), cast(AsyncClient, own), 7))
    return admin.left + own.left


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "AWAY", 0.0)


def test_a_kernel_in_trouble_does_not_end_a_program() -> None:
    trouble = [kind("no answer") for kind in (Stopping, NoKernel, TimedOut, Unauthorized, KernelFault)]
    assert unheard(Told("idle", *trouble, "idle", "ended", "not asked for"), Told()) == ["not asked for"]


def test_a_process_that_is_forgotten_is_over_when_its_key_is() -> None:
    gone = NotFound("there is no process 7")
    revoked = Unauthorized("this key is not known")
    own = Told("known again", NoKernel("gone"), revoked, "not asked for")
    assert unheard(Told(gone, gone, gone), own) == ["not asked for"]


def test_a_program_outlives_its_kernel_and_is_known_to_the_next(tmp_path: Path) -> None:
    env = home_env(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    running = None
    try:
        assert apart("up", "--detach", "--port", port, env=env).returncode == 0
        code = "import signal\nprint('ready', flush=True)\nsignal.pause()"
        running = started("run", "--unconfined", "--", sys.executable, "-c", code, env=env)
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        assert aios("down", env=env).returncode == 0
        assert apart("up", "--detach", "--port", port, env=env).returncode == 0
        pid = next(str(pid) for _ in range(1000) for pid in pids(env))
        assert running.poll() is None
        assert aios("kill", pid, env=env).returncode == 0
        assert "was killed; its program is ended" in running.communicate(timeout=60)[1]
    finally:
        aios("down", env=env)
        if running is not None:
            running.kill()
            running.communicate()


def test_keys_of_cores_are_kept_from_programs_also_when_the_kernel_has_another_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = FAR + 'api_key_env = "{}"\n'
    monkeypatch.setenv("AIOS_HOME", str(tmp_path))
    (tmp_path / "aios.toml").write_text(named.format("HOME_KEY"))
    other = tmp_path / "other.toml"
    other.write_text(named.format("OTHER_KEY"))
    state.write_state(tmp_path, "http://127.0.0.1:9", state.key_names(load(other)))
    monkeypatch.setattr(program, "confine", lambda argv, env, home, secrets: Confined(argv, clean(env, secrets), ""))
    monkeypatch.setattr(program, "undumpable", lambda: None)
    for name in ("HOME_KEY", "OTHER_KEY"):
        monkeypatch.setenv(name, f"{name}-12345678")
    look = ["sh", "-c", 'test -z "$HOME_KEY$OTHER_KEY"']
    admin = cast(AsyncClient, Patient())
    assert asyncio.run(program.run_program(admin, look, 7, "sk-aios-own", "looker", is_unconfined=False)) == 0


def pids(env: dict[str, str]) -> list[int]:
    return [process["pid"] for process in json.loads(aios("ps", "--json", env=env).stdout)]

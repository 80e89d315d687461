"""`aios up` and `aios down`: starting, saying why not, stopping."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from conftest import CLEAN, aios, apart, started

CONFIG = """
[router]
default = "far"

[[core]]
name = "far"
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A home with a core that costs nothing to load."""
    (tmp_path / "aios.toml").write_text(CONFIG)
    return {**CLEAN, "AIOS_HOME": str(tmp_path)}


def test_up_says_where_it_is_and_down_stops_it(env: dict[str, str], tmp_path: Path) -> None:
    up = started("up", "--port", "0", env=env)
    try:
        assert up.stderr is not None
        first = up.stderr.readline()
        assert first.startswith("AIOS ")
        url = json.loads((tmp_path / "kernel.json").read_text())["url"]
        assert url in first
        assert (tmp_path / "admin.key").stat().st_mode & 0o077 == 0
        assert aios("ps", "--json", env=env).stdout == "[]\n"
        second = apart("up", "--port", "0", env=env)
        assert second.returncode != 0
        assert "already runs on" in second.stderr
        assert second.stderr.count("\n") == 1
        assert aios("down", env=env).returncode == 0
        assert up.wait(60) == 0
        assert not (tmp_path / "kernel.json").exists()
    finally:
        up.kill()
        up.communicate()
    assert aios("down", env=env).returncode == 3


def test_up_warns_of_tools_that_are_missing_and_says_where_keys_of_cores_are(
    env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module_anywhere\n")
    other = tmp_path / "other.toml"
    other.write_text(CONFIG + 'api_key_env = "FAR_KEY"\n[[tool]]\nmodule = "broken.py"\n')
    done = apart("up", "--detach", "--port", "0", "--config", str(other), env={**env, "FAR_KEY": "sk-12345678"})
    try:
        assert done.returncode == 0, done.stderr
        warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
        assert len(warnings) == 1
        assert f"no tools from {tmp_path / 'broken.py'}: " in warnings[0]
        assert "no_such_module_anywhere" in warnings[0]
        assert json.loads((tmp_path / "kernel.json").read_text())["key_names"] == ["FAR_KEY"]
    finally:
        aios("down", env=env)


def test_a_detached_kernel_is_up_when_the_command_returns(env: dict[str, str]) -> None:
    done = apart("up", "--detach", "--port", "0", env=env)
    try:
        assert done.returncode == 0, done.stderr
        assert "is up at http://127.0.0.1:" in done.stderr
        assert aios("cores", env=env).returncode == 0
    finally:
        assert aios("down", env=env).returncode == 0


def test_a_taken_port_is_said_in_one_sentence(env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = aios("up", "--port", str(taken.getsockname()[1]), env=env)
    assert done.returncode == 6
    assert "is taken; stop what uses it, or choose another with --port" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("detach", [[], ["--detach"]])
def test_a_home_that_cannot_be_one_is_said_in_one_sentence(
    env: dict[str, str], tmp_path: Path, detach: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    done = apart("up", "--port", "0", *detach, env={**env, "AIOS_HOME": str(tmp_path / "file")})
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr


def test_a_wrong_configuration_names_the_key(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "aios.toml").write_text("[scheduler]\nquantums = 3\n")
    done = aios("up", env=env)
    assert done.returncode == 2
    assert "'quantums'; did you mean 'quantum'?" in done.stderr
    assert done.stderr.count("\n") == 1

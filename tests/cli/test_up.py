"""`aios up` and `aios down`: starting, saying why not, stopping."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.cli.command import CLEAN, FAR, OnTerminal, aios, apart, home_env, started

from aios.cli import state, up

ASK = "from aios import Client; Client(retries=0).llm_generate([{'role': 'user', 'content': 'hi'}])"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return home_env(tmp_path)


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
    other.write_text(FAR + 'api_key_env = "FAR_KEY"\n[[tool]]\nmodule = "broken.py"\n')
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
        assert "ctrl-C" not in done.stderr
        assert f"stop with 'AIOS_HOME={env['AIOS_HOME']} aios down'." in done.stderr
        assert aios("cores", env=env).returncode == 0
    finally:
        assert aios("down", env=env).returncode == 0


@pytest.mark.parametrize("options", [(), ("--detach",)])
def test_up_names_the_policies_when_it_does_not_know_the_one_asked_for(
    options: tuple[str, ...], env: dict[str, str]
) -> None:
    refused = aios("up", *options, "--policy", "lifo", env=env)
    assert refused.returncode == 2
    assert "there is no policy 'lifo'; did you mean 'fifo'?" in refused.stderr


def test_ctrl_c_says_what_is_waited_for_and_a_second_one_ends_at_once(env: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(100)
        config = FAR.replace("127.0.0.1:9", f"127.0.0.1:{silent.getsockname()[1]}")
        (tmp_path / "aios.toml").write_text(f"[server]\ndrain = 3600\n{config}")
        terminal = OnTerminal("up", "--port", "0", env=env)
        asking = None
        try:
            terminal.read_until("stop with ctrl-C or")
            asking = subprocess.Popen([sys.executable, "-c", ASK], env=env)
            upstream, _ = silent.accept()  # the call is there, and will never be answered
            terminal.press_ctrl_c()
            terminal.read_until("Finishing 1 call, for 3600 s at most; ctrl-C again ends now.")
            assert terminal.process.poll() is None
            terminal.press_ctrl_c()
            terminal.read_until("Ending now.")
            assert terminal.process.wait(60) in (0, 130)  # in order, or by force where that takes too long
            upstream.close()
        finally:
            terminal.close()
            if asking is not None:
                asking.kill()
                asking.wait()


def test_an_end_asked_for_twice_does_not_wait_for_a_module_that_hangs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(up.os, "_exit", ended.append)
    monkeypatch.setattr(up, "HURRY_SECONDS", 0.0)
    state.write_state(tmp_path, "http://127.0.0.1:1")
    before = set(threading.enumerate())
    up.stopping(SimpleNamespace(home=tmp_path), True)
    for timer in set(threading.enumerate()) - before:
        timer.join(60)
    assert ended == [130]
    assert state.read_state(tmp_path) is None


def test_a_core_whose_key_is_not_set_is_warned_of(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "aios.toml").write_text(FAR + 'api_key_env = "FAR_KEY"\n')
    done = apart("up", "-d", "--port", "0", env=env)
    try:
        (warning,) = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
        assert "core 'far' takes its key from FAR_KEY, which is not set" in warning
        assert "set FAR_KEY and start the kernel again" in warning
    finally:
        aios("down", env=env)


def test_a_taken_port_is_said_in_one_sentence(env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = aios("up", "--port", str(taken.getsockname()[1]), env=env)
    assert done.returncode == 6
    assert "is taken; stop what uses it, or choose another with --port" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["up"], ["up", "--detach"], ["down"], ["ps"], ["keys", "list"], ["config", "show"]])
def test_a_home_that_is_a_file_is_said_in_one_sentence(tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "file"
    file.write_text("")
    done = aios(*words, env={**CLEAN, "AIOS_HOME": str(file)})
    assert done.returncode == 2
    assert done.stderr == (
        f"aios {words[0]}: {file} cannot be the home: it is a file, not a folder; move that away, or set AIOS_HOME to "
        "a folder\n"
    )
    below = aios(*words, env={**CLEAN, "AIOS_HOME": str(file / "below")})
    assert f"{file}, on the way to it, is a file, not a folder" in below.stderr


def test_a_home_that_is_a_file_is_no_matter_for_a_kernel_that_is_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    env = {**CLEAN, "AIOS_HOME": str(tmp_path / "file"), "AIOS_URL": "http://127.0.0.1:1", "AIOS_KEY": "k"}
    assert aios("ps", env=env).returncode == 3


def test_a_wrong_configuration_names_the_key(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "aios.toml").write_text("[scheduler]\nquantums = 3\n")
    done = aios("up", env=env)
    assert done.returncode == 2
    assert "'quantums'; did you mean 'quantum'?" in done.stderr
    assert done.stderr.count("\n") == 1

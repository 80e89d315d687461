"""`aios doctor` and `aios tools` on machines with a fault: it is named, with what to do, in text and in JSON."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.cli.command import CLEAN, FAR, Served, aios, home_env

from aios.cli import doctor, state
from aios.kernel import load, parse
from aios.kernel.config import ToolSection
from aios.kernel.tool.module import Module

BROKEN = "from aios import tool\nimport no_such_package\n"
GOOD = "from aios import tool\n@tool\ndef hello() -> str:\n    return 'hi'\n"
WHY = "cannot be loaded: ModuleNotFoundError: No module named 'no_such_package' (line 2)"


def findings(what: str, text: str) -> list[tuple[str, str]]:
    """(level, detail) of each finding about `what` in doctor's JSON."""
    return [(each["level"], each["detail"]) for each in json.loads(text) if each["what"] == what]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("AIOS_URL", raising=False)
    monkeypatch.setenv("AIOS_HOME", str(tmp_path))
    return tmp_path


def test_a_home_that_is_a_file_or_below_one_fails_the_check(tmp_path: Path) -> None:
    file = tmp_path / "home"
    file.touch()
    for place in (file, file / "below"):
        done = aios("doctor", "--json", env={**CLEAN, "AIOS_HOME": str(place)})
        ((level, detail),) = findings("home", done.stdout)
        assert (done.returncode, level) == (1, "bad")
        assert detail.startswith(f"{place} cannot be the home: ")
        assert "is a file, not a folder; move that away" in detail


def test_a_file_that_is_named_is_examined_instead_of_the_homes(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(FAR)
    env = home_env(tmp_path, "[scheduler]\nquantums = 3\n")
    own, named = (aios("doctor", "--json", *words, env=env).stdout for words in ((), ("--config", str(other))))
    ((level, detail),) = findings("configuration", own)
    assert (level, "did you mean 'quantum'?" in detail, findings("core far", own)) == ("bad", True, [])
    assert findings("configuration", named) == [("ok", str(other))]
    assert [level for level, _ in findings("core far", named)] == ["bad"]  # nobody listens there
    assert (
        json.loads(aios("config", "show", "--json", "--config", str(other), env=env).stdout)["core"][0]["name"] == "far"
    )


def test_what_a_running_kernel_was_started_with_is_the_configuration_in_use(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = home / "other.toml"
    state.write_state(home, "http://127.0.0.1:9", config=other)
    assert state.config_in_use(None) is None  # it has ended
    monkeypatch.setattr(state, "is_running", lambda home: True)
    assert state.config_in_use(None) == other
    assert state.config_in_use(home / "given.toml") == home / "given.toml"


@pytest.mark.parametrize("is_made", [True, False])
@pytest.mark.parametrize(
    ("blocks", "files", "level", "says"),
    [
        (0, 9, "bad", "full: 0 MiB free; make room on the disk of"),
        (100, 9, "bad", "nearly full: 100 MiB free; make room"),
        (5000, 0, "bad", "full: 5,000 MiB free, but no file can be added; make room"),
        (500, 9, "note", "500 MiB free"),
        (5000, 9, "ok", "5,000 MiB free"),
        (50_000, 9, "ok", "49 GiB free"),
    ],
)
def test_a_disk_that_is_nearly_full_fails_the_check(
    home: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, files: int, level: str, says: str, is_made: bool
) -> None:
    if not is_made:
        monkeypatch.setenv("AIOS_HOME", str(home / "to" / "be"))
    disk = SimpleNamespace(f_bavail=blocks, f_frsize=1 << 20, f_files=100, f_favail=files)
    monkeypatch.setattr(os, "statvfs", lambda path: disk if Path(path) == home else pytest.fail(f"{path} is asked"))
    (found,) = (each for each in doctor.check_home() if each.what == "disk")
    assert found.level == level
    assert found.detail.startswith(says)


def test_files_of_tools_are_loaded_to_find_out_while_no_kernel_runs(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (home / "broken.py").write_text(BROKEN)
    (home / "good.py").write_text(GOOD)
    (home / "aios.toml").write_text('[[tool]]\nmodule = "good.py"\n[[tool]]\nmodule = "broken.py"\n')
    (bad, workers) = doctor.check_tools(load())
    assert bad.level == "bad"
    assert bad.detail == f"no tools from {home / 'broken.py'}: broken.py {WHY}; mend that before 'aios up'"
    assert workers.what == "tool workers"
    assert sorted(os.listdir(home)) == ["aios.toml", "broken.py", "good.py"]
    assert capfd.readouterr() == ("", "")
    (home / "broken.py").write_text(GOOD.replace("hello", "bye"))
    assert doctor.check_tools(load())[0] == ("tools", "ok", "2 files configured, and all load")
    (home / "broken.py").unlink()
    missing = doctor.check_tools(load())[0]
    assert missing.level == "bad"
    assert "broken.py; put it into the home, or name it with its whole path" in missing.detail


def test_a_kernels_broken_files_of_tools_are_told_until_they_are_mended(served: Served) -> None:
    path = served.home / "broken.py"
    path.write_text(BROKEN)

    def configure() -> None:
        tools = served.kernel.tools
        tools._modules.append(Module(ToolSection(module=path.name), path, sys.executable, tools._clock, tools._changed))

    served.call(configure)
    shown = aios("tools", env=served.env())
    assert shown.returncode == 0
    assert shown.stdout.startswith("TOOL ")
    told = f"no tools from {path}: broken.py {WHY}; mend that, and 'aios tools' has it loaded again"
    assert shown.stderr == f"warning: {told}\n"
    asked = aios("doctor", "--json", env=served.env())
    assert (asked.returncode, findings("tools", asked.stdout)) == (1, [("bad", told)])
    listed: dict[str, Any] = json.loads(aios("tools", "--json", env=served.env()).stdout)
    assert listed["problems"] == {str(path): f"broken.py {WHY}"}
    path.write_text(GOOD)
    mended = aios("tools", "hello", env=served.env())
    assert (mended.stdout.splitlines()[1].split()[0], mended.stderr) == ("hello()", "")


def test_a_kernel_that_takes_no_calls_is_quoted_with_its_reason(served: Served) -> None:
    served.call(lambda: setattr(served.kernel, "is_ready", False))
    asked = aios("doctor", "--json", env=served.env())
    served.call(lambda: setattr(served.kernel, "is_ready", True))
    ((level, told),) = findings("kernel", asked.stdout)
    assert level == "bad"
    assert told.startswith("the kernel is")
    assert "HTTP" not in told


@pytest.mark.parametrize(("status", "level", "says"), [(0, "ok", "in namespaces"), (1, "note", "no namespaces")])
def test_workers_without_a_namespace_are_told_of(
    monkeypatch: pytest.MonkeyPatch, status: int, level: str, says: str
) -> None:
    def run(command: tuple[str, ...], **_: Any) -> Any:
        assert command[1:] == ("-P", "-m", "aios.kernel.tool.host", "probe")
        return SimpleNamespace(returncode=status)

    monkeypatch.setattr(subprocess, "run", run)
    found = doctor._workers()
    assert found.level == level
    assert found.detail.startswith(says)


@pytest.mark.parametrize(("host", "kind"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_the_port_is_tried_on_the_address_that_a_kernel_would_take(home: Path, host: str, kind: int) -> None:
    try:
        taken = socket.create_server((host, 0), family=kind)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    port = taken.getsockname()[1]
    (home / "aios.toml").write_text(f'[server]\nhost = "{host}"\nport = {port}\n')
    with taken:
        ((_, level, detail),) = doctor._port(load())
        assert level == "bad"
        assert detail.startswith(f"port {port} on {host} is taken; stop what uses it, or choose another")
    assert doctor._port(load()) == [("port", "ok", f"{host}:{port} is free")]


def test_a_gguf_file_is_looked_at_and_what_is_missing_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = home / "model.gguf"
    (home / "aios.toml").write_text(f'[[core]]\nname = "own"\nkind = "gguf"\npath = "{file}"\n')

    def found(package: object) -> tuple[str, str]:
        monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: package)
        ((_, level, detail),) = doctor.check_cores(load())
        return level, detail.replace(str(file), "F")

    assert found(object()) == ("bad", "F cannot be read: No such file or directory")
    file.write_bytes(b"hello")
    assert found(object()) == ("bad", "F is no GGUF file")
    file.write_bytes(b"GGUF")
    assert found(None) == ("bad", "it needs xllamacpp, which pip install 'aios-kernel[gguf]' brings")
    assert found(object()) == ("ok", "the model in F")


def test_a_models_folder_is_looked_at_and_what_is_missing_named(home: Path) -> None:
    pytest.importorskip("tokenizers")
    folder = home / "model"
    folder.mkdir()
    (home / "aios.toml").write_text(f'[[core]]\nname = "own"\nkind = "local"\npath = "{folder}"\n')
    seen = []
    for file in ("", "config.json", "tokenizer.json", "model.safetensors"):
        if file:
            (folder / file).touch()
        (finding,) = doctor.check_cores(load())
        seen.append((finding.level, finding.detail.replace(str(folder), "F").split(":")[0].split(",")[0]))
    assert seen == [
        ("bad", "F holds no config.json"),
        ("bad", "F holds no tokenizer.json"),
        ("bad", "F holds no .safetensors"),
        ("ok", "the model in F"),
    ]


def test_a_cores_key_that_cannot_be_had_fails_the_check(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    section = '[[core]]\nname = "far"\nkind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\n'
    file = home / "far.key"
    file.write_text("sk-secret")
    file.chmod(0o644)
    for line, why in (
        ('api_key_env = "NO_KEY"', "its key is read from NO_KEY, which is not set"),
        ('api_key_file = "none.key"', "api_key_file none.key cannot be read: No such file or directory"),
        ('api_key_file = "far.key"', "api_key_file far.key can be read by others (mode 644); chmod 600 it"),
    ):
        (home / "aios.toml").write_text(section + line)
        (finding,) = doctor.check_cores(load(home / "aios.toml"))
        assert (finding.level, finding.detail) == ("bad", why)


def test_a_model_of_the_hub_is_said_to_come_from_there() -> None:
    (finding,) = doctor.check_cores(parse('[[core]]\nname = "q"\nkind = "local"\nhub = "Qwen/Qwen3-0.6B"\n'))
    assert (finding.level, finding.what) == ("ok", "core q")
    assert "Qwen/Qwen3-0.6B of the hub" in finding.detail

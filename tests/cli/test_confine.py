"""A confined program reaches neither the kernel's home nor anybody's keys, and is otherwise the program it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aios.abi.errors import Denied, NotFound
from aios.cli import confine as room
from aios.cli.confine import MECHANISMS, clean, confine, probe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="confinement is Linux's")

WORKING = [name for name, works, _ in probe() if works] if sys.platform == "linux" else []

SPY = r"""
import json, os, sys
home, word, victim = sys.argv[1:4]
found = []
def look(path):
    try:
        if not os.path.isfile(path):
            return
        with open(path, "rb") as file:
            if word.encode() in file.read(1 << 20):
                found.append(path)
    except OSError:
        pass
look(f"{home}/admin.key")
for process in (f"/proc/{victim}", f"/proc/{os.getppid()}", "/proc/self", "/proc/1"):
    look(f"{process}/root{home}/admin.key")
    look(f"{process}/cwd/admin.key")
    look(f"{process}/environ")
    look(f"{process}/fd/0")
for line in open("/proc/self/mountinfo"):
    look(line.split()[4] + "/admin.key")
os.system(f"umount '{home}' 2>/dev/null; unshare -Urm umount '{home}' 2>/dev/null")
look(f"{home}/admin.key")
found += [name for name, value in os.environ.items() if word in value]
print(json.dumps(found))
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "a" / "home"
    home.mkdir(parents=True)
    (home / "admin.key").write_text("sk-aios-topsecret")
    return home


@pytest.fixture(params=MECHANISMS)
def mechanism(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name not in WORKING:
        pytest.skip(f"no {name} on this machine")
    monkeypatch.setattr(room, "MECHANISMS", (name,))
    return name


@pytest.fixture
def victim(home: Path) -> Iterator[int]:
    """Somebody who runs in the home, with the key in his environment and the file open: as the kernel might."""
    with (home / "admin.key").open() as key:
        process = subprocess.Popen(["sleep", "60"], cwd=home, env={"KEY": "sk-aios-topsecret"}, stdin=key)
    yield process.pid
    process.kill()
    process.wait()


def start(argv: list[str], home: Path, env: dict[str, str] | None = None, **more: Any) -> subprocess.Popen[str]:
    confined = confine(argv, dict(os.environ) if env is None else env, home)
    return subprocess.Popen(confined.argv, env=confined.env, text=True, process_group=0, **more)


def run(argv: list[str], home: Path, env: dict[str, str] | None = None, **more: Any) -> tuple[int, str]:
    process = start(argv, home, env, stdout=subprocess.PIPE, **more)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def test_some_mechanism_works_here_or_the_reasons_are_told() -> None:
    assert [name for name, _, _ in probe()] == list(MECHANISMS)
    assert all(why for _, _, why in probe())


def test_without_confinement_the_spy_finds_the_key(home: Path, victim: int) -> None:
    spy = [sys.executable, "-c", SPY, str(home), "topsecret", str(victim)]
    assert f"{home}/admin.key" in json.loads(subprocess.check_output(spy, text=True))


def test_a_confined_program_finds_the_key_nowhere(
    home: Path, victim: int, mechanism: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-upstream-topsecret")
    spy = [sys.executable, "-c", SPY, str(home), "topsecret", str(victim)]
    assert run(spy, home) == (0, "[]\n")
    assert (home / "admin.key").read_text() == "sk-aios-topsecret"


def test_a_confined_program_cannot_change_the_home(home: Path, mechanism: str) -> None:
    run(["sh", "-c", f"rm -rf {home}; echo x > {home}/admin.key; mv {home} {home}2; true"], home, stderr=-3)
    assert (home / "admin.key").read_text() == "sk-aios-topsecret"


def test_ordinary_files_user_folder_arguments_and_standard_streams_are_as_they_were(
    home: Path, tmp_path: Path, mechanism: str
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "in").write_text("ordinary")
    script = 'cat in - > out; mkdir new; mv out new/out; cat new/out; id -u; pwd; echo "$@"; exit 7'
    code, output = run(["sh", "-c", script, "sh", "a b", "c"], home, cwd=work, stdin=(work / "in").open())
    assert code == 7
    assert output == f"ordinaryordinary{os.getuid()}\n{work}\na b c\n"
    assert (work / "new" / "out").stat().st_uid == os.getuid()


def test_a_program_that_dies_of_a_signal_is_told_by_its_status(home: Path, mechanism: str) -> None:
    code, _ = run(["sh", "-c", "kill -TERM $$"], home)
    assert code in (-signal.SIGTERM, 128 + signal.SIGTERM)


def test_a_signal_to_the_group_reaches_the_program_and_its_status_comes_back(home: Path, mechanism: str) -> None:
    if mechanism == "bubblewrap":
        pytest.skip("bubblewrap itself dies of the signal, and the program with it")
    script = "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    process = start(["sh", "-c", script], home, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGTERM)
    assert process.stdout.read().startswith("got")
    assert process.wait(timeout=60) == 9


def test_killing_the_group_leaves_nothing_of_the_program(home: Path, mechanism: str) -> None:
    script = "import os, time; os.fork() or os.setsid(); os.write(1, b'ready\\n'); time.sleep(600)"
    process = start([sys.executable, "-c", script], home, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    if mechanism == "landlock":
        pytest.skip("one without a pid namespace cannot hold what leaves the group")
    process.kill()
    assert process.stdout.read() in ("", "ready\n")  # ends when the last one that could write to it has ended


def test_signals_are_handled_by_the_program_as_if_it_were_alone(home: Path, mechanism: str) -> None:
    script = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []), end='')"
    assert run([sys.executable, "-c", script], home) == (0, "set()")
    assert run(["sh", "-c", "yes | head -1; echo ${PIPESTATUS:-}"], home)[1] == "y\n\n"


def test_a_program_inside_the_home_or_nowhere_is_refused(home: Path) -> None:
    inside = home / "tool"
    inside.write_text("#!/bin/sh\n")
    inside.chmod(0o755)
    with pytest.raises(Denied, match="put it elsewhere"):
        confine([str(inside)], {}, home)
    with pytest.raises(NotFound, match="no such program"):
        confine(["no-such-program-anywhere"], dict(os.environ), home)


def test_a_program_that_starts_inside_the_home_is_refused(home: Path, mechanism: str) -> None:
    if mechanism == "bubblewrap":
        pytest.skip("bubblewrap moves it out of there by itself")
    code, _ = run(["true"], home, cwd=home, stderr=-3)
    assert code == 125


def test_where_nothing_works_the_program_is_refused_and_the_way_around_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_try", lambda mechanism, home: "not today")
    with pytest.raises(Denied, match="--unconfined") as caught:
        confine(["true"], dict(os.environ), home)
    assert "landlock: not today" in caught.value.message
    assert caught.value.code == "cannot_confine"


def test_a_mechanism_that_hides_nothing_is_not_believed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_command", lambda mechanism, home, argv: argv)
    assert room._try.__wrapped__("landlock", home) == "does not hide it"


def test_upstream_keys_leave_the_environment_under_whatever_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_KEY", "upstream-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-real-openai")
    env = {
        "VLLM_KEY": "upstream-secret",
        "COPY": "Bearer upstream-secret",
        "OPENAI_API_KEY": "sk-aios-its-own",
        "ANTHROPIC_API_KEY": "sk-real-openai",
        "AIOS_HOME": "/home/x/.aios",
        "AIOS_ADMIN_KEY": "x",
        "AIOS_KEY": "sk-aios-its-own",
        "LANG": "C",
    }
    assert clean(env, {"VLLM_KEY", "OPENAI_API_KEY"}) == {
        "OPENAI_API_KEY": "sk-aios-its-own",
        "AIOS_KEY": "sk-aios-its-own",
        "LANG": "C",
    }


def test_an_undumpable_process_stays_so() -> None:
    script = "import ctypes, aios.cli.confine as c; c.undumpable(); print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "0\n"

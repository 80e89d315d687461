"""Two homes and one port: whose kernel serves it is said, and what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.cli.command import FAR, aios, home_env, started

from aios.cli import neighbours, state


def test_the_home_of_the_kernel_on_a_port_is_named_with_what_to_do(tmp_path: Path) -> None:
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path)}
    theirs = {**home_env(tmp_path / "theirs"), **runtime}
    up = started("up", "--port", "0", "--json", env=theirs)
    try:
        assert up.stdout is not None
        where = json.loads("".join(iter(up.stdout.readline, "}\n")) + "}")
        port = urlsplit(where["url"]).port
        assert (where["home"], where["admin_key"]) == (str(tmp_path / "theirs"), str(tmp_path / "theirs" / "admin.key"))
        ours = {**home_env(tmp_path / "ours", f"{FAR}[server]\nport = {port}\n"), **runtime}
        whose = f"the kernel of {tmp_path / 'theirs'} (process {where['pid']})"
        used = f"use that one with AIOS_HOME={tmp_path / 'theirs'}\n"
        refused = aios("up", env=ours)
        assert refused.returncode == 6
        assert refused.stderr.startswith(f"aios up: port {port} on 127.0.0.1 is taken by {whose}; start this one on")
        assert refused.stderr.endswith(used)
        looked = aios("ps", env=ours)
        assert looked.returncode == 3
        assert looked.stderr == (
            f"aios ps: no kernel runs on {tmp_path / 'ours'}: what serves 127.0.0.1:{port} is {whose}; start one for "
            f"this home with 'aios up --port 0', or {used}"
        )
        assert f"is taken by {whose}" in aios("doctor", env=ours).stdout
        elsewhere = {**ours, "XDG_RUNTIME_DIR": str(tmp_path / "ours")}
        unknown = aios("ps", env=elsewhere).stderr
        assert "is another home's kernel, which does not say whose; start one for this home with 'aios up" in unknown
        assert f"or use that one with AIOS_URL={where['url']} and a key of it in AIOS_KEY" in unknown
        down = aios("down", "--json", env=theirs)
        assert json.loads(down.stdout) == {"pid": up.pid, "url": where["url"], "home": str(tmp_path / "theirs")}
        assert up.wait(60) == 0
    finally:
        up.kill()
        up.communicate()
    assert not list((tmp_path / "aios").iterdir())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this user's commands look for kernels."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "aios"


def test_links_that_others_may_have_put_there_are_not_followed(folder: Path, tmp_path: Path) -> None:
    neighbours.announce(tmp_path)
    assert [link.readlink() for link in folder.iterdir()] == [tmp_path]
    folder.chmod(0o777)
    assert list(neighbours._known()) == []
    neighbours.withdraw()
    neighbours.announce(tmp_path)
    assert not list(folder.iterdir())


def test_what_a_killed_kernel_left_is_removed_and_not_believed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbours.announce(tmp_path)
    state.write_state(tmp_path, "http://127.0.0.1:8420")
    monkeypatch.setattr(neighbours, "_is_kernel", lambda host, port: False)
    with monkeypatch.context() as patched:
        patched.setattr(neighbours, "is_running", lambda home: True)
        assert neighbours.who_serves("127.0.0.1", 8420) == (
            f"the kernel of {tmp_path} (process {os.getpid()})",
            f"AIOS_HOME={tmp_path}",
        )
        assert neighbours.who_serves("127.0.0.1", 8421) is None
    assert neighbours.who_serves("127.0.0.1", 8420) is None
    assert not list(folder.iterdir())


def test_a_kernel_that_starts_removes_what_killed_ones_left_and_asks_for_no_lock(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(60)
    folder.mkdir(mode=0o700)
    for name in (str(gone.pid), str(os.getppid()), "9" * 30, "no-pid"):
        (folder / name).symlink_to(tmp_path)
    monkeypatch.setattr(neighbours, "is_running", None)
    neighbours.announce(tmp_path)
    left = {link.name for link in folder.iterdir()}
    assert left == {str(os.getpid()), str(os.getppid()), "9" * 30, "no-pid"}


def test_withdrawing_removes_no_file_behind_a_folder_that_is_somebodys_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    letter = tmp_path / "letters" / str(os.getpid())
    letter.write_text("dear aunt")
    folder.symlink_to(tmp_path / "letters")
    neighbours.announce(tmp_path)
    neighbours.withdraw()
    assert letter.read_text() == "dear aunt"

"""`aios fs`: agents' files, looked at and changed from a terminal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.command import Done, Served, aios, apart

from aios.abi.calls import File
from aios.cli import fs_files
from aios.cli.commands import ADVICE
from aios.cli.exits import BUSY

ROOT = Path(__file__).parent.parent.parent
Run = Callable[..., Done]


@pytest.fixture
def fs(served: Served, request: pytest.FixtureRequest) -> Run:
    """`aios fs` as an agent of the test's own."""

    def run(*words: str) -> Done:
        return aios("fs", *words, "--agent", request.node.name[:60], env=served.env())

    return run


def put(fs: Run, path: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "content"
    file.write_bytes(content)
    done = fs("put", path, str(file))
    assert done.returncode == 0, done.stderr


def test_what_is_put_is_listed_and_printed_and_keeps_its_history(fs: Run, tmp_path: Path) -> None:
    put(fs, "notes/a.md", b"one\n", tmp_path)
    put(fs, "notes/a.md", b"two\n", tmp_path)
    assert fs("ls").stdout.splitlines()[1].split()[0] == "folder"
    assert fs("ls", "notes").stdout.splitlines()[1].split()[-1] == "notes/a.md"
    assert [line.split()[0] for line in fs("history", "notes/a.md").stdout.splitlines()[1:]] == ["2", "1"]
    assert "-one\n+two\n" in fs("diff", "notes/a.md").stdout
    assert "at version 3 now, the same as 1" in fs("rollback", "notes/a.md", "1").stderr
    assert fs("diff", "notes/a.md", "--since", "1").stderr.strip() == "Versions 1 and 3 are the same."
    assert json.loads(fs("ls", "notes", "--json").stdout)[0]["version"] == 3


def test_what_is_removed_comes_back_and_is_gone_only_when_somebody_says_so(fs: Run, tmp_path: Path) -> None:
    put(fs, "a.md", b"one", tmp_path)
    assert "went to the trash" in fs("rm", "a.md").stderr
    assert fs("ls").stderr.strip() == "Nothing is there."
    assert fs("ls", "--trash").stdout.splitlines()[1].split()[-1] == "a.md"
    assert "a.md is back, at version 1" in fs("undo", "a.md").stderr
    fs("rm", "a.md")
    assert "say --yes" in fs("rm", ".", "--trash").stderr
    assert "left the trash for good" in fs("rm", ".", "--trash", "--yes").stderr
    assert fs("undo", "a.md").returncode != 0


def test_a_file_that_moves_keeps_its_history(fs: Run, tmp_path: Path) -> None:
    put(fs, "a.md", b"one", tmp_path)
    put(fs, "a.md", b"two", tmp_path)
    assert fs("mv", "a.md", "b/c.md").returncode == 0
    assert len(json.loads(fs("history", "b/c.md", "--json").stdout)["revisions"]) == 2


def test_what_files_say_is_found_with_the_place_where_it_stands(fs: Run, tmp_path: Path) -> None:
    put(fs, "kb/harbour.md", b"# Harbour\n\nIt opens in May.\n", tmp_path)
    put(fs, "kb/broken.pdf", b"%PDF-1.7", tmp_path)
    put(fs, "mine.txt", b"harbour of mine", tmp_path)
    done = fs("search", "harbour", "opens", "--in", "kb")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("kb/harbour.md (version 1, bytes 0-")
    assert lines[0].endswith("· Harbour")
    assert lines[1:] == ["  # Harbour", "  ", "  It opens in May."]
    assert "kb/broken.pdf is left out: it is broken" in done.stderr
    found = json.loads(fs("search", "harbour", "--name", "*.txt", "--json").stdout)
    assert [each["path"] for each in found["passages"]] == ["mine.txt"]
    assert fs("search", "xyzzy", "--mode", "keyword").stderr.startswith("No passage fits.")


def test_bytes_come_out_as_they_went_in_also_from_a_pipe(served: Served, tmp_path: Path) -> None:
    content = bytes(range(256)) * 40_000  # more than a body of a call may be
    file = tmp_path / "blob"
    file.write_bytes(content)
    assert apart("fs", "put", "blob", str(file), env=served.env()).returncode == 0
    out = tmp_path / "out"
    shown = apart_to(out, "fs", "cat", "blob", env=served.env())
    assert shown == 0
    assert out.read_bytes() == content


def apart_to(out: Path, *words: str, env: dict[str, str]) -> int:
    with out.open("wb") as file:
        command = [sys.executable, "-m", "aios.cli.main", *words]
        return subprocess.run(command, env=env, stdout=file, check=False).returncode


def test_a_missing_file_and_a_file_that_cannot_be_read_are_told(fs: Run, tmp_path: Path) -> None:
    assert "nothing.md" in fs("cat", "nothing.md").stderr
    assert "cannot be read" in fs("put", "a", str(tmp_path / "none")).stderr


def test_what_files_take_is_told(fs: Run, tmp_path: Path) -> None:
    put(fs, "a.md", b"x" * 1000, tmp_path)
    assert fs("stat").stdout.startswith("1 of ")


def test_a_mounted_folder_is_listed_used_and_taken_away_again(fs: Run, served: Served, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "a.md").write_text("one\n")
    agent = "test_a_mounted_folder_is_listed_used_and_taken_away_again"[:60]
    done = aios("fs", "mount", str(folder), "work", "--agent", agent, env=served.env())
    assert (done.returncode, done.stderr.strip()) == (0, f"{folder} is 'work' among the files of agent '{agent}'.")
    assert fs("ls").stdout.splitlines()[1].split()[0] == "mount"
    assert json.loads(fs("cat", "work/a.md", "--json").stdout)["content"] == "one\n"
    put(fs, "work/b.md", b"two\n", tmp_path)
    assert (folder / "b.md").read_text() == "two\n"
    listed = aios("fs", "mounts", env=served.env()).stdout.splitlines()
    assert any(line.split()[0] == "work" and str(folder) in line for line in listed[1:])
    theirs = aios("fs", "mounts", env={**served.env(), "AIOS_KEY": key_of(served, agent)})
    assert str(folder) not in theirs.stdout
    denied = aios("fs", "mount", "/etc", "etc", env={**served.env(), "AIOS_KEY": key_of(served, agent)})
    assert (denied.returncode != 0, "only an admin may show agents a folder" in denied.stderr) == (True, True)
    assert "is shown no more" in aios("fs", "unmount", "work", "--agent", agent, env=served.env()).stderr
    assert fs("ls").stderr.strip() == "Nothing is there."
    assert "no mount 'wrk'" in aios("fs", "unmount", "wrk", env=served.env()).stderr


def key_of(served: Served, agent: str) -> str:
    return json.loads(aios("keys", "new", "k", "--agent", agent, "--json", env=served.env()).stdout)["key"]  # type: ignore[no-any-return]


def test_a_link_opens_a_file_until_it_is_ended(served: Served, fs: Run, tmp_path: Path) -> None:
    put(fs, "a.txt", b"one", tmp_path)
    url = fs("share", "a.txt", "--hours", "1").stdout.strip()
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"one"
    assert "1 link ended" in fs("share", "a.txt", "--hours", "0").stderr
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(url)


def test_what_the_command_advises_is_a_command(fs: Run, served: Served, tmp_path: Path) -> None:
    assert fs("cat", "notes/x").stderr.endswith("; 'aios fs ls' shows what is there\n")
    assert fs("undo", "notes/x").stderr.endswith("; 'aios fs ls --trash' shows what can be restored\n")
    put(fs, "notes/a.md", b"one\n", tmp_path)
    assert fs("cat", "notes").stderr.endswith("'notes' is a folder; 'aios fs ls' shows what is in it\n")
    assert "'aios mem ls' lists them" in aios("mem", "show", "m1", env=served.env()).stderr


def test_advice_is_worded_as_the_kernel_words_it() -> None:
    texts = (file.read_text() for file in (ROOT / "src/aios/kernel").rglob("*.py"))
    kernel = re.sub(r'"\s*\n\s*f?"', "", "\n".join(texts))
    assert [advice for advice in ADVICE if advice not in kernel] == []


def test_a_file_that_is_named_before_its_place_is_noticed(fs: Run, tmp_path: Path) -> None:
    (tmp_path / "today.md").write_text("one")
    done = fs("put", str(tmp_path / "today.md"), "notes/today.md")
    assert done.stderr.endswith("; it comes last: aios fs put PATH FILE\n")


def test_what_cannot_be_restored_is_said_before_anybody_is_asked(served: Served, tmp_path: Path) -> None:
    done = aios("fs", "restore", str(tmp_path), env=served.env())
    assert "is no whole backup" in done.stderr
    saved = str(tmp_path / "saved")
    assert aios("fs", "backup", saved, env=served.env()).returncode == 0
    done = aios("fs", "restore", saved, env=served.env())
    assert "already runs" in done.stderr
    assert done.returncode == BUSY


class NotKept:
    """A kernel whose mount has one file that is no version: of three parts, the last a short one."""

    def sto_read(self, path: str, *, version: int | None, encoding: str, offset: int, length: int) -> File:
        assert version is None
        data = (b"x" * (2 * length + 1))[offset : offset + length]
        return File(path=path, content=b64encode(data).decode(), version=0, encoding="base64", size=2 * length + 1)


def test_a_file_of_a_mount_that_is_no_version_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fs_files, "STEP", 10)
    kernel: Any = NotKept()
    assert b"".join(fs_files.pieces(kernel, "docs/a", None)) == b"x" * 21

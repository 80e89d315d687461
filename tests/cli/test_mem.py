"""`aios mem`: what agents remember, looked at and changed from a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.command import Done, Served, aios

from aios.abi.calls import BlockStat, Entries
from aios.cli.console import size
from aios.cli.mem import note_rest
from aios.cli.mem_view import bar, lines

Run = Callable[..., Done]


@pytest.fixture
def mem(served: Served, request: pytest.FixtureRequest) -> Run:
    """`aios mem` as an agent of the test's own."""

    def run(*words: str, agent: str | None = request.node.name[:60], **env: str) -> Done:
        return aios("mem", *words, *(["--agent", agent] if agent else []), env={**served.env(), **env})

    return run


def made(mem: Run, *words: str, **more: Any) -> str:
    done = mem("write", *words, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_is_written_is_listed_shown_found_changed_and_forgotten(mem: Run) -> None:
    id = made(mem, "the door code is 4711", "--kind", "fact", "--importance", "0.9")
    other = made(mem, "the cat is called Tom")
    listed = mem("ls")
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == [other, id]
    shown = mem("show", id)
    assert shown.stdout == "the door code is 4711\n"
    assert "fact" in shown.stderr
    assert "importance 0.9" in shown.stderr
    found = mem("search", "door", "code")
    assert found.stdout.splitlines()[1].split()[1] == id
    assert mem("edit", id, "the door code is 4712").returncode == 0
    history = mem("show", id, "--history")
    assert history.stdout == "the door code is 4712\nthe door code is 4711\n"
    assert "Forgot 1 entry." in mem("rm", id).stderr
    missing = mem("show", id)
    assert missing.returncode != 0
    assert id in missing.stderr


def test_another_agents_memory_takes_the_admin_key_and_leaves_no_key_behind(served: Served, mem: Run) -> None:
    made(mem, "mine", agent=None)
    made(mem, "theirs", agent="helper")
    assert [e["content"] for e in json.loads(mem("ls", "--json", agent="helper").stdout)] == ["theirs"]
    assert [e["content"] for e in json.loads(mem("ls", "--json", agent=None).stdout)] == ["mine"]
    assert "aios mem" not in aios("keys", "list", env=served.env()).stdout


def test_everything_is_forgotten_only_by_who_says_so(mem: Run) -> None:
    made(mem, "one")
    assert mem("rm", "--all").returncode != 0  # nobody is there to say yes
    assert len(json.loads(mem("ls", "--json").stdout)) == 1
    assert "Forgot 1 entry." in mem("rm", "--all", "--yes").stderr
    assert mem("ls").stderr.strip() == "Nothing is remembered."
    assert "name entries by ID, or say --all" in mem("rm").stderr


def test_a_kind_that_is_none_is_told_with_the_nearest(mem: Run) -> None:
    assert "did you mean 'fact'?" in mem("ls", "--kind", "fakt").stderr


def test_an_editor_changes_an_entry_and_one_that_fails_changes_nothing(mem: Run, tmp_path: Path) -> None:
    id = made(mem, "before")
    assert mem("edit", id, VISUAL="", EDITOR="sed -i s/before/after/").returncode == 0
    assert mem("show", id).stdout == "after\n"
    assert "Nothing changed." in mem("edit", id, VISUAL="", EDITOR="true").stderr
    assert "nothing was changed" in mem("edit", id, VISUAL="", EDITOR="false").stderr
    assert "cannot be started" in mem("edit", id, VISUAL="", EDITOR=str(tmp_path / "none")).stderr


def test_what_a_block_takes_is_drawn(mem: Run) -> None:
    made(mem, "the door code is 4711")
    drawn = mem("stat").stdout
    assert drawn.startswith("main block: 1 entry")
    assert {line.split()[0] for line in drawn.splitlines()[2:]} == {"in", "entries", "trie", "reads"}
    assert json.loads(mem("stat", "--json").stdout)["entries"] == 1


def stat(**more: Any) -> BlockStat:
    fields = dict.fromkeys(BlockStat.__struct_fields__, 0)
    return BlockStat(**{**fields, "block": "", "limit": 1 << 20, "watermark": 0.8, "k": 2, **more})


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_bars_fit_the_terminal_whatever_is_in_the_block(columns: int) -> None:
    for each in (stat(), stat(entries=10**6, raw=1 << 40, resident=1 << 21, resident_raw=1, hits=10**9, misses=1)):
        drawn = list(lines(each, columns))
        assert len(drawn) == 6


def test_a_bar_shows_the_least_part_and_that_a_bound_is_passed() -> None:
    assert bar(0, 10, 4) == "░░░░"
    assert bar(1, 1000, 4) == "█░░░"
    assert bar(5, 10, 4) == "██░░"
    assert bar(11, 10, 4) == "███▶"
    assert bar(1, 0, 4) == "░░░░"


@pytest.mark.parametrize(("number", "told"), [(0, "0 B"), (1023, "1023 B"), (4096, "4.0 KiB"), (64 << 20, "64.0 MiB")])
def test_sizes_are_told_with_their_unit(number: int, told: str) -> None:
    assert size(number) == told


def test_a_share_is_told_where_it_says_something() -> None:
    few, many = (list(lines(stat(resident=4096, resident_raw=text), 80))[4] for text in (47, 8192))
    assert "%" not in few
    assert "(50%)" in many


def test_what_an_answer_leaves_out_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    note_rest(Entries(entries=[], is_cut=True, note="no vector was made"))
    said = capsys.readouterr().err
    assert "There are more" in said
    assert "only words were compared: no vector was made" in said
    note_rest(Entries(entries=[]))
    assert capsys.readouterr().err == ""

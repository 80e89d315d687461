"""What the command says of a wrong word, and that it says it in one line; what it does when nobody reads it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.command import CLEAN, Served, aios

from aios.cli import main
from aios.cli.main import VERBS

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["kil", "3"], "aios: there is no command 'kil'; did you mean 'kill'?"),
        (["--vers"], "aios: there is no option '--vers'; did you mean '--version'?"),
        (["zzzz"], "aios: there is no command 'zzzz'; 'aios --help' lists them"),
        (["z\x1b[31m"], "aios: there is no command 'z?[31m'; 'aios --help' lists them"),
        (["cores", "--jsn"], "aios cores: there is no option '--jsn'; did you mean '--json'?"),
        (["up", "--confg", "x"], "aios up: there is no option '--confg'; did you mean '--config'?"),
        (["cores", "-x"], "aios cores: there is no option '-x'; 'aios cores --help' says more"),
        (["config", "shw"], "aios config: there is no command 'shw'; did you mean 'show'?"),
        (
            ["keys", "zz"],
            "aios keys: there is no command 'zz'; there are new, list, revoke; 'aios keys --help' says more",
        ),
        (["bench"], "aios bench: WHAT is missing; 'aios bench --help' says more"),
        (["nice", "1", "99"], "aios nice: NICE must be less than or equal to 19; 'aios nice --help' says more"),
        (["logs", "--pid", "x"], "aios logs: --pid must be a whole number; 'aios logs --help' says more"),
        (["logs", "--pid"], "aios logs: --pid needs a value; 'aios logs --help' says more"),
        (["cores", "--json=3"], "aios cores: --json takes no value; 'aios cores --help' says more"),
        (["doctor", "a", "b"], "aios doctor: too many arguments: a b; 'aios doctor --help' says more"),
        (["keys", "new", "a", "--agnt", "b"], "aios keys: there is no option '--agnt'; did you mean '--agent'?"),
        (["demo", "--policy", "fif"], "aios demo: there is no policy 'fif'; did you mean 'fifo'?"),
        (["eval", "nano", "--phrasing", "sen"], "aios eval: there is no phrasing 'sen'; did you mean 'seen'?"),
        (
            ["eval", "nano", "--wrong", "/nowhere/x"],
            "aios eval: /nowhere/x cannot be written: No such file or directory",
        ),
    ],
)
def test_a_wrong_word_is_told_in_one_line_with_the_nearest_right_one(words: list[str], says: str) -> None:
    done = aios(*words, env=CLEAN)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{says}\n")


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_has_an_example_and_fits_a_terminal(verb: str) -> None:
    shown = aios(verb, "--help", env={**CLEAN, "COLUMNS": "80"}).stdout
    assert shown.startswith(f"Usage: aios {verb} ")
    assert f"    aios {verb}" in shown
    assert "{" not in shown
    assert not any(line.endswith("...") for line in shown.splitlines()[1:])
    assert max(map(len, shown.splitlines())) <= 80
    assert aios("help", verb, env={**CLEAN, "COLUMNS": "80"}).stdout == shown


@pytest.mark.parametrize("verb", VERBS)
def test_whatever_prints_prints_json_too(verb: str) -> None:
    module = importlib.import_module(f"aios.cli.{VERBS[verb].module}")
    for command in getattr(module, "commands", [""]):
        assert "  --json " in aios(*f"{verb} {command}".split(), "--help", env=CLEAN).stdout


def test_a_home_is_configured_by_the_same_option_everywhere() -> None:
    for words in (["up"], ["doctor"], ["config", "show"]):
        assert "--config <file>" in aios(*words, "--help", env=CLEAN).stdout


def test_the_demo_is_said_to_take_the_same_time_everywhere() -> None:
    script = subprocess.run([ROOT / "scripts" / "demo", "--help"], capture_output=True, text=True, env=CLEAN).stdout
    for text in (aios("--help", env=CLEAN).stdout, script, (ROOT / "README.md").read_text("utf-8")):
        (told,) = [line for line in text.splitlines() if "two dozen agents share" in line][:1]
        assert "some seconds" in told
        assert "minute" not in told


def run_into(out: int, *words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with `out` for its output."""
    command = [sys.executable, "-m", "aios.cli.main", *words]
    return subprocess.run(command, stdout=out, stderr=subprocess.PIPE, env=env, text=True, timeout=120)


@pytest.mark.parametrize("words", [["--help"], ["config", "show"]])
def test_a_reader_that_has_left_is_no_failure_worth_a_traceback(tmp_path: Path, words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = run_into(write, *words, env={**CLEAN, "AIOS_HOME": str(tmp_path)})
    finally:
        os.close(write)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no disk that is always full")
def test_a_full_disk_behind_the_output_is_told_in_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = run_into(full.fileno(), "--help", env=CLEAN)
    told = "aios: what was to be printed cannot be read or written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_keys_are_revoked_though_another_is_not_there(served: Served) -> None:
    made = [json.loads(aios("keys", "new", name, "--json", env=served.env()).stdout)["id"] for name in ("ann", "bob")]
    near = f"{made[0][:-1]}{'0' if made[0][-1] != '0' else '1'}"
    done = aios("keys", "revoke", near, "a/../b", made[0], "--json", env=served.env())
    assert done.returncode == 5
    assert json.loads(done.stdout) == [made[0]]
    assert done.stderr.splitlines() == [
        f"aios keys: there is no key '{near}'; did you mean '{made[0]}'?",
        "aios keys: there is no key 'a/../b'; 'aios keys list' shows them",
        f"Revoked {made[0]}.",
    ]


def test_processes_have_the_state_in_json_that_people_see(served: Served) -> None:
    shown = aios("ps", "--all", env=served.env()).stdout.splitlines()[1:]
    told = json.loads(aios("ps", "--all", "--json", env=served.env()).stdout)
    assert [row.split()[:3] for row in shown] == [[str(p["pid"]), p["agent"], p["state"]] for p in told]
    assert "idle" in [p["state"] for p in told]
    pids = [p["pid"] for p in told]
    assert pids == sorted(pids)


def test_a_log_without_events_says_so_to_people_only(served: Served) -> None:
    done = aios("logs", "--pid", "99999", env=served.env())
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "Nothing of process 99999 among the last events; --tail looks further back.\n"


def test_ctrl_c_while_a_verb_is_still_loaded_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(args: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "_answer", interrupted)
    with pytest.raises(SystemExit) as ended:
        main.main(["ps"])
    assert ended.value.code == 130

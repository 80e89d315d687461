"""`aios cores` against a served kernel: what is shown, what comes and goes, what is written into the file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.command import FAR, OnTerminal, Served, aios, home_env

from aios.abi.errors import BadRequest, Conflict
from aios.cli import core_file, core_view, cores
from aios.cli.state import read_state, write_state
from aios.kernel import ConfigError

REMOTE = ("--kind", "openai", "--base-url", "http://127.0.0.1:9/v1", "--set", "probe=false")


@pytest.fixture(autouse=True)
def tidy(served: Served) -> Iterator[None]:
    yield
    for core in told(served):
        if core["name"] != "scripted":
            aios("cores", "remove", core["name"], "--now", env=served.env())


def told(served: Served) -> list[dict[str, object]]:
    return json.loads(aios("cores", "--json", env=served.env()).stdout)  # type: ignore[no-any-return]


def test_cores_alone_lists_them_and_so_does_list(served: Served) -> None:
    alone, listed = (aios(*words, env=served.env()) for words in (("cores",), ("cores", "list")))
    assert alone.returncode == 0
    assert alone.stdout == listed.stdout
    assert alone.stdout.splitlines()[1].split()[:5] == ["scripted", "scripted", "scripted-1", "ready", "0/2"]


def test_a_core_is_added_drained_put_back_and_removed_without_a_restart(served: Served) -> None:
    env = served.env()
    added = aios("cores", "add", "far", *REMOTE, "--slots", "3", env=env)
    assert (added.returncode, added.stderr) == (
        0,
        "Core 'far' is ready: far, 3 slots.\nIt is gone at the kernel's next start; --save writes it to aios.toml.\n",
    )
    assert aios("cores", "add", "far", *REMOTE, "--slots", "3", env=env).returncode == 0
    again = aios("cores", "add", "far", *REMOTE, "--slots", "4", env=env)
    assert (again.returncode, "with other settings" in again.stderr) == (6, True)
    assert aios("cores", "drain", "far", "--wait", env=env).stderr == (
        "Core 'far' takes nothing new: nothing left on it.\n"
    )
    assert [core["state"] for core in told(served)] == ["ready", "draining"]
    assert "nothing left on it" in aios("cores", env=env).stdout
    assert aios("cores", "drain", "far", "--undo", env=env).stderr == "Core 'far' takes calls again.\n"
    assert aios("cores", "remove", "far", "--wait", env=env).stderr == "Removed core 'far'.\n"
    gone = aios("cores", "remove", "fa", env=env)
    assert (gone.returncode, gone.stderr) == (5, "aios cores: there is no core 'fa'; 'aios cores' lists them\n")


def test_a_core_that_does_not_open_is_told_shown_and_tried_again(served: Served, tmp_path: Path) -> None:
    env = served.env()
    bad = aios("cores", "add", "bad", "--kind", "local", "--path", str(tmp_path / "no"), "--json", env=env)
    assert bad.returncode == 1
    assert json.loads(bad.stdout)[0]["state"] == "failed"
    assert f"core 'bad' could not be opened: there is no folder {tmp_path}/no; mend that" in bad.stderr
    assert aios("cores", env=env).stdout.splitlines()[-1].endswith(f"there is no folder {tmp_path}/no")
    assert aios("cores", "add", "bad", env=env).returncode == 1
    assert aios("cores", "remove", "bad", env=env).stderr == "Removed core 'bad'.\n"


def test_cores_of_a_file_are_added_all_or_the_one_that_is_named(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "more.toml"
    entry = '[[core]]\nname = "{}"\nkind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\nprobe = false\n'
    file.write_text(entry.format("x") + entry.format("y"))
    assert aios("cores", "add", "y", "--from", str(file), env=served.env()).returncode == 0
    assert [core["name"] for core in told(served)] == ["scripted", "y"]
    assert aios("cores", "add", "--from", str(file), env=served.env()).returncode == 0
    assert [core["name"] for core in told(served)] == ["scripted", "y", "x"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("add",), 2, "which core?"),
        (("add", "a", "--kind", "openia"), 2, "did you mean 'openai'"),
        (("add", "a", "--kind", "nano", "--set", "slotz=3"), 2, "unknown key 'slotz'; did you mean 'slots'"),
        (("add", "a", "--set", "slots"), 2, "--set takes KEY=VALUE, not 'slots'"),
        (("add", "a b", "--kind", "nano"), 2, "name"),
        (("add", "nowhere"), 5, "there is no core 'nowhere'"),
        (("drain", "scriptet"), 5, "did you mean 'scripted'"),
        (("add", "a", "--from", "/nowhere.toml"), 2, "/nowhere.toml cannot be read"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(
    served: Served, words: tuple[str, ...], code: int, says: str
) -> None:
    done = aios("cores", *words, env=served.env())
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr


def test_only_an_admin_adds_drains_and_removes(served: Served) -> None:
    _, key = served.kernel.access.mint(owner="o", agent="ann")
    env = {**served.env(), "AIOS_KEY": key}
    for words in (("add", "far", *REMOTE), ("drain", "scripted"), ("remove", "scripted")):
        assert aios("cores", *words, env=env).returncode == 4
    assert aios("cores", env=env).returncode == 0


def test_saving_is_refused_for_the_kernel_of_another_home(served: Served) -> None:
    done = aios("cores", "add", "far", *REMOTE, "--save", env=served.env())
    assert (done.returncode, "is not that of" in done.stderr) == (2, True)
    assert [core["name"] for core in told(served)] == ["scripted"]


# ── the file ──

SECTION = {"name": "far", "kind": "openai", "base_url": "http://h/v1", "slots": 3}


@pytest.mark.parametrize(
    "text",
    ["", "[server]\nport = 1\n", "[router]\n# mine\n\n[server]\nport = 1\n", FAR.replace("far", "near")],
)
def test_a_core_that_is_saved_is_there_beside_what_was(text: str) -> None:
    before = tomllib.loads(text)
    after = tomllib.loads(core_file.with_core(text, SECTION, "my.toml"))
    assert after["core"] == [*before.get("core", [{"name": "nano", "kind": "nano"}]), SECTION]
    assert after["router"]["default"] == before.get("router", {}).get("default", "nano")
    assert after.get("server") == before.get("server")


def test_saving_twice_changes_nothing_and_another_core_of_that_name_is_refused() -> None:
    once = core_file.with_core(FAR.replace("far", "near"), SECTION, "my.toml")
    assert core_file.with_core(once, SECTION, "my.toml") == once
    with pytest.raises(Conflict, match="another core 'far'"):
        core_file.with_core(once, {**SECTION, "slots": 4}, "my.toml")
    with pytest.raises(ConfigError, match="unknown key"):
        core_file.with_core(once, {**SECTION, "name": "x", "slotz": 4}, "my.toml")


def test_a_core_that_is_taken_out_leaves_all_else_as_it_stood() -> None:
    text = FAR.replace("far", "near")
    with_far = core_file.with_core(text, SECTION, "my.toml") + "\n# the end\n[server]\nport = 1\n"
    left = core_file.without_core(with_far, "far", "my.toml")
    assert tomllib.loads(left) == {**tomllib.loads(text), "server": {"port": 1}}
    assert left.startswith(text)
    assert core_file.without_core(left, "far", "my.toml") == left
    with pytest.raises(ConfigError, match="default"):
        core_file.without_core(text, "near", "my.toml")
    inline = 'core = [{name = "a", kind = "nano"}, {name = "b", kind = "nano"}]\n'
    with pytest.raises(Conflict, match="by hand"):
        core_file.without_core(inline, "b", "my.toml")


def test_a_file_is_written_whole_with_the_rights_it_had(tmp_path: Path) -> None:
    file = tmp_path / "aios.toml"
    core_file.write(file, "a = 1\n")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("a = 1\n", 0o600)
    file.chmod(0o640)
    core_file.write(file, "a = 2\n")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("a = 2\n", 0o640)
    assert list(tmp_path.iterdir()) == [file]


def test_the_variable_with_the_key_of_a_later_core_is_kept_from_programs_too(served: Served) -> None:
    write_state(served.home, served.url, ["OLD_KEY"])
    try:
        aios("cores", "add", "far", *REMOTE, "--api-key-env", "NEW_KEY", env={**served.env()})
        assert (read_state(served.home) or {})["key_names"] == ["OLD_KEY", "NEW_KEY"]
    finally:
        (served.home / "kernel.json").unlink()


def test_the_place_is_the_file_that_the_kernel_was_started_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOS_HOME", str(tmp_path))
    monkeypatch.delenv("AIOS_URL", raising=False)
    assert core_file.place() == tmp_path / "aios.toml"
    monkeypatch.setenv("AIOS_URL", "http://127.0.0.1:1")
    with pytest.raises(BadRequest, match="by hand"):
        core_file.place()


# ── a real kernel ──


def test_a_saved_core_is_there_after_a_restart_and_a_broken_one_does_not_keep_the_kernel_from_starting(
    tmp_path: Path,
) -> None:
    env = home_env(tmp_path / "home")
    broken = '\n[[core]]\nname = "broken"\nkind = "local"\npath = "/nowhere/at/all"\n'
    config = Path(env["AIOS_HOME"]) / "aios.toml"
    config.write_text(config.read_text() + broken)
    for saved in (False, True):
        kernel = OnTerminal("up", "--port", "0", env=env)
        try:
            kernel.read_until("stop with ctrl-C")
            assert "warning: core 'broken' could not be opened: there is no folder /nowhere/at/all" in kernel.said
            assert "NO CORE IS LEFT" not in kernel.said
            states = {core["name"]: core["state"] for core in json.loads(aios("cores", "--json", env=env).stdout)}
            assert states == {"far": "ready", "broken": "failed"} | ({"more": "ready"} if saved else {})
            if not saved:
                done = aios("cores", "add", "more", *REMOTE, "--save", env=env)
                assert (done.returncode, f"Saved in {config}" in done.stderr) == (0, True), done.stderr
            else:
                gone = aios("cores", "remove", "more", "--wait", env=env).stderr
                assert gone == (
                    "Removed core 'more'.\nIt is back at the kernel's next start; --save takes it out of aios.toml.\n"
                )
                assert "next start" not in aios("cores", "add", "more", *REMOTE, env=env).stderr
            kernel.press_ctrl_c()
            kernel.read_until("has stopped")
        finally:
            kernel.close()


def test_a_kernel_whose_every_core_is_broken_starts_and_says_so_loudly(tmp_path: Path) -> None:
    env = home_env(tmp_path / "home", '[[core]]\nname = "broken"\nkind = "local"\npath = "/nowhere/at/all"\n')
    kernel = OnTerminal("up", "--port", "0", env=env)
    try:
        kernel.read_until("stop with ctrl-C")
        assert "NO CORE IS LEFT" in kernel.said
        assert "NONE: no model answers" in kernel.said
    finally:
        kernel.close()


def test_a_core_is_proved_by_the_command(served: Served) -> None:
    done = aios("cores", "test", "scripted", env=served.env())
    assert (done.returncode, done.stderr) == (0, "")
    assert [line[:2] for line in done.stdout.splitlines()] == ["✓ ", "✓ ", "– ", "– ", "✓ ", "– ", "– ", "– ", "✓ "]
    told = json.loads(aios("cores", "test", "scripted", "--json", env=served.env()).stdout)
    assert [check["what"] for check in told][:2] == ["chat", "stream"]


# ── how it looks ──


def shown(**more: object) -> core_view.Told:
    told = {"name": "gpu", "kind": "openai", "model": "qwen3", "state": "ready", "active": 3, "slots": 64, "left": 3}
    return {**told, "context_length": 32768, "resume": "tokens", "why": None, "detail": {}, **more}


def test_a_narrow_terminal_leaves_figures_out_and_keeps_name_state_and_what_is_wrong() -> None:
    many = [shown(name=f"core-{n}") for n in range(30)] + [shown(name="bad", state="failed", why="no such folder /x")]
    for columns in (40, 60, 80, 120, None):
        told = core_view.lines(many, columns).split("\n")
        assert len(told) == 32
        assert all(columns is None or len(line) <= columns for line in told)
        assert told[1].startswith("core-0")
        assert "no such" in told[-1]


def test_cores_in_trouble_come_first_then_the_busiest() -> None:
    some = [shown(name="idle", active=0), shown(name="busy", active=9), shown(name="bad", state="failed", why="x")]
    assert [core["name"] for core in sorted(some, key=core_view.rank)] == ["bad", "busy", "idle"]


def test_the_settings_of_a_core_are_toml_or_plain_text() -> None:
    assert [cores._setting(text) for text in ("slots=3", "probe=false", "model=qwen3:8b", 'ignore=["a"]')] == [
        ("slots", 3),
        ("probe", False),
        ("model", "qwen3:8b"),
        ("ignore", ["a"]),
    ]

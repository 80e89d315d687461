"""What people read: figures, tables, a line for each process; what programs read: exit codes."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

from aios.abi.calls import OpenCall, ProcessInfo
from aios.abi.errors import AiosError, Conflict, Denied, Full, KernelFault, NotFound, TimedOut, Unauthorized
from aios.cli import console, view
from aios.cli.config import to_toml
from aios.cli.exits import code_of
from aios.cli.main import GROUPS, VERBS, usage
from aios.sdk import ConnectionLost


def process(*calls: OpenCall, state: str = "running") -> ProcessInfo:
    return ProcessInfo(
        pid=7, agent="react-07", owner="o", state=state, nice=0, parent=None, command=None, started=0.0, ended=None,
        exit_code=3 if state == "ended" else None, num_calls=2, num_failed=0, tokens_in=1234, tokens_out=56,
        num_slices=4, num_switches=3, wait_s=0.82, run_s=1.0, core="nano", open_calls=list(calls),
    )  # fmt: skip


def call(state: str, **more: object) -> OpenCall:
    return OpenCall(id="c", name="llm_generate", state=state, since=1.25, **more)  # type: ignore[arg-type]


def test_help_names_every_verb_and_loads_none() -> None:
    assert all(f"  {name:<8}" in usage() for name in VERBS)
    assert max(map(len, usage().splitlines())) <= 100
    code = (
        "import sys\nfrom aios.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "assert not {'typer', 'numpy', 'rich', 'starlette', 'aiohttp', 'msgspec'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_each_verb_is_in_one_group() -> None:
    assert sum(map(len, GROUPS.values())) == len(VERBS)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1200, "1.2k"), (99_949, "99.9k"), (99_950, "100k"), (999_600, "1.0M"), (5.6e6, "5.6M")],
)
def test_counts_take_at_most_five_characters(value: float, text: str) -> None:
    assert console.figure(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "4ms"), (0.8, "0.8s"), (12.3, "12s"), (200, "3m20"), (7500, "2h05"), (360_000, "4d"), (359_000, "99h43")],
)
def test_durations_take_at_most_five_characters(seconds: float, text: str) -> None:
    assert console.span(seconds) == text


def test_tables_are_aligned_cut_and_safe_for_a_terminal() -> None:
    text = console.table((">N", "NAME", "DOING"), [(5, "a", "x" * 50), (12, "\x1b[31mred", "y")], columns=20)
    assert text.splitlines() == [" N  NAME      DOING", " 5  a         xxxxx…", "12  ?[31mred  y"]


@pytest.mark.parametrize(
    ("shown", "state", "doing"),
    [
        (process(), "idle", ""),
        (process(call("running")), "running", "llm_generate for 1.2s"),
        (process(call("queued", position=3, estimate=1.2)), "queued", "llm_generate, 3rd in line, ~1.2s"),
        (process(call("blocked", why="process stopped"), state="stopped"), "stopped", "llm_generate, process stopped"),
        (process(call("queued", position=1), call("running")), "running", "llm_generate for 1.2s and 1 more"),
        (process(state="ended"), "ended", "exit code 3"),
    ],
)
def test_a_process_says_what_it_does_and_what_it_waits_for(shown: ProcessInfo, state: str, doing: str) -> None:
    assert (view.state(shown), view.doing(shown)) == (state, doing)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectionLost(""), 3),
        (Unauthorized(""), 4),
        (Denied(""), 4),
        (NotFound(""), 5),
        (Full(""), 6),
        (Conflict(""), 6),
        (TimedOut(""), 7),
        (KernelFault(""), 1),
    ],
)
def test_each_error_has_its_exit_code(error: AiosError, code: int) -> None:
    assert code_of(error) == code


def test_the_shown_configuration_is_toml() -> None:
    settings = {"server": {"port": 1, "host": 'é"x'}, "core": [{"name": "a", "model": None}], "tool": []}
    assert tomllib.loads(to_toml(settings)) == {"server": {"port": 1, "host": 'é"x'}, "core": [{"name": "a"}]}

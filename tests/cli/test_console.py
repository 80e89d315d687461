"""What people read: figures, tables, a line for each process; what programs read: exit codes."""

from __future__ import annotations

import io
import subprocess
import sys
import tomllib

import msgspec
import pytest
from rich.console import Console

from aios.abi.calls import OpenCall, ProcessInfo, ToolInfo
from aios.abi.errors import (
    AiosError,
    Conflict,
    CutShort,
    Denied,
    Full,
    KernelFault,
    NotFound,
    Stopping,
    TimedOut,
    Unauthorized,
)
from aios.cli import console, core_view, logs, tools, top, view
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
    return OpenCall(id="c", name="llm_generate", state=state, since=1.25, **more)


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


def test_tables_are_aligned_by_cells_not_by_characters() -> None:
    text = console.table(("NAME", ">N"), [("研究助手", 1), ("🚀", 23), ("abc", 4)])
    assert text.splitlines() == ["NAME       N", "研究助手   1", "🚀        23", "abc        4"]
    assert console.cut("研究助手", 6) == "研究…"
    assert console.width_of(console.cut("研究助手", 5)) <= 5


def test_lines_of_the_log_are_aligned_by_cells() -> None:
    event = {"time": 0.0, "pid": 7, "name": "sto_read", "state": "done", "call_id": "c"}
    plain, wide = (logs.line({**event, "agent": agent}) for agent in ("clerk", "研究助手漢字漢字漢字"))
    assert [console.width_of(text[: text.index("sto_read")]) for text in (plain, wide)] == [36, 36]


def test_a_line_of_the_log_says_which_core_it_is_about() -> None:
    event = {"time": 0.0, "pid": 0, "agent": "kernel", "name": "core", "core": "gpu", "call_id": ""}
    text = logs.line({**event, "state": "failed", "why": "its engine broke: MemoryError"})
    assert text.endswith("core gpu      failed (its engine broke: MemoryError)")


def test_a_narrow_terminal_does_without_figures_before_what_a_process_does() -> None:
    waits = process(call("queued", position=21, estimate=1.2))
    wide, narrow = view.lines([waits], 120), view.lines([waits], 80)
    assert wide[0].split() == [title.lstrip(">") for title in view.TITLES]
    assert narrow[0].split() == ["PID", "AGENT", "STATE", "OUT", "WAITED", "CORE", "DOING"]
    assert narrow[1].endswith("llm_generate, 21st in line, ~1.2s")
    assert max(map(console.width_of, view.lines([waits], 40))) <= 40


def test_a_narrow_terminal_does_without_figures_before_what_a_tool_does() -> None:
    schema = {"properties": dict.fromkeys(("value", "from_unit", "to_unit"))}
    known = ToolInfo("convert", "Convert a value from one unit to another.", schema, "pure", False, 64, 30.0)
    wide, narrow = (tools.listing([known], columns).splitlines() for columns in (None, 80))
    assert wide[0].split()[2:5] == ["RUNNING", "LIMIT", "TIMEOUT"]
    assert narrow[0].split() == ["TOOL", "EFFECT", "WHAT", "IT", "DOES"]
    assert "Convert a value from one unit" in narrow[1]
    assert max(map(len, narrow)) <= 80


def test_the_admins_process_is_seen_while_programs_work_in_it() -> None:
    looking = OpenCall(id="c", name="proc_list", state="running", since=0.0)
    idle = msgspec.structs.replace(process(looking), agent="admin", owner="admin")
    busy = msgspec.structs.replace(process(looking, call("queued", position=2)), agent="admin", owner="admin")
    assert view.is_ours(idle)
    assert not view.is_ours(busy)
    assert not view.is_ours(msgspec.structs.replace(idle, state="stopped"))
    assert (view.state(busy), view.doing(busy)) == ("queued", "llm_generate, 2nd in line")


def drawn_cores(cores: list[core_view.Told], columns: int, height: int) -> list[str]:
    screen = Console(width=columns, file=io.StringIO())
    with screen.capture() as captured:
        screen.print(top.picture([], cores, columns, height))
    return captured.get().splitlines()[1:]


KV = {"kv_budget_bytes": 536_870_912, "kv_reserved_bytes": 37_748_736, "suspended_pool": 5, "suspended_disk": 1}
OWN_CORE = {
    "name": "nano", "model": "aios-nano", "state": "ready", "active": 8, "slots": 8, "left": 14, "why": None,
    "detail": {**KV, "tokens_per_second": 812.4, "prefix_hit_tokens": 64, "prefix_missed_tokens": 36, "switches": 1240},
}  # fmt: skip
FAILED_CORE = {**OWN_CORE, "name": "bad", "state": "failed", "active": 0, "why": "there is no folder /models/qwen3"}
DRAINED_CORE = {**OWN_CORE, "name": "old", "state": "draining", "active": 1, "left": 4, "detail": {"refusals": 3}}


def test_top_shows_a_cores_speed_memory_tiers_hits_and_switches_as_far_as_there_is_room() -> None:
    [wide, *_] = drawn_cores([OWN_CORE], 150, 24)
    assert wide == (
        "nano         ████████ 8/8 slots · aios-nano · 812 tok/s · KV 37.7MB of 537MB · set aside: 5 pool, 1 disk · "
        "prefix 64% · 1.2k switches"
    )
    for columns in (30, 40, 60, 80, 100):
        [line, *_] = drawn_cores([OWN_CORE], columns, 24)
        assert len(line) <= columns
        assert line.startswith("nano         ███")
        facts = line.split(" · ")[1:]
        assert facts == [fact for fact in wide.split(" · ")[1:] if fact in facts]


def test_a_core_whose_generations_cannot_be_set_aside_on_disk_says_so_and_how_often() -> None:
    core = {**OWN_CORE, "kind": "nano", "context_length": 2048, "resume": "kv_exact"}
    mended = {**core, "detail": {**OWN_CORE["detail"], "disk_failures": 3}}
    failing = {**core, "detail": {**mended["detail"], "disk_trouble": "No space left on device"}}
    told = "none set aside on disk: No space left on device (3 disk failures)"
    assert f" · set aside: 5 pool, 1 disk · {told} · " in drawn_cores([failing], 220, 24)[0]
    assert core_view.lines([failing, core], None).splitlines()[1].endswith(told)
    assert " · set aside: 5 pool, 1 disk · 3 disk failures · " in drawn_cores([mended], 220, 24)[0]
    assert "NOTE" not in core_view.lines([mended], None)


def test_top_shows_the_cores_in_trouble_first_and_counts_those_it_has_no_room_for() -> None:
    lines = drawn_cores([OWN_CORE] * 20 + [DRAINED_CORE] * 2 + [FAILED_CORE], 80, 24)
    assert lines[0] == "bad          ░░░░░░░░ 0/8 slots · failed: there is no folder /models/qwen3"
    assert lines[1].startswith("old          █░░░░░░░ 1/8 slots · draining: 4 calls left · aios-nano")
    assert lines[7] == "… and 16 more cores: 16 ready"
    assert drawn_cores([DRAINED_CORE], 50, 24)[0] == "old          █░░░░░░░ 1/8 slots · draining: 4 cal…"


def drawn(processes: list[ProcessInfo], columns: int, height: int) -> list[str]:
    core = {
        "name": "漢字",
        "active": 1,
        "slots": 2,
        "model": "m",
        "state": "ready",
        "left": 1,
        "why": None,
        "detail": {},
    }
    screen = Console(width=columns, file=io.StringIO())
    with screen.capture() as captured:
        screen.print(top.picture(processes, [core], columns, height))
    return captured.get().splitlines()


def test_top_counts_by_state_and_says_which_states_it_has_no_room_for() -> None:
    many = [process(call("running")), process(call("queued")), process(call("queued")), process(), process()]
    lines = drawn(many, 80, 8)
    assert lines[0] == "5 processes: 1 running, 2 queued, 2 idle · 280 tokens, 15 switches"
    assert lines[1] == "漢字         █░ 1/2 slots · m · 0 tok/s"
    assert lines[-1] == "… and 2 more, idle"
    assert len(lines) == 8
    assert drawn([*many, process(call("queued"))], 80, 8)[-1] == "… and 3 more: 1 queued, 2 idle"
    assert drawn([process()], 80, 20)[0] == "1 process: 1 idle · 56 tokens, 3 switches"


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
        (Stopping(""), 6),
        (CutShort(""), 6),
        (Conflict(""), 6),
        (TimedOut(""), 7),
        (KernelFault(""), 1),
    ],
)
def test_each_error_has_its_exit_code(error: AiosError, code: int) -> None:
    assert code_of(error) == code


def test_the_shown_configuration_is_toml() -> None:
    settings = {"server": {"port": 1, "host": 'é"x'}, "core": [{"name": "a", "model": None}], "tool": []}
    told = to_toml({"router": {"aliases": {"gpt-4o": "a b", "x": "y"}}, "model": [{"cores": {"a": 3.0}}]})
    assert tomllib.loads(told) == {"router": {"aliases": {"gpt-4o": "a b", "x": "y"}}, "model": [{"cores": {"a": 3.0}}]}
    assert tomllib.loads(to_toml(settings)) == {"server": {"port": 1, "host": 'é"x'}, "core": [{"name": "a"}]}

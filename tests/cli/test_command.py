"""The command on a kernel that serves: what it prints, what it steers, how programs live and die."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.cli.command import CLEAN, Served, aios, apart, started

from aios.kernel import Kernel
from aios.sdk import Client

ASK = """
import json, os, urllib.request
url, key = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
body = json.dumps({"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}).encode()
headers = {"Authorization": "Bearer " + key, "Content-Type": "application/json"}
with urllib.request.urlopen(urllib.request.Request(url + "/chat/completions", body, headers)) as answer:
    print(json.load(answer)["choices"][0]["message"]["content"], os.environ["AIOS_PID"])
"""

UNDER_ADMIN = """
from aios import Client
from aios.abi.errors import Cancelled
with Client(retries=0) as client:
    try:
        client.llm_generate([{"role": "user", "content": "hi"}])
    except Cancelled as error:
        print(error.message)
"""


def listed(served: Served, *options: str) -> list[dict[str, Any]]:
    done = aios("ps", "--json", *options, env=served.env())
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def spawn(served: Served, agent: str) -> dict[str, Any]:
    with Client(served.url, served.key) as client:
        return msgspec.structs.asdict(client.proc_spawn(agent))


def admins(served: Served) -> dict[str, Any]:
    return next(p for p in listed(served, "--all") if p["agent"] == "admin" and p["state"] != "ended")


def test_a_program_runs_as_an_agent_process_with_its_own_key(served: Served) -> None:
    done = apart("run", "--agent", "asker", "--", sys.executable, "-c", ASK, env=served.env())
    assert done.returncode == 0, done.stderr
    text, pid = done.stdout.rsplit(maxsplit=1)
    assert text == "four words are said"
    process = next(p for p in listed(served, "--all") if p["pid"] == int(pid))
    assert (process["agent"], process["state"], process["exit_code"]) == ("asker", "ended", 0)
    assert process["num_calls"] == 1
    assert process["tokens_out"] == 4


def test_a_programs_exit_code_is_the_commands(served: Served) -> None:
    assert apart("run", "--", sys.executable, "-c", "raise SystemExit(41)", env=served.env()).returncode == 41
    missing = apart("run", "--", "no-such-program-anywhere", env=served.env())
    assert missing.returncode == 5
    assert "cannot start 'no-such-program-anywhere'" in missing.stderr
    killed = apart("run", "--", sys.executable, "-c", "import os; os.kill(os.getpid(), 9)", env=served.env())
    assert killed.returncode == 128 + 9


def test_a_program_cannot_reach_the_home_or_upstream_keys(served: Served) -> None:
    (served.home / "secret").write_text("x")
    look = (
        "import os, pathlib\n"
        f"try: pathlib.Path({str(served.home / 'secret')!r}).read_text(); print('read')\n"
        "except OSError: print('kept away')\n"
        "print(os.environ.get('AIOS_HOME'), os.environ.get('GROQ_API_KEY'), 'sk-up' in str(os.environ))"
    )
    env = {**served.env(), "GROQ_API_KEY": "sk-up-12345678", "OPENAI_API_KEY": "sk-up-87654321"}
    done = apart("run", "--", sys.executable, "-c", look, env=env)
    if "cannot_confine" in done.stderr or "was not started" in done.stderr:
        pytest.skip("this machine has no way to confine a program")
    assert done.stdout.split("\n")[:2] == ["kept away", "None None False"], done.stderr


def test_unconfined_says_so(served: Served) -> None:
    done = apart("run", "--unconfined", "--", sys.executable, "-c", "print('hi')", env=served.env())
    assert (done.returncode, done.stdout) == (0, "hi\n")
    assert "is unconfined: it can reach all that you can" in done.stderr


def test_kill_ends_the_call_and_the_program(served: Served) -> None:
    served.call(served.core.gate.clear)
    try:
        running = started("run", "--agent", "victim", "--", sys.executable, "-c", ASK, env=served.env())
        process = _wait_for(served, "victim", "running")
        assert aios("kill", str(process["pid"]), env=served.env()).returncode == 0
        _, errors = running.communicate(timeout=60)
        assert running.returncode != 0
        assert "was killed; its program is ended" in errors
        assert not served.core.inside
    finally:
        served.call(served.core.gate.set)


def test_a_signal_to_the_command_is_the_programs(served: Served) -> None:
    code = "import signal, sys\nsignal.signal(15, lambda *_: sys.exit(7))\nprint('ready', flush=True)\nsignal.pause()"
    running = started("run", "--", sys.executable, "-c", code, env=served.env())
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == 7
    running.communicate()


def test_pause_holds_a_process_and_resume_lets_it_go(served: Served) -> None:
    served.call(served.core.gate.clear)
    try:
        running = started("run", "--agent", "sleeper", "--", sys.executable, "-c", ASK, env=served.env())
        pid = str(_wait_for(served, "sleeper", "running")["pid"])
        assert aios("pause", pid, env=served.env()).returncode == 0
        served.call(served.core.gate.set)
        assert _wait_for(served, "sleeper", "blocked")["state"] == "stopped"
        assert aios("nice", pid, "-5", env=served.env()).returncode == 0
        assert aios("resume", pid, env=served.env()).returncode == 0
        out, errors = running.communicate(timeout=60)
        assert out.startswith("four words are said"), errors
    finally:
        served.call(served.core.gate.set)


def test_steering_says_what_it_did(served: Served) -> None:
    spawned = spawn(served, "steered")
    pid, name = str(spawned["pid"]), f"{spawned['pid']} (steered)"
    for words, says in (
        (("pause", pid), f"Paused {name}; 'aios resume {pid}' lets it go on.\n"),
        (("pause", pid), f"{name} is paused already.\n"),
        (("resume", pid), f"Resumed {name}.\n"),
        (("resume", pid), f"{name} is not paused.\n"),
        (("nice", pid, "-5"), f"{name} has nice -5 now; it was 0.\n"),
        (("kill", pid), f"Killed {name}.\n"),
    ):
        done = aios(*words, env=served.env())
        assert (done.returncode, done.stdout, done.stderr) == (0, says, "")
    again = aios("kill", pid, env=served.env())
    assert (again.returncode, again.stderr) == (5, f"aios kill: process {name} has ended already\n")


def test_steering_as_json_tells_of_the_processes_as_they_are_then(served: Served) -> None:
    pid = spawn(served, "steered")["pid"]
    for words, key, value in (
        (("pause", str(pid)), "state", "stopped"),
        (("nice", str(pid), "3"), "nice", 3),
        (("kill", str(pid)), "state", "ended"),
    ):
        (told,) = json.loads(aios(*words, "--json", env=served.env()).stdout)
        assert (told["pid"], told[key]) == (pid, value)


def test_one_process_that_is_not_there_does_not_spare_the_others(served: Served) -> None:
    pid = spawn(served, "steered")["pid"]
    done = aios("kill", "99999", str(pid), env=served.env())
    assert done.returncode == 5
    assert done.stdout == f"Killed {pid} (steered).\n"
    assert done.stderr == "aios kill: there is no process 99999; 'aios ps' lists them\n"


def test_what_is_no_pid_is_said_without_a_block_of_usage(served: Served) -> None:
    for verb in ("kill", "pause", "resume"):
        done = aios(verb, "abc", env=served.env())
        assert done.returncode == 2
        assert done.stderr == (
            f"aios {verb}: 'abc' is no process id: that is a whole number such as 12, and 'aios ps' lists them\n"
        )
    assert "'0' is no process id" in aios("nice", "0", "5", env=served.env()).stderr
    assert "NICE must be a whole number" in aios("nice", "1", "x", env=served.env()).stderr


def test_help_names_types_in_words(served: Served) -> None:
    for words in (["nice", "--help"], ["up", "--help"], ["kill", "--help"], ["run", "--help"]):
        shown = aios(*words, env=served.env()).stdout
        assert "Usage: " in shown
        assert not any(word in shown for word in ("range>", "<int", "<str", "list["))


def test_programs_under_the_admin_key_are_seen_and_can_be_killed(served: Served) -> None:
    idle = aios("kill", str(admins(served)["pid"]), env=served.env())
    assert idle.returncode == 2
    assert "is the admin key's own, this command's too, and has nothing to kill" in idle.stderr
    served.call(served.core.gate.clear)
    try:
        asking = subprocess.Popen(
            [sys.executable, "-c", UNDER_ADMIN], env=served.env(), stdout=subprocess.PIPE, text=True
        )
        pid = _wait_for(served, "admin", "running")["pid"]
        assert "llm_generate" in next(row for row in aios("ps", env=served.env()).stdout.splitlines() if "admin" in row)
        killed = aios("kill", str(pid), env=served.env())
        assert killed.returncode == 0, killed.stderr
        assert killed.stdout.startswith(f"Killed {pid} (admin), 1 open call cancelled. The admin key goes on")
        assert asking.communicate(timeout=60)[0] == "its process was killed\n"
    finally:
        served.call(served.core.gate.set)


def _wait_for(served: Served, agent: str, state: str) -> dict[str, Any]:
    """The process of `agent` once a call of it is in `state`."""
    return asyncio.run_coroutine_threadsafe(_until(served.kernel, agent, state), served.loop).result(100)


async def _until(kernel: Kernel, agent: str, state: str) -> dict[str, Any]:
    changed = asyncio.Event()
    stop_listening = kernel.trace.listen(lambda row: changed.set())
    try:
        while True:
            for process in kernel.processes.list():
                if process.agent == agent and any(call.state.value == state for call in process.open_calls.values()):
                    return msgspec.structs.asdict(kernel.info(process))
            changed.clear()
            await changed.wait()
    finally:
        stop_listening()


def test_a_built_in_agent_answers_on_stdout(served: Served) -> None:
    done = aios("run", "react", "say", "something", env=served.env())
    assert (done.returncode, done.stdout) == (0, "four words are said\n"), done.stderr
    whole = json.loads(aios("run", "react", "--json", "say something", env=served.env()).stdout)
    assert (whole["text"], whole["finish"], whole["succeeded"]) == ("four words are said", "answer", True)


def test_a_built_in_agent_that_is_told_to_end_leaves_no_process_behind(served: Served) -> None:
    served.call(served.core.gate.clear)
    try:
        running = started("run", "--agent", "ender", "react", "task", env=served.env())
        pid = _wait_for(served, "ender", "running")["pid"]
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=60)
        assert running.returncode == 128 + signal.SIGTERM
        assert pid not in [p["pid"] for p in listed(served)]
    finally:
        served.call(served.core.gate.set)


def test_tables_and_json_tell_the_same(served: Served) -> None:
    for verb in ("cores", "tools"):
        told = json.loads(aios(verb, "--json", env=served.env()).stdout)
        names = [row["name"] for row in (told["tools"] if verb == "tools" else told)]
        plain = aios(verb, env=served.env()).stdout
        assert names
        assert all(name in plain for name in names)
    assert "scripted" in aios("top", "--once", env=served.env()).stdout


def test_a_new_key_works_until_it_is_revoked(served: Served) -> None:
    made = json.loads(aios("keys", "new", "bob", "--json", env=served.env()).stdout)
    bob = {**served.env(), "AIOS_KEY": made["key"]}
    assert aios("tools", env=bob).returncode == 0
    assert aios("keys", "list", env=bob).returncode == 4
    assert made["id"] in aios("keys", "list", env=served.env()).stdout
    revoked = aios("keys", "revoke", made["id"], env=served.env())
    assert (revoked.returncode, revoked.stdout, revoked.stderr) == (0, "", f"Revoked {made['id']}.\n")
    refused = aios("tools", env=bob)
    assert refused.returncode == 4
    assert refused.stderr.count("\n") == 1


def test_logs_show_what_happened_and_no_contents(served: Served) -> None:
    done = aios("logs", "--tail", "1000", env=served.env())
    assert done.returncode == 0, done.stderr
    assert " llm_generate  done" in done.stdout
    assert "four words" not in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["kill", "99999"], 5, "there is no process 99999"),
        (["run", "reakt", "task"], 2, "did you mean 'react'?"),
        (["run"], 2, "aios run -- PROGRAM"),
        (["run", "--model", "m", "--", "true"], 2, "--model is for built-in agents"),
        (["run", "--max-steps", "8", "--", "true"], 2, "--max-steps is for built-in agents"),
        (["run", "--json", "--", "true"], 2, "--json is for built-in agents"),
        (["run", "--unconfined", "react", "task"], 2, "--unconfined is for programs"),
        (["run", "--strategy", "both", "react", "task"], 2, "--strategy is for reflexion"),
        (["run", "--strategy", "bogus", "reflexion", "task"], 2, "there are none, last_attempt, reflexion and both"),
        (["nope"], 2, "there is no command 'nope'"),
        (["ps", "--wrong"], 2, "--wrong"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(served: Served, words: list[str], code: int, says: str) -> None:
    done = aios(*words, env=served.env())
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_without_a_kernel_every_verb_says_how_to_start_one(tmp_path: Path) -> None:
    env = {**CLEAN, "AIOS_HOME": str(tmp_path), "AIOS_URL": "http://127.0.0.1:1"}
    for words in (["ps"], ["run", "react", "task"], ["logs"], ["down"]):
        done = aios(*words, env=env)
        assert done.returncode == 3
        assert "start one with 'aios up'" in done.stderr or "nothing to stop" in done.stderr


def test_a_plain_program_on_openais_sdk_runs_unchanged(served: Served) -> None:
    example = Path(__file__).parent.parent.parent / "examples" / "openai_agent.py"
    done = apart("run", "--agent", "plain", "--", sys.executable, str(example), "say something", env=served.env())
    assert (done.returncode, done.stdout) == (0, "four words are said\n"), done.stderr
    assert served.core.seen[-1].tools is not None
    assert "plain" in [process["agent"] for process in listed(served, "--all")]

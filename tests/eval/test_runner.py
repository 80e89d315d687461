"""Running tasks and counting what came of them."""

from __future__ import annotations

import asyncio

import pytest

from aios.abi.errors import UpstreamFault
from aios.eval.report import Share, Waits, by_family, quantile, share
from aios.eval.runner import Run, Runner
from aios.eval.workload import FAMILIES, Task, generate
from aios.kernel.trace import Row
from aios.testing import ScriptedCore, booted, tool_call


def tasks(count: int, family: str = "lookup") -> list[Task]:
    return list(generate("test", "seen", 1, count, [family]))


def run_all(core: ScriptedCore, given: list[Task], **more: object) -> tuple[list[Run], set[str]]:
    async def go() -> tuple[list[Run], set[str]]:
        async with booted(cores=[core]) as kernel:
            runs = await Runner(kernel, concurrency=2, **more).run_all(given)
            return runs, {p.state.value for p in kernel.processes.list(ended=True) if p.pid in {r.pid for r in runs}}

    return asyncio.run(go())


def test_a_task_is_right_when_the_model_says_what_was_expected() -> None:
    task = tasks(1)[0]
    step = task.turns[0].steps[0]
    path = next(iter(task.files))
    reply = tool_call("read_file", path=path) if step.tool == "read_file" else tool_call(step.tool, **step.arguments)
    answer = " ".join(task.expected.contains) + (f" {task.expected.number}" if task.expected.number else "")
    (run,), states = run_all(ScriptedCore([reply, answer]), [task])
    assert run.is_right
    assert run.tools == [step.tool]
    assert (run.num_generations, states) == (2, {"ended"})


def test_what_breaks_a_run_is_kept_and_the_others_go_on() -> None:
    told: list[str] = []
    runs, states = run_all(
        ScriptedCore([UpstreamFault("down"), "no idea"]), tasks(3), on_end=lambda run: told.append(run.agent)
    )
    assert [run.error for run in runs] == ["down", None, None]
    assert not any(run.is_right for run in runs)
    assert (sorted(told), states) == (["react-01", "react-02", "react-03"], {"ended"})


def test_a_listener_that_breaks_ends_the_runs_with_its_own_error() -> None:
    def leave(_: Run) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_all(ScriptedCore("no idea"), tasks(3), on_end=leave)


def test_unconstrained_tasks_are_offered_tools_without_a_grammar() -> None:
    core = ScriptedCore("no idea")
    run_all(core, tasks(1), is_constrained=False)
    assert [tool.function.strict for tool in core.seen[0].tools or []] == [False] * len(core.seen[0].tools or [])


def test_shares_are_counted_by_family() -> None:
    runs = [
        Run(task, "a", is_right=n % 2 == 0) for n, task in enumerate(generate("test", "seen", 0, 2 * len(FAMILIES)))
    ]
    assert share(runs) == Share(len(FAMILIES), 2 * len(FAMILIES))
    assert sum(each.total for each in by_family(runs).values()) == len(runs)
    assert Share(0, 0).value == 0.0


def test_a_call_waits_from_queue_to_slice_each_time_and_others_are_not_counted() -> None:
    waits = Waits()
    moves = ((0, "queued"), (2, "running"), (3, "suspended"), (3, "queued"), (7, "running"), (8, "done"))
    for time, state in moves:
        waits(Row(time, "c1", 1, "llm_generate", state))
        waits(Row(time, "c2", 1, "tool_run", state))
    assert waits.done == [6.0]
    assert waits.mean == 6.0


@pytest.mark.parametrize(("values", "part", "found"), [([], 0.9, 0.0), ([1.0], 0.9, 1.0), (range(1, 11), 0.9, 10)])
def test_quantiles(values: list[float], part: float, found: float) -> None:
    assert quantile(values, part) == found

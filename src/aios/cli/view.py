"""How a process looks in a line: shared by `ps` and `top`. Knows the calls' structs, no kernel and no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from aios.abi.calls import CALLS, OpenCall, ProcessInfo

from .console import cut, figure, ordinal, span, table

TITLES = (
    ">PID", "AGENT", "STATE", ">CALLS", ">IN", ">HITS", ">OUT", ">SLICES", ">SWITCHES", ">WAITED", "CORE", "DOING",
)  # fmt: skip
COST = ">COST"
"""Stands before CORE where any process has one."""
DROP = ("SWITCHES", "SLICES", "HITS", "IN", "CALLS", "WAITED", "OUT", "CORE")
"""What a narrow terminal does without, in this order, so that there is room for what each does."""
RANK = ("running", "queued", "blocked", "stopped", "idle", "ended")
"""States, the busiest first."""

_URGENT = ("running", "queued", "suspended", "blocked", "new")


def is_ours(process: ProcessInfo) -> bool:
    """Whether there is nothing to see but this command, looking: the admin key's process, with no work open."""
    return is_admins(process) and not work(process) and process.state != "stopped"


def is_admins(process: ProcessInfo) -> bool:
    """Whether it is the process of the admin's key. Programs that use that key work in it too."""
    return process.agent == process.owner == "admin" and process.command is None


def work(process: ProcessInfo) -> list[OpenCall]:
    """Open calls that ask a module for something; the kernel's own, such as this look, left out."""
    return [call for call in process.open_calls if call.name not in CALLS or CALLS[call.name].module != "kernel"]


def told(process: ProcessInfo) -> ProcessInfo:
    """The process as `--json` tells of it: its state is the one that people see. The kernel's own is whether the
    process lives; what it does now is what both ask who look, and two words for one process would be one too many."""
    return msgspec.structs.replace(process, state=state(process))


def lines(processes: Sequence[ProcessInfo], columns: int | None) -> list[str]:
    """A line of titles, then one a process."""
    titles: tuple[str, ...] = TITLES
    rows = [row(process) for process in processes]
    if any(process.cost is not None for process in processes):
        at = TITLES.index("CORE")
        titles = (*titles[:at], COST, *titles[at:])
        rows = [(*each[:at], dollars(p.cost), *each[at:]) for each, p in zip(rows, processes, strict=True)]
    drop = tuple(name for name in (*DROP, COST.lstrip(">")) if name in {title.lstrip(">") for title in titles})
    return table(titles, rows, columns=columns, drop=drop).split("\n")


def dollars(cost: float | None) -> str:
    """As much of a sum as matters: cents, and below a dollar three figures that say something."""
    if cost is None:
        return "-"
    return f"${cost:.2f}" if cost >= 1 or not cost else f"${cost:.3g}" if cost >= 0.0001 else "<$0.0001"


def states(found: Iterable[str]) -> str:
    """How many of each state, the busiest first: `2 running, 11 queued`."""
    all_of_them = list(found)
    return ", ".join(f"{all_of_them.count(each)} {each}" for each in sorted(set(all_of_them), key=rank))


def more(hidden: Sequence[str]) -> str:
    """What stands below a list that is too long for the screen: how many are not shown, and in which states."""
    told = states(hidden)
    return (
        f"… and {len(hidden)} more: {told}" if "," in told else f"… and {len(hidden)} more, {hidden[0]}" if told else ""
    )


def rank(state: str) -> int:
    return RANK.index(state) if state in RANK else len(RANK)


def row(process: ProcessInfo) -> tuple[object, ...]:
    return (
        process.pid,
        cut(process.agent, 24),
        state(process),
        process.num_calls,
        figure(process.tokens_in),
        f"{100 * process.tokens_cached / process.tokens_in:.0f}%" if process.tokens_cached else "-",
        figure(process.tokens_out),
        process.num_slices,
        process.num_switches,
        span(process.wait_s),
        process.core or "-",
        doing(process),
    )


def state(process: ProcessInfo) -> str:
    """Of the process if it is stopped or over, else of what it does: waiting is a state, and no sign of death."""
    if process.state != "running":
        return process.state
    call = foremost(process)
    return "idle" if call is None else "queued" if call.state == "suspended" else call.state


def doing(process: ProcessInfo) -> str:
    if process.state == "ended":
        return "" if process.exit_code is None else f"exit code {process.exit_code}"
    call = foremost(process)
    if call is None:
        return ""
    others = len(_told(process)) - 1
    return f"{call.name}{_waiting(call)}{f' and {others} more' if others else ''}"


def _waiting(call: OpenCall) -> str:
    if call.state == "running":
        return f" for {span(call.since)}"
    parts = []
    if call.position is not None:
        parts.append(f"{ordinal(call.position)} in line")
    if call.estimate:
        parts.append(f"~{span(call.estimate)}")
    if not parts and call.why:
        parts.append(call.why)
    return f", {', '.join(parts)}" if parts else ""


def foremost(process: ProcessInfo) -> OpenCall | None:
    """The open call that tells most: a running one, else one that waits."""
    return min(_told(process), key=lambda call: _URGENT.index(call.state), default=None)


def _told(process: ProcessInfo) -> list[OpenCall]:
    return work(process) if is_admins(process) else process.open_calls

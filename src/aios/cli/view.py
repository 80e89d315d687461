"""How a process looks in a line: shared by `ps` and `top`. Knows the calls' structs, no kernel and no terminal."""

from __future__ import annotations

from aios.abi.calls import OpenCall, ProcessInfo

from .console import figure, ordinal, span

TITLES = (">PID", "AGENT", "STATE", ">CALLS", ">IN", ">OUT", ">SLICES", ">WAITED", "CORE", "DOING")

_URGENT = ("running", "queued", "suspended", "blocked", "new")


def is_ours(process: ProcessInfo) -> bool:
    """Whether it is the process of the admin's key: this command, looking."""
    return process.agent == process.owner == "admin" and process.command is None


def row(process: ProcessInfo) -> tuple[object, ...]:
    return (
        process.pid,
        process.agent[:24],
        state(process),
        process.num_calls,
        figure(process.tokens_in),
        figure(process.tokens_out),
        process.num_slices,
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
    others = len(process.open_calls) - 1
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
    return min(process.open_calls, key=lambda call: _URGENT.index(call.state), default=None)

"""`aios top`: processes, queues and cores, live."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from aios.abi.calls import ProcessInfo
from aios.sdk import Client

from . import core_view, view
from .connect import client
from .console import aligned, counted, cut, print_json, safe, width, width_of
from .core_view import Told

_STYLES = {"running": "green", "queued": "yellow", "blocked": "yellow", "stopped": "red", "idle": "dim"}
_COLOURS = {"draining": "yellow", "opening": "yellow", "restarting": "yellow", "failed": "red"}
_WIDEST = 1000
"""Columns of a picture that nobody looks at on a terminal: nothing needs to be cut."""


def command(
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.1, max=60, help="Seconds a picture.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="One picture, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One picture as JSON, and end.")] = False,
) -> None:
    """Show processes as they run: the busiest first, under a bar of each core's slots with its tokens a second, the
    memory of its sequences, those that were set aside and where, how much of the prompts was known already, and
    switches. What the terminal has no room for is left out. Leave with ctrl-C. Into a pipe goes one picture.

    \b
    Examples:
      aios top
      aios top --once
    """
    with client() as kernel:
        if as_json:
            processes, cores = _look(kernel)
            print_json({"processes": [view.told(p) for p in processes], "cores": cores})
        elif once or width() is None:
            console = Console(width=width() or _WIDEST)
            console.print(picture(*_look(kernel), console.width, None))
        else:
            _follow(kernel, interval)


def _look(kernel: Client) -> tuple[list[ProcessInfo], list[Told]]:
    processes = [p for p in kernel.proc_list().processes if not view.is_ours(p)]
    processes.sort(key=lambda p: (view.rank(view.state(p)), -p.tokens_out, p.pid))
    return processes, kernel.fetch("GET", "/aios/v1/cores")["cores"]


def _follow(kernel: Client, interval: float) -> None:
    console = Console()
    try:
        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                live.update(picture(*_look(kernel), console.width, console.height), refresh=True)
                time.sleep(interval)
    except KeyboardInterrupt:
        return  # that is how one leaves


def picture(processes: list[ProcessInfo], cores: list[Told], columns: int, height: int | None) -> Group:
    head = [_summary(processes), *_cores(cores, columns, height), Text("")]
    room = len(processes) if height is None else max(3, height - len(head) - 2)
    titles, *rows = view.lines(processes[:room], columns)
    more = view.more([view.state(process) for process in processes[room:]])
    return Group(*head, _line(titles, "dim"), *map(_line, rows), *([Text(more, "dim")] if more else []))


def _line(text: str, style: str = "") -> Text:
    line = Text(text, style, no_wrap=True, overflow="ellipsis")
    for word, colour in _STYLES.items():
        line.highlight_words([f" {word} "], colour)
    return line


def _summary(processes: list[ProcessInfo]) -> Text:
    states = view.states(view.state(process) for process in processes)
    tokens = counted(sum(process.tokens_out for process in processes), "token")
    switches = counted(sum(process.num_switches for process in processes), "switch", "switches")
    head = counted(len(processes), "process", "processes")
    return Text(f"{head}{f': {states}' if states else ''} · {tokens}, {switches}", no_wrap=True, overflow="ellipsis")


def _cores(cores: list[Told], columns: int, height: int | None) -> list[Text]:
    """A line for each core, those to look at first; as many as leave room for processes."""
    room = len(cores) if height is None else max(3, height // 3)
    shown, hidden = sorted(cores, key=core_view.rank), []
    if len(shown) > room:
        shown, hidden = shown[: room - 1], shown[room - 1 :]
    lines = [_bar(core, columns) for core in shown]
    if hidden:
        states = [core["state"] for core in hidden]
        told = ", ".join(f"{states.count(each)} {each}" for each in dict.fromkeys(states))
        lines.append(Text(f"… and {counted(len(hidden), 'more core')}: {told}", "dim"))
    return lines


def _bar(core: Told, columns: int) -> Text:
    """A core's slots, one cell each while there are few, and what there is room for of its figures."""
    busy, slots = core["active"], core["slots"]
    cells = max(1, min(slots, 40, columns // 4))
    full = min(cells, round(busy * cells / slots))
    text = Text(f"{aligned(cut(safe(core['name']), 12), 12)} ", no_wrap=True, overflow="ellipsis")
    text.append("█" * full, _COLOURS.get(core["state"], "green")).append("░" * (cells - full), "dim")
    first, *rest = core_view.facts(core)
    text.append(f" {first}")
    if core["state"] != "ready":
        text.append(f" · {rest.pop(0)}", _COLOURS[core["state"]])
    for fact in rest:
        if text.cell_len + 3 + width_of(fact) <= columns:
            text.append(f" · {fact}")
    return text

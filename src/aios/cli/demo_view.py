"""What the demo shows while it runs: a live picture on a terminal, plain lines into a pipe. Knows a kernel's door."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.table import Table
from rich.text import Text

from aios.abi.calls import ProcessInfo
from aios.eval.runner import Run
from aios.kernel import Kernel, Process

from .console import counted, cut, ordinal, safe, span
from .view import foremost, more, state

PER_SECOND = 8
_OTHER_LINES = 6  # what stands above and below the agents
_STYLES = {"running": "green", "queued": "yellow", "idle": "dim", "right": "bold green", "wrong": "bold red"}


class View(Protocol):
    """Told of each run's beginning and end; shows what it likes between `with` and its end."""

    def started(self, run: Run) -> None: ...
    def ended(self, run: Run) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Lines:
    """A line a finished agent."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._begun = time.perf_counter()

    def started(self, run: Run) -> None:
        """Two dozen begin at once: nothing to say."""

    def ended(self, run: Run) -> None:
        process = self._kernel.processes.get(run.pid)
        print(
            f"{time.perf_counter() - self._begun:5.1f}s  {run.agent}  {'right' if run.is_right else 'WRONG'}  "
            f"calls {process.num_calls:2}, tokens {process.tokens_out:3}, switches {process.num_switches:2}, "
            f"waited {span(process.wait_s)}",
            flush=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


class Live:
    """The agents, busiest first, under a bar of the model's slots."""

    def __init__(self, kernel: Kernel, agents: int, console: Console | None = None) -> None:
        self._kernel = kernel
        self._agents = agents
        self._runs: list[Run] = []
        self._console = console or Console()
        self._begun = time.perf_counter()
        self._live = RichLive(
            console=self._console, get_renderable=self.frame, refresh_per_second=PER_SECOND, transient=True
        )

    def started(self, run: Run) -> None:
        self._runs.append(run)

    def ended(self, run: Run) -> None:
        """The next frame shows it."""

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def frame(self) -> Group:
        runs = sorted(self._runs, key=lambda run: (run.is_over, run.pid))
        room = max(3, self._console.height - _OTHER_LINES)
        table = _new_table()
        for run in runs[:room]:
            self._add(table, run)
        hidden = Text(f" {more([self._state(run) for run in runs[room:]])}", "dim")
        return Group(self._head(), self._bar(), table, hidden)

    def _head(self) -> Text:
        scheduler = self._kernel.config.scheduler
        turns = "first come, first served" if scheduler.policy == "fifo" else f"{scheduler.quantum} tokens a turn"
        text = f"{counted(self._agents, 'agent')} · one model · {turns} · {time.perf_counter() - self._begun:.1f}s"
        return Text(f"AIOS demo  {text}", "bold", no_wrap=True, overflow="ellipsis")

    def _bar(self) -> Text:
        queue = self._kernel.queues["llm"]
        processes = [self._kernel.processes.get(run.pid) for run in self._runs]
        tokens = counted(sum(_tokens(process) for process in processes), "token")
        switches = counted(sum(process.num_switches for process in processes), "switch", "switches")
        slots = sum(core.slots for core in self._kernel.llm.info())
        busy = len(queue.running)
        text = Text("slots ", no_wrap=True, overflow="ellipsis")
        text.append("█" * busy, "green").append("░" * (slots - busy), "dim")
        text.append(f" {busy}/{slots}  {len(queue.policy)} wait  ")
        text.append(f"{sum(run.is_over for run in self._runs)}/{self._agents} done  ", "bold")
        text.append(f"{tokens}  {switches}")
        return text

    def _state(self, run: Run) -> str:
        if run.is_over:
            return "right" if run.is_right else "wrong"
        return state(self._kernel.info(self._kernel.processes.get(run.pid)))

    def _add(self, table: Table, run: Run) -> None:
        process = self._kernel.processes.get(run.pid)
        info = self._kernel.info(process)
        is_now, tokens = self._state(run), _tokens(process)
        table.add_row(
            run.agent,
            Text(is_now, _STYLES.get(is_now, "")),
            "" if run.is_over else _doing(info),
            one_line(_text(run)),
            str(tokens)
            if tokens or run.is_over
            else "",  # a core tells of them by the slice: not known yet is not none
            str(process.num_switches),
            span(info.wait_s),
        )


def _new_table() -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim", expand=True)
    for name, justify, size in (
        ("AGENT", "left", 9),
        ("STATE", "left", 7),
        ("DOING", "left", 12),
        ("TASK, THEN ANSWER", "left", None),
        ("TOKENS", "right", 6),
        ("SWITCH", "right", 6),
        ("WAITED", "right", 6),
    ):
        table.add_column(
            name,
            justify="right" if justify == "right" else "left",
            width=size,
            ratio=None if size else 1,
            no_wrap=True,
            overflow="ellipsis",
        )
    return table


def _doing(info: ProcessInfo) -> str:
    call = foremost(info)
    if call is None:
        return ""
    if call.position is not None:
        return f"{ordinal(call.position)} in line"
    return "thinks" if call.name == "llm_generate" else call.name


def _text(run: Run) -> str:
    """What is asked now; what was answered in the end."""
    if run.is_over:
        return run.error or run.answers[-1]
    return run.task.prompts[min(len(run.answers), len(run.task.prompts) - 1)]


def _tokens(process: Process) -> int:
    """Generated so far, the call under way included."""
    return process.tokens_out + sum(call.tokens_out for call in process.open_calls.values())


def one_line(text: str, columns: int | None = None) -> str:
    return cut(safe(" ".join(text.split())), columns)

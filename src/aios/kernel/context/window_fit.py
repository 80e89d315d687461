"""Makes a call's conversation fit before it is queued: drops its oldest turns, or has them summarised.

Knows cores by how they count and the kernel by whom it asks for a summary; what goes is decided in `window.py`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar
from weakref import WeakValueDictionary

import msgspec

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError, Cancelled, ContextLengthExceeded
from aios.abi.messages import ContextReport, Generation, Message

from ..syscall import Syscall
from ..unbroken import over
from .summary import Writer
from .window import Fit, TooMuch, fit, with_summary

THREADS = 2
"""Conversations that are counted at once: Python counts no faster in more, and others need it meanwhile."""
R = TypeVar("R")


class Measure(Protocol):
    """A model's window, and how much of it a request takes: exactly, or by an estimate that is on the safe side."""

    @property
    def context(self) -> int: ...

    @property
    def is_exact(self) -> bool: ...

    def count(self, args: LLMGenerate) -> int:
        """Tokens of the prompt. Takes its time: not for the event loop."""


class Cores(Protocol):
    """What windows need of the cores."""

    def measure(self, model: str | None) -> Measure | None:
        """The smallest window among the cores that answer to `model`; None when none is known."""


Ask = Callable[[Syscall, LLMGenerate], Awaitable[Generation]]
"""Makes a generation that a call needs first, on its process's account."""
Meter = Callable[[LLMGenerate], int]
"""A measure's count, for one job: it ends that when nobody waits for it any more."""


class Windows:
    """A step before a generation is queued. `summarise_with` names the model that writes summaries; without it a call's
    own does."""

    why = "is made to fit the window"

    def __init__(self, cores: Cores, ask: Ask, summarise_with: str | None = None) -> None:
        self._cores = cores
        self._ask = ask
        self._with = summarise_with
        self._threads = asyncio.Semaphore(THREADS)
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._counts = {"fitted": 0, "dropped_messages": 0, "dropped_tokens": 0, "summaries": 0}

    def wants(self, call: Syscall) -> bool:
        return isinstance(call.args, LLMGenerate) and call.args.window in ("drop", "summarise")

    def statistics(self) -> dict[str, int]:
        return dict(self._counts)

    async def prepare(self, call: Syscall) -> None:
        """Change `call.args` so that they fit, and note in `call.context` what went."""
        args: LLMGenerate = call.args
        measure = self._cores.measure(args.model)
        if measure is None:
            return  # nobody knows the window: the server behind the core says when it is too small
        call.why = "its messages are counted"
        # Asked for once: the summariser's core may leave while its summary is made.
        of_writer = self._of_writer(args, measure)
        writer = self._writer(args, measure, of_writer) if args.window == "summarise" else None
        found = await self._aside(
            call, measure, partial(_decide, args, measure, 0 if writer is None else writer.reserve)
        )
        if not found.dropped:
            return
        report = ContextReport("drop", len(found.dropped), found.total - found.tokens, not measure.is_exact)
        kept = found.kept
        if writer is not None:
            summary, is_cut = await self._summary(call, writer, of_writer, found.dropped)
            kept = await self._aside(call, measure, partial(_noted, args, measure, writer, found, summary))
            report = msgspec.structs.replace(report, policy="summarise", summary=summary, is_summary_cut=is_cut)
            self._counts["summaries"] += 1
        call.args = msgspec.structs.replace(args, messages=kept)
        call.context = report
        self._counts["fitted"] += 1
        self._counts["dropped_messages"] += report.dropped_messages
        self._counts["dropped_tokens"] += report.dropped_tokens

    def _of_writer(self, args: LLMGenerate, measure: Measure) -> Measure | None:
        return measure if self._with in (None, args.model) else self._cores.measure(self._with)

    def _writer(self, args: LLMGenerate, measure: Measure, of_writer: Measure | None) -> Writer:
        model = self._with or args.model
        context = None if of_writer is None else of_writer.context
        return Writer.of(model, context, measure.context, is_foreign=model != args.model or not measure.is_exact)

    async def _summary(
        self, call: Syscall, writer: Writer, measure: Measure | None, dropped: Sequence[Message]
    ) -> tuple[str, bool]:
        """What `dropped` comes to, and whether the model had more to say."""
        args: LLMGenerate = call.args
        parts = await self._aside(call, measure, partial(writer.parts, args, dropped))
        summary, is_cut = "", False
        for number, part in enumerate(parts, 1):
            call.why = f"{writer} writes a summary of what does not fit, piece {number} of {len(parts)}"
            try:
                generation = await self._ask(call, writer.request(args, summary, part))
            except AiosError as error:
                raise writer.failed(error) from None
            summary = writer.said(generation)
            is_cut |= generation.finish_reason == "length"
        return summary, is_cut

    async def _aside(self, call: Syscall, measure: Measure | None, job: Callable[[Meter], R]) -> R:
        """What `job` returns, in a thread. A task has one at a time, so that each gets its turn."""
        turn = self._turns.setdefault(call.process.root.pid, asyncio.Lock())
        is_over = threading.Event()

        def count(args: LLMGenerate) -> int:
            if is_over.is_set():
                raise Cancelled("nobody waits any more for what is counted")
            assert measure is not None
            return measure.count(args)

        async with turn, self._threads:
            work = asyncio.get_running_loop().run_in_executor(None, job, count)
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                is_over.set()
                await over(work)  # its place is taken until then
                raise


def _decide(args: LLMGenerate, measure: Measure, summary: int, count: Meter) -> Fit:
    """What is kept of the messages beside `summary` tokens and the answer.

    An answer without a bound of its own is left an eighth of the window, if that can be had.
    """
    need = args.max_tokens or 1
    spare = args.max_tokens or max(1, measure.context // 8)
    rooms = [measure.context - each - summary for each in (spare, need)]
    try:
        return fit(args.messages, _of(args, count), limit=measure.context - need, rooms=rooms)
    except TooMuch as error:
        raise _too_long(args, measure, error.least, summary) from None


def _noted(
    args: LLMGenerate, measure: Measure, writer: Writer, found: Fit, summary: str, count: Meter
) -> list[Message]:
    """What is kept, with the summary of what is not. Raises ModuleFault when that is too long."""
    noted = with_summary(found.kept, summary, len(found.dropped))
    limit = measure.context - (args.max_tokens or 1)
    if (tokens := _of(args, count)(noted)) > limit:
        raise writer.too_long(tokens - found.tokens, limit - found.tokens)
    return noted


def _of(args: LLMGenerate, count: Meter) -> Callable[[Sequence[Message]], int]:
    return lambda messages: count(msgspec.structs.replace(args, messages=list(messages)))


def _too_long(args: LLMGenerate, measure: Measure, least: int, summary: int) -> ContextLengthExceeded:
    how = "" if measure.is_exact else " by an estimate"
    beside = f", a summary of the rest up to {summary}" if summary else ""
    return ContextLengthExceeded(
        f"this model's window is {measure.context} tokens; what must stay of the messages (system messages, tools, the "
        f"last question and what came last) takes {least}{how}{beside}, the answer {args.max_tokens or 'at least 1'}; "
        f"shorten those{', or ask with window = drop' if summary else ''}",
        param="messages",
    )

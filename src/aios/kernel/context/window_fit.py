"""Makes a call's conversation fit before it is queued: drops its oldest turns, or has them summarised.

Knows cores by how they count and the kernel by whom it asks for a summary; what goes is decided in `window.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Literal, Protocol

import msgspec

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError, ContextLengthExceeded, KernelFault, ModuleFault
from aios.abi.messages import ContextReport, Generation, Message

from ..syscall import Syscall
from .window import Fit, fit, piece, transcript, with_summary

MAX_PIECES = 32
"""Generations that one summary may take: what was left out is read in as many pieces as the window asks for."""
MAX_SUMMARY = 512
"""Tokens of a summary, at most; never more than an eighth of the window."""
MARGIN = 32
"""Tokens that the words around a summary take, at most."""
INSTRUCTION = (
    "Summarise the conversation below for the assistant who goes on with it without having seen it. Keep names, "
    "numbers, decisions, results of tools and what is still open. Write plain sentences, {words} words at most."
)


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
Then = Callable[[AiosError | None], None]


class Windows:
    """`summarise_with` names the model that writes summaries; without it a call's own does."""

    def __init__(self, cores: Cores, ask: Ask, summarise_with: str | None = None) -> None:
        self._cores = cores
        self._ask = ask
        self._with = summarise_with
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._counts = {"fitted": 0, "dropped_messages": 0, "dropped_tokens": 0, "summaries": 0}

    @staticmethod
    def wants(args: LLMGenerate) -> bool:
        """Whether `begin` has anything to do for such a call."""
        return args.window in ("drop", "summarise")

    def begin(self, call: Syscall, then: Then) -> None:
        """Change `call.args` so that they fit, note in `call.context` what went, then call `then`, once in any case:
        with the error that `call` is to end with, or None."""

        def is_over(task: asyncio.Task[None]) -> None:
            del self._under_way[call.id]
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, AiosError):
                error = KernelFault(f"the kernel broke while it made the messages fit: {type(error).__name__}")
            then(error)

        task = asyncio.get_running_loop().create_task(self._fit(call))
        self._under_way[call.id] = task
        task.add_done_callback(is_over)

    def forget(self, call: Syscall) -> None:
        """`call` is over: what is made for it is not wanted any more."""
        if (task := self._under_way.get(call.id)) is not None:
            task.cancel()

    def statistics(self) -> dict[str, int]:
        return self._counts | {"under_way": len(self._under_way)}

    async def _fit(self, call: Syscall) -> None:
        args: LLMGenerate = call.args
        measure = self._cores.measure(args.model)
        if measure is None:
            return  # nobody knows the window: the server behind the core says when it is too small
        is_summary = args.window == "summarise"
        policy: Literal["drop", "summarise"] = "summarise" if is_summary else "drop"
        total, found = await asyncio.to_thread(_decide, args, measure, _summary_tokens(measure) if is_summary else 0)
        if not found.dropped:
            return
        report = ContextReport(policy, is_estimate=not measure.is_exact)
        if is_summary:
            found, report = await self._summarised(call, measure, found, report)
        report = msgspec.structs.replace(
            report, dropped_messages=len(found.dropped), dropped_tokens=max(0, total - found.tokens)
        )
        call.args = msgspec.structs.replace(args, messages=found.kept)
        call.context = report
        self._counts["fitted"] += 1
        self._counts["dropped_messages"] += report.dropped_messages
        self._counts["dropped_tokens"] += report.dropped_tokens

    async def _summarised(
        self, call: Syscall, measure: Measure, found: Fit, report: ContextReport
    ) -> tuple[Fit, ContextReport]:
        """`found` with a summary of what it dropped; should that turn out too long, with fewer turns beside it. Its
        `tokens` leave the summary out."""
        args: LLMGenerate = call.args
        summary, is_cut = await self._summary(call, transcript(found.dropped), _summary_tokens(measure))
        noted = with_summary(found.kept, summary, len(found.dropped))
        limit = measure.context - (args.max_tokens or 1)
        final = await asyncio.to_thread(fit, noted, _counter(args, measure), limit=limit, room=limit)
        if final is None:
            raise _too_long(args, measure, measure.count(args), found.tokens)
        kept = found.tokens  # without the summary: what was dropped is counted, not what it was exchanged for
        if final.dropped:
            kept -= await asyncio.to_thread(_counter(args, measure), noted) - final.tokens
        self._counts["summaries"] += 1
        report = msgspec.structs.replace(report, summary=summary, is_summary_cut=is_cut)
        return Fit(final.kept, found.dropped + final.dropped, kept), report

    async def _summary(self, call: Syscall, text: str, tokens: int) -> tuple[str, bool]:
        """What `text` comes to, in `tokens` tokens at most, and whether the model had more to say."""
        args: LLMGenerate = call.args
        model = self._with or args.model
        measure = self._cores.measure(model)
        summary, is_cut = "", False
        for _ in range(MAX_PIECES):
            if not text:
                break
            asked = partial(_request, args, model, tokens, summary)
            part = text if measure is None else await asyncio.to_thread(piece, text, partial(_fits, asked, measure))
            if not part:
                raise ModuleFault("the window is too small to summarise what does not fit; ask with window = drop")
            generation = await self._ask(call, asked(part))
            summary, is_cut = generation.message.text().strip(), generation.finish_reason == "length"
            text = text[len(part) :]
        if text:
            raise ContextLengthExceeded(
                f"what does not fit is too long to be summarised in {MAX_PIECES} pieces; shorten the messages",
                param="messages",
            )
        if not summary:
            raise ModuleFault("the model had nothing to say for a summary; ask with window = drop", code="no_summary")
        return summary, is_cut


def _decide(args: LLMGenerate, measure: Measure, summary: int) -> tuple[int, Fit]:
    """Tokens of all messages, and what is kept of them beside `summary` tokens and the answer.

    An answer without a bound of its own is left an eighth of the window, if that can be had.
    """
    count, context = _counter(args, measure), measure.context
    counted: list[int] = []

    def noted(messages: Sequence[Message]) -> int:
        counted.append(count(messages))
        return counted[-1]

    need, extra = args.max_tokens or 1, summary + MARGIN if summary else 0
    spare = args.max_tokens or max(1, context // 8)
    found = fit(args.messages, noted, limit=context - need, room=context - spare - extra)
    if found is None:
        found = fit(args.messages, count, limit=context - need, room=context - need - extra)
    if found is None:
        raise _too_long(args, measure, counted[0], counted[-1] + extra)
    return counted[0], found


def _counter(args: LLMGenerate, measure: Measure) -> Callable[[Sequence[Message]], int]:
    return lambda messages: measure.count(msgspec.structs.replace(args, messages=list(messages)))


def _summary_tokens(measure: Measure) -> int:
    return max(1, min(MAX_SUMMARY, measure.context // 8))


def _request(args: LLMGenerate, model: str | None, tokens: int, before: str, part: str) -> LLMGenerate:
    """What is asked for a summary of `before`, a summary already, and of `part`, what came next."""
    text = f"Summary so far:\n{before}\n\nWhat came next:\n{part}" if before else part
    return LLMGenerate(
        messages=[Message("system", INSTRUCTION.format(words=max(1, tokens // 2))), Message("user", text)],
        model=model,
        temperature=0.0,
        max_tokens=tokens,
        seed=args.seed,
        cache_salt=args.cache_salt,
    )


def _fits(asked: Callable[[str], LLMGenerate], measure: Measure, part: str) -> bool:
    request = asked(part)
    return measure.count(request) + (request.max_tokens or 1) <= measure.context


def _too_long(args: LLMGenerate, measure: Measure, total: int, least: int) -> ContextLengthExceeded:
    how = "" if measure.is_exact else " by an estimate"
    return ContextLengthExceeded(
        f"this model's window is {measure.context} tokens, and {least} of the {total} in the messages and tools{how} "
        f"must stay (system messages, tools, the last question and what came last), with {args.max_tokens or 1} for "
        "the answer; shorten those, or lower max_tokens",
        param="messages",
    )

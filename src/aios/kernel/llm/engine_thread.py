"""An engine in a thread of its own, seen from the event loop. Knows no core, request or message.

What runs in the engine belongs to its thread, and so do its steps. The event loop sends it sequences to run or to take
out, through one inbox; it sends back what all sequences said in a step, in one go, since waking the loop is dear.

A step computes for all sequences at once, so what goes wrong there is nobody's in particular: the thread ends, and with
it all that ran. What is one sequence's own the engine keeps apart (`Sequence.error`).
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from aios.abi.errors import ModuleFault

from ..unbroken import wait_out
from .local.engine import Engine
from .local.sequence import Sequence

log = logging.getLogger("aios.llm")

SWITCH_INTERVAL = 0.0005
"""Seconds that one thread of Python may keep another waiting; Python's own 5 ms would stall every step."""


class Job:
    """A sequence on its way through one slice of `quantum` tokens (None: to its end).

    `left`, `counted` (tokens that `left` knows of) and `unsent` (those that the event loop has not heard of) belong to
    the engine's thread once the job has begun.
    """

    def __init__(self, sequence: Sequence, quantum: int | None, *, is_streamed: bool) -> None:
        self.sequence = sequence
        self.left = quantum
        self.counted = sequence.num_chosen
        self.unsent = 0
        self.is_streamed = is_streamed
        self.is_over = False
        """The sequence has left the engine, or its thread has ended."""
        self.failure: ModuleFault | None = None
        self.bell = asyncio.Event()
        self._text = ""
        self._tokens = 0

    def hear(self, text: str, tokens: int, is_over: bool) -> None:
        self._text += text
        self._tokens += tokens
        self.is_over = self.is_over or is_over
        self.bell.set()

    def fail(self, error: ModuleFault) -> None:
        """Nothing for one whose last word has come: it is to be heard."""
        if not self.is_over:
            self.failure, self.is_over = error, True
            self.bell.set()

    def take(self) -> tuple[str, int]:
        """Text and number of tokens that nobody was told of."""
        text, tokens, self._text, self._tokens = self._text, self._tokens, "", 0
        return text, tokens


@dataclass(frozen=True, slots=True)
class _News:
    """What one step brought one job."""

    job: Job
    text: str
    tokens: int
    is_over: bool


@dataclass(slots=True)
class _Inbox:
    """Commands for the engine's thread."""

    commands: deque[Callable[[Engine], None]] = field(default_factory=deque)
    bell: threading.Condition = field(default_factory=threading.Condition)
    is_closing: bool = False

    def put(self, command: Callable[[Engine], None]) -> None:
        with self.bell:
            self.commands.append(command)
            self.bell.notify()


class EngineThread:
    """Used on the event loop. `core` names it to people; `on_break` hears why it ended by itself, before those do who
    wait for it."""

    def __init__(self, core: str, engine: Engine, on_break: Callable[[str], None]) -> None:
        self.engine = engine
        self.has_ended = False
        """And the event loop knows: what ran has failed, and no job that comes now would be served."""
        self._core = core
        self._on_break = on_break
        self._inbox = _Inbox()
        self._jobs: dict[str, Job] = {}
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name=core, daemon=True)

    def __len__(self) -> int:
        """Jobs that are there."""
        return len(self._jobs)

    def start(self) -> None:
        # The engine gives the interpreter up at each matrix product and wants it back at once, while the loop is busy.
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL))
        self._thread.start()

    async def stop(self) -> None:
        """What still runs ends with ModuleFault."""
        with self._inbox.bell:
            self._inbox.is_closing = True
            self._inbox.bell.notify()
        await asyncio.to_thread(self._thread.join)

    # ── on the event loop ──

    def begin(self, job: Job) -> None:
        """Let it run. It is over when `is_over`; then, or after `take_out`, `forget` it."""
        sequence = job.sequence
        self._jobs[sequence.id] = job
        self._inbox.put(lambda engine: engine.add(sequence))

    async def take_out(self, job: Job) -> None:
        """Take the job's sequence out of the engine, at the latest after the step under way."""

        def remove(engine: Engine) -> None:
            if engine.remove(job.sequence.id) is not None:
                self._post([_News(job, "", 0, is_over=True)])

        async def news() -> None:
            await job.bell.wait()
            job.bell.clear()

        self._inbox.put(remove)
        await wait_out(lambda: job.is_over, news)

    def forget(self, job: Job) -> None:
        del self._jobs[job.sequence.id]

    @staticmethod
    def _hear(news: list[_News]) -> None:
        for item in news:
            item.job.hear(item.text, item.tokens, item.is_over)

    def _end(self, why: str | None) -> None:
        """The thread has ended: broken, if there is a `why`."""
        self.has_ended = True
        if why is not None:
            self._on_break(why)
        told = f"core '{self._core}' was closed while this ran"
        if why is not None:
            told = f"core '{self._core}' broke while this ran ({why}); ask again"
        for job in self._jobs.values():
            job.fail(ModuleFault(told, code="core_crashed", retry_after=1))

    # ── on the engine's thread ──

    def _work(self) -> None:
        why: str | None = None
        try:
            self._serve(self.engine, self._inbox)
        except BaseException as error:  # of a thread: not caught, but told to all who wait for it
            why = f"{type(error).__name__}: {error}"[:200].removesuffix(": ")
            log.error("the engine of core '%s' broke", self._core, exc_info=error)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end, why)

    def _serve(self, engine: Engine, inbox: _Inbox) -> None:
        while True:
            with inbox.bell:
                while engine.is_idle and not inbox.commands and not inbox.is_closing:
                    inbox.bell.wait()
                if inbox.is_closing:
                    return
            while inbox.commands:
                inbox.commands.popleft()(engine)
            if not engine.is_idle:
                self._post(self._news(engine, engine.step()))

    def _news(self, engine: Engine, moved: list[Sequence]) -> list[_News]:
        news = []
        for sequence in moved:
            job = self._jobs[sequence.id]
            is_over = sequence.finish is not None or sequence.error is not None
            if job.left is not None:
                job.left -= sequence.num_chosen - job.counted
                if job.left <= 0 and not is_over:
                    engine.remove(sequence.id)
                    is_over = True
            job.unsent += sequence.num_chosen - job.counted
            job.counted = sequence.num_chosen
            # The loop is woken only for what somebody listens to.
            if is_over or (job.is_streamed and sequence.has_text):
                news.append(_News(job, sequence.take_text(), job.unsent, is_over))
                job.unsent = 0
        return news

    def _post(self, news: list[_News]) -> None:
        if news:
            self._loop.call_soon_threadsafe(self._hear, news)

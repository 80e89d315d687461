"""A model of our own decoder as a core: an engine in a thread of its own. Knows no queue, policy, process or wire.

The engine's state belongs to its thread. The event loop sends it sequences to run or to stop, through one inbox; the
thread sends back what all sequences said in a step, in one go, since waking the loop is dear.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aios.abi.calls import LLMGenerate
from aios.abi.errors import BadRequest, Full, ModuleFault
from aios.abi.messages import Generation

from ..syscall import Suspended
from .base import NotBegun, Request
from .local.answer import Teller
from .local.decoder import Decoder
from .local.engine import Engine
from .local.grammar import GrammarError, Vocabulary
from .local.request import Template, Translator
from .local.sequence import Sequence, Spec
from .local.shape import ModelError
from .local.shelf import Shelf
from .local.snapshot import to_bytes

SWITCH_INTERVAL = 0.0005
"""Seconds that one thread of Python may keep another waiting; Python's own 5 ms would stall every step."""


class Model(NamedTuple):
    """What a core needs of a model: what computes, what its tokens are, and what makes tokens of a conversation."""

    decoder: Decoder
    vocabulary: Vocabulary
    template: Template


class _Job:
    """A sequence on its way through one slice: what its `run` waits for.

    `left`, and `unsent` (tokens that the event loop has not heard of), belong to the engine's thread.
    """

    def __init__(self, sequence: Sequence, *, left: int | None, is_streamed: bool) -> None:
        self.sequence = sequence
        self.left = left
        self.counted = sequence.num_chosen
        self.unsent = 0
        self.is_streamed = is_streamed
        self.is_over = False
        """The sequence has left the engine."""
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
        self.failure, self.is_over = error, True
        self.bell.set()

    def take(self) -> tuple[str, int]:
        """Text and number of tokens that nobody was told of."""
        text, tokens, self._text, self._tokens = self._text, self._tokens, "", 0
        return text, tokens


@dataclass(frozen=True, slots=True)
class _News:
    """What one step brought one job."""

    job: _Job
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


class OwnCore:
    """A `Core`. `read` loads the model; it is called in a thread, and raises ModelError for one that is not sound.

    `is_quick`: its template takes no time worth a thread. `kv_bytes` bounds the memory of the sequences that run, and
    there are never more slots than can each hold a sequence of full length in it. Suspended ones are moved out of it
    when others need it, to as many bytes again; past those, new calls wait.
    """

    kind: str
    resume = "kv_exact"

    def __init__(
        self,
        name: str,
        model: str,
        read: Callable[[], Model],
        *,
        slots: int,
        kv_bytes: int,
        prefix_bytes: int,
        is_quick: bool,
    ) -> None:
        self.name = name
        self.model = model
        self.slots = slots
        self.context_length: int | None = None
        self._read = read
        self._is_quick = is_quick
        self._kv_bytes = kv_bytes
        self._prefix_bytes = prefix_bytes
        self._engine: Engine | None = None
        self._translator: Translator | None = None
        self._shelf: Shelf | None = None
        self._inbox = _Inbox()
        self._jobs: dict[str, _Job] = {}
        self._thread: threading.Thread | None = None
        self._has_stopped = False
        """The thread has ended, or is about to: no job that comes now would be served."""
        self._left = asyncio.Event()
        """Set when a sequence leaves the pool, or may be moved out of it."""
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        """Load the model and start the thread. Raises ModuleFault when it cannot be loaded."""
        self._loop = asyncio.get_running_loop()
        engine, self._translator = await asyncio.to_thread(self._load)
        self._engine = engine
        self._shelf = Shelf(engine.pool, aside=self._kv_bytes)
        self.context_length = engine.context
        self.slots = min(self.slots, self._kv_bytes // engine.pool.shape.bytes(engine.context))
        self._inbox, self._has_stopped = _Inbox(), False
        # The engine gives the interpreter up at each matrix product and wants it back at once, while the loop is busy.
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL))
        self._thread = threading.Thread(target=self._work, args=(engine, self._inbox), name=self.name, daemon=True)
        self._thread.start()

    def _load(self) -> tuple[Engine, Translator]:
        try:
            model = self._read()
        except ModelError as error:
            raise ModuleFault(f"core '{self.name}' cannot be loaded: {error}") from None
        engine = Engine(model.decoder, model.vocabulary, kv_bytes=self._kv_bytes, prefix_bytes=self._prefix_bytes)
        if self._kv_bytes < (least := engine.pool.shape.bytes(engine.context)):
            raise ModuleFault(
                f"core '{self.name}' has kv_bytes = {self._kv_bytes}, and one sequence of {engine.context} tokens "
                f"takes {least}; give it at least that, or a shorter window"
            )
        return engine, Translator(model.template, model.vocabulary, engine.context)

    async def close(self) -> None:
        """Stop the thread. What still runs ends with ModuleFault."""
        with self._inbox.bell:
            self._inbox.is_closing = True
            self._inbox.bell.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._engine = self._thread = None

    def check(self, args: LLMGenerate) -> None:
        if self._translator is not None:
            self._translator.check(args)

    def count(self, args: LLMGenerate) -> int:
        assert self._translator is not None
        return self._translator.count(args)

    def can_take(self, snapshot: Any, active: int = 0) -> bool:
        if self._engine is None or self._shelf is None:
            return False
        if snapshot is not None:
            return True
        # Nobody has counted this call's tokens yet, nor those of calls that have a slot and have not begun: any may
        # turn out to need the whole window.
        promised = max(0, active - len(self._jobs))
        return self._shelf.room >= (promised + 1) * self._engine.pool.shape.bytes(self._engine.context)

    async def run(self, request: Request, quantum: int | None) -> Generation | Suspended:
        sequence: Sequence = request.snapshot or await self._begin(self._opened(), request)
        engine, shelf = self._opened(), self._shelved()
        await self._take_back(sequence)
        if sequence.line.kv is None:
            raise ModuleFault("this generation was dropped and cannot be resumed")
        before = sequence.num_chosen
        teller = Teller(sequence, engine.grammars.vocabulary)
        job = _Job(sequence, left=quantum, is_streamed=request.is_streamed)
        self._jobs[sequence.id] = job
        self._inbox.put(lambda engine: engine.add(sequence))
        is_well = False
        try:
            await self._tell(job, teller, request)
            is_well = True
        finally:
            if not is_well:  # cancelled, or the request or its listener broke
                await self._abort(job)
                engine.release(sequence)
            del self._jobs[sequence.id]
            self._left.set()
        if sequence.finish is None:
            shelf.put(sequence)
            self._left.set()
            return Suspended(sequence, sequence.num_chosen - before)
        answer = teller.whole(model=self.model, core=self.name, seed=request.args.seed, fingerprint=engine.fingerprint)
        request.emit(teller.last(*job.take(), answer))
        return answer

    async def _take_back(self, sequence: Sequence) -> None:
        """Give a suspended sequence its memory again. A search may hold more lines than its slot's share has room for:
        then this waits for what runs to be interrupted or to end."""
        while True:
            self._opened()
            try:
                return self._shelved().take(sequence)
            except MemoryError:
                self._left.clear()
                await self._left.wait()

    def drop(self, snapshot: Any) -> None:
        if self._shelf is not None:
            self._shelf.forget(snapshot)
        Engine.release(snapshot)
        self._left.set()

    def statistics(self) -> dict[str, Any]:
        if self._engine is None:
            return {}
        aside = {f"kv_{name}": number for name, number in self._shelved().statistics().items()}
        return self._engine.statistics() | aside

    # ── snapshots that outlive the process ──

    def to_bytes(self, snapshot: Any) -> bytes:
        """A suspended generation as bytes, for this model and this kind of machine only."""
        return to_bytes(snapshot, self._opened().fingerprint)

    def from_bytes(self, data: bytes) -> Any:
        """The snapshot that `to_bytes` saved. Raises SnapshotError, or MemoryError when there is no room."""
        sequence = self._opened().restored(data)
        self._shelved().put(sequence)
        return sequence

    # ── on the event loop ──

    def _opened(self) -> Engine:
        if self._engine is None or self._has_stopped:
            raise ModuleFault(f"core '{self.name}' is not running; restart the kernel")
        return self._engine

    def _shelved(self) -> Shelf:
        assert self._shelf is not None
        return self._shelf

    async def _begin(self, engine: Engine, request: Request) -> Sequence:
        assert self._translator is not None
        translate = self._translator.spec
        spec = translate(request.args) if self._is_quick else await asyncio.to_thread(translate, request.args)
        try:
            if engine.is_ready(spec):
                sequence = Sequence(request.id, spec, engine.grammars)
            else:  # a schema is to be compiled, which may take a while
                sequence = await asyncio.to_thread(Sequence, request.id, spec, engine.grammars)
            if (needed := sequence.bytes_in(engine.pool)) > engine.pool.budget:
                raise _too_wide(spec, needed, engine.pool.budget)
            self._shelved().make_room(sequence)
            return engine.admit(sequence)
        except MemoryError:
            full = Full(f"core '{self.name}' has no memory free for so many lines", code="no_kv_room", retry_after=1)
            raise NotBegun(full, after=0.05, is_busy=True) from None
        except GrammarError as error:
            raise _bad_schema(error, spec.answer is not None) from None

    async def _tell(self, job: _Job, teller: Teller, request: Request) -> None:
        """Emit the pieces of one slice, all but an answer's last; return when it is over. Raises what went wrong."""
        sequence = job.sequence
        while True:
            await job.bell.wait()
            job.bell.clear()
            if job.failure is not None:
                raise job.failure
            if sequence.error is not None:
                raise _bad_schema(sequence.error, sequence.spec.answer is not None)
            is_over = job.is_over
            if not is_over or sequence.finish is None:
                request.emit(teller.piece(*job.take()))
            if is_over:
                return

    async def _abort(self, job: _Job) -> None:
        """Take the job's sequence out of the engine, at the latest after the step under way."""

        def take_out(engine: Engine) -> None:
            if engine.remove(job.sequence.id) is not None:
                self._post([_News(job, "", 0, is_over=True)])

        self._inbox.put(take_out)
        while not job.is_over:
            with contextlib.suppress(asyncio.CancelledError):  # cancelled once more: still, leave only when it is out
                await job.bell.wait()
            job.bell.clear()

    @staticmethod
    def _hear(news: list[_News]) -> None:
        for item in news:
            item.job.hear(item.text, item.tokens, item.is_over)

    def _fail_all(self) -> None:
        self._has_stopped = True
        self._left.set()
        for job in self._jobs.values():
            job.fail(ModuleFault(f"the engine of core '{self.name}' stopped"))

    # ── on the engine's thread ──

    def _work(self, engine: Engine, inbox: _Inbox) -> None:
        try:
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
        finally:  # closed, or broken by a bug: nobody may wait for an engine that is gone
            assert self._loop is not None
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._fail_all)

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
        assert self._loop is not None
        if news:
            self._loop.call_soon_threadsafe(self._hear, news)


def _too_wide(spec: Spec, needed: int, budget: int) -> BadRequest:
    return BadRequest(
        f"beam_width {spec.beam_width} with up to {spec.longest} tokens each takes {needed} bytes of KV, and this core "
        f"has kv_bytes = {budget}; lower beam_width or max_tokens",
        param="beam_width",
    )


def _bad_schema(error: ValueError, is_answer: bool) -> BadRequest:
    return BadRequest(str(error), code="invalid_schema", param="response_format" if is_answer else "tools")

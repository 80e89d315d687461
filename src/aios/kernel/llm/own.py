"""A model of our own decoder as a core: who asks an engine, which runs in a thread. Knows no queue, process or wire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from aios.abi.calls import LLMGenerate
from aios.abi.errors import BadRequest, Full, ModuleFault
from aios.abi.messages import Generation

from ..syscall import Suspended
from .aside import aside
from .base import Contexts, NotBegun, Request, Said, Tell, nobody
from .engine_thread import EngineThread, Job
from .in_pool import InPool
from .local.answer import Teller
from .local.decoder import Decoder
from .local.engine import Engine
from .local.grammar import GrammarError, Vocabulary
from .local.held import Held
from .local.kv import PoolFull
from .local.request import Template, Translator
from .local.sampler import NoNumbers
from .local.sequence import Sequence, Spec
from .local.shape import ModelError
from .local.snapshot import SnapshotError, sequence_of, vocabulary_print

NOT_AGAIN = 2.0
"""Seconds that a call which the core cannot begin need not ask again: another core may have room by then."""


class Model(NamedTuple):
    """What a core needs of a model: what computes, what its tokens are, and what makes tokens of a conversation."""

    decoder: Decoder
    vocabulary: Vocabulary
    template: Template


class OwnCore:
    """A `Core`. `read` loads the model; it is called in a thread, and raises ModelError for one that is not sound.

    `is_quick`: its template takes no time worth a thread. `kv_bytes` bounds the memory of the sequences that run, and
    there are never more slots than can each hold a sequence of full length in it. Suspended ones are moved out of it
    when others need it, as `contexts` knows to; past what that can keep, new calls wait. `snapshot` is the form in
    which they are kept then.
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
        snapshot: Literal["logits", "text"] = "logits",
    ) -> None:
        self.name = name
        self.contexts: Contexts = InPool()
        self.tell: Tell = nobody
        self.snapshot = snapshot
        self.model = model
        self.slots = slots
        self.context_length: int | None = None
        self._read = read
        self._is_quick = is_quick
        self._kv_bytes = kv_bytes
        self._prefix_bytes = prefix_bytes
        self._engine: Engine | None = None
        self._translator: Translator | None = None
        self._vocabulary = ""
        self._thread: EngineThread | None = None

    async def open(self) -> None:
        """Load the model and start the thread. Raises ModuleFault when it cannot be loaded."""
        engine, self._translator = await aside(f"open {self.name}", self._load)
        self._engine = engine
        self.context_length = engine.context
        self.slots = min(self.slots, self._kv_bytes // engine.pool.shape.bytes(engine.context))
        self._thread = EngineThread(self.name, engine, self._broke)
        self._thread.start()

    def _broke(self, why: str) -> None:
        """It is not started again: what broke it once may do so again."""
        self.tell("failed", f"its engine broke: {why}")

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
        self._vocabulary = vocabulary_print(model.vocabulary)
        return engine, Translator(model.template, model.vocabulary, engine.context)

    async def close(self) -> None:
        """Stop the thread. What still runs ends with ModuleFault."""
        if self._thread is not None:
            await self._thread.stop()
        if self._engine is not None:
            self.contexts.forget_pool(self._engine.pool)
        self._engine = self._thread = None

    def check(self, args: LLMGenerate) -> None:
        if self._translator is not None:
            self._translator.check(args)

    def count(self, args: LLMGenerate) -> int:
        assert self._translator is not None
        return self._translator.count(args)

    def can_take(self, snapshot: Any, active: int = 0) -> bool:
        if self._engine is None:
            return False
        if snapshot is not None:
            return True
        # Nobody has counted this call's tokens yet, nor those of calls that have a slot and have not begun: any may
        # turn out to need the whole window.
        promised = max(0, active - len(self._thread or ()))
        pool = self._engine.pool
        room = self.contexts.room(pool, is_text=self.snapshot == "text")
        return room >= (promised + 1) * pool.shape.bytes(self._engine.context)

    def can_continue(self, args: LLMGenerate, said: Said) -> bool:
        return not said.text or (self._translator is not None and self._translator.can_continue(args, said.text))

    async def run(self, request: Request, quantum: int | None) -> Generation | Suspended:
        thread = self._serving(request)
        try:
            held = await self._held(thread.engine, request)
        except MemoryError:
            raise self._no_memory(request) from None
        try:
            return await self._slice(thread, held, request, quantum)
        finally:
            self.contexts.freed(thread.engine.pool)

    async def _slice(
        self, thread: EngineThread, held: Held, request: Request, quantum: int | None
    ) -> Generation | Suspended:
        if thread.has_ended:  # meanwhile
            held.forget()
            raise self._down(request)
        sequence, engine = held.sequence, thread.engine
        before = sequence.num_chosen
        teller = Teller(sequence, engine.grammars.vocabulary, is_unheard=held.is_unheard)
        job = Job(sequence, _turn(quantum, sequence), is_streamed=request.is_streamed)
        job.unsent = len(sequence.output) + sequence.spec.num_said if held.is_unheard else 0
        held.is_unheard = False
        thread.begin(job)
        is_well = False
        try:
            await self._speak(job, teller, request)
            is_well = True
        finally:
            if not is_well:  # cancelled, or the request, its listener or the engine broke
                await thread.take_out(job)
                self._break_off(held, thread)
            thread.forget(job)
        if sequence.finish is None:
            self.contexts.put(held)
            return Suspended(held, sequence.num_chosen - before)
        answer = teller.whole(model=self.model, core=self.name, seed=request.args.seed, fingerprint=engine.fingerprint)
        request.emit(teller.last(*job.take(), answer))
        return answer

    def _break_off(self, held: Held, thread: EngineThread) -> None:
        sequence = held.sequence
        if sequence.finish is None and sequence.error is None and not thread.has_ended:
            self.contexts.part(held)
        else:
            held.forget()

    def drop(self, snapshot: Any) -> None:
        if isinstance(snapshot, Held):
            self.contexts.drop(snapshot)
        else:
            self.contexts.drop_stored(snapshot.key)

    def statistics(self) -> dict[str, Any]:
        if self._engine is None:
            return {}
        return self._engine.statistics() | self.contexts.statistics(self._engine.pool)

    # ── on the event loop ──

    def _serving(self, request: Request) -> EngineThread:
        if self._thread is None or self._thread.has_ended:
            raise self._down(request)
        return self._thread

    def _down(self, request: Request) -> ModuleFault | NotBegun:
        """What has not begun here may begin elsewhere."""
        fault = ModuleFault(f"core '{self.name}' is not running", code="core_down", retry_after=1)
        if request.snapshot is not None:
            return fault
        return NotBegun(fault, after=NOT_AGAIN, is_busy=False, said=request.said)

    async def _held(self, engine: Engine, request: Request) -> Held:
        """The request's generation, with its memory: begun, or to go on."""
        held = request.snapshot
        if held is None:
            return self._hold(engine, await self._begin(engine, request))
        if not isinstance(held, Held):
            return await self._thaw(engine, request)
        is_switch = held.num_switches != request.num_switches
        held.num_switches = request.num_switches
        why = await self.contexts.take(held, is_switch=is_switch)
        if held.sequence.line.kv is None:
            raise ModuleFault("this generation was dropped and cannot be resumed")
        if why is not None:
            request.note(f"recomputed: {why}")
        return held

    def _hold(self, engine: Engine, sequence: Sequence) -> Held:
        return Held(self.name, self.snapshot, engine.pool, sequence, engine.fingerprint, self._vocabulary)

    async def _thaw(self, engine: Engine, request: Request) -> Held:
        """The generation that an earlier run of the kernel has left, or, where that is of no use, one from its start:
        with the same seed it says the same."""
        try:
            kept = await self.contexts.load(request.id, engine.pool, engine.fingerprint, self._vocabulary)
            sequence = await asyncio.to_thread(sequence_of, request.id, kept.state, engine.grammars)
            if sequence.spec.longest > engine.context or sequence.bytes_in(engine.pool) > engine.pool.budget:
                raise SnapshotError("its generation is too long for this core now")
        except ValueError as error:
            self.contexts.drop_stored(request.id)
            request.note(f"begun anew: {error}")
            return self._hold(engine, await self._begin(engine, request))
        held = self._hold(engine, sequence)
        held.is_unheard = True
        why = await self.contexts.admit(held, kept.arrays) or kept.why
        request.note(f"recomputed: {why}" if why else "resumed from disk")
        return held

    async def _begin(self, engine: Engine, request: Request) -> Sequence:
        assert self._translator is not None
        translate, said = self._translator.spec, request.said.text if request.said is not None else ""
        spec = (
            translate(request.args, said) if self._is_quick else await asyncio.to_thread(translate, request.args, said)
        )
        try:
            if engine.is_ready(spec):
                sequence = Sequence(request.id, spec, engine.grammars)
            else:  # a schema is to be compiled, which may take a while
                sequence = await asyncio.to_thread(Sequence, request.id, spec, engine.grammars)
            if (needed := sequence.bytes_in(engine.pool)) > engine.pool.budget:
                raise _too_wide(spec, needed, engine.pool.budget)
            await self.contexts.make_room(engine.pool, needed)
            return engine.admit(sequence)
        except PoolFull:
            full = Full(f"core '{self.name}' has no memory free for so many lines", code="no_kv_room", retry_after=1)
            raise NotBegun(full, after=0.05, is_busy=True, said=request.said) from None
        except GrammarError as error:
            raise _bad_schema(error, spec.answer is not None) from None

    async def _speak(self, job: Job, teller: Teller, request: Request) -> None:
        """Emit the pieces of one slice, all but an answer's last; return when it is over. Raises what went wrong."""
        sequence = job.sequence
        while True:
            await job.bell.wait()
            job.bell.clear()
            if job.failure is not None:
                raise job.failure
            if sequence.error is not None:
                raise self._fault_of(sequence.error, request, job)
            is_over = job.is_over
            if not is_over or sequence.finish is None:
                request.emit(teller.piece(*job.take()))
            if is_over:
                return

    def _fault_of(self, error: Exception, request: Request, job: Job) -> Exception:
        """What went wrong with one sequence, for who asked for it. A bug is told as one where all are (the worker)."""
        spec = job.sequence.spec
        if isinstance(error, GrammarError):
            return _bad_schema(error, spec.answer is not None)
        if isinstance(error, NoNumbers):
            why = f"core '{self.name}': {error}; its weights are broken, or too large for its dtype"
            return ModuleFault(why, code="bad_model")
        if not isinstance(error, MemoryError):
            return error
        return self._no_memory(request, has_begun=bool(job.sequence.output))

    def _no_memory(self, request: Request, *, has_begun: bool = False) -> ModuleFault | NotBegun:
        """The machine has none. Another core may be elsewhere."""
        why = f"core '{self.name}' has no memory left for this; ask for less, or again when others are done"
        fault = ModuleFault(why, code="no_memory", retry_after=1)
        if request.snapshot is not None or has_begun:
            return fault
        return NotBegun(fault, after=NOT_AGAIN, is_busy=False, said=request.said)


def _turn(quantum: int | None, sequence: Sequence) -> int | None:
    """New tokens until a slice ends: no fewer than are computed again first.

    So a generation that loses its keys and values whenever it is stopped doubles from one loss to the next: it is
    thrown back about log2 of its tokens times, and computes two tokens again for each that it says at most. By the
    quantum alone it would soon do little else. What goes beyond the quantum is owed to the policy.
    """
    return None if quantum is None else max(quantum, sequence.num_behind)


def _too_wide(spec: Spec, needed: int, budget: int) -> BadRequest:
    return BadRequest(
        f"beam_width {spec.beam_width} with up to {spec.longest} tokens each takes {needed} bytes of KV, and this core "
        f"has kv_bytes = {budget}; lower beam_width or max_tokens",
        param="beam_width",
    )


def _bad_schema(error: ValueError, is_answer: bool) -> BadRequest:
    return BadRequest(str(error), code="invalid_schema", param="response_format" if is_answer else "tools")

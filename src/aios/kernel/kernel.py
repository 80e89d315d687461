"""Boot order, submit, shut down. The only file that knows every module; knows nothing about wires."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from aios.abi.calls import (
    CALLS,
    Args,
    CallSpec,
    Effect,
    Entries,
    LLMEmbed,
    LLMGenerate,
    MemSearch,
    ProcessInfo,
    know_types,
    spec_of,
)
from aios.abi.errors import (
    AiosError,
    Cancelled,
    CutShort,
    Denied,
    Full,
    ModuleFault,
    NotFound,
    OutcomeUnknown,
    Stopping,
    TimedOut,
)
from aios.abi.messages import Chunk, Embeddings, Generation

from .access import AccessManager, Groups
from .check import faults, rooms_of
from .clock import Clock, SystemClock, Timer
from .config import Config, CoreSection, model_of
from .context import ContextManager, Stored, Windows
from .control import Control
from .database import Database, Fault
from .idempotency import Repeats
from .journal import Journal, OpenRecord
from .llm import Core, LLMManager, Plug, Prices, Roster, Router, Seat, SwapsOut
from .llm.cores import make_core
from .llm.local.blas import use_one_thread
from .llm.manager import half_said
from .memory import Distiller, MemoryManager, RuntimeMemory
from .prepare import Fate, Preparation, Prepared
from .process import Principal, Process, ProcessState, ProcessTable
from .scheduler import POLICIES, Pool, Queue, Runner
from .search import Asking, Search
from .spaces import NOBODY, Spaces
from .storage import Segments, StorageManager, Swap
from .syscall import TERMINAL, State, Syscall, move
from .tool import ToolManager
from .trace import Row, Trace
from .transfers import Transfers

OnChunk = Callable[[Chunk], None]

MAX_ANSWERS = 4096
"""Calls of the kernel itself at once: they take no time, but for those that wait for a process to end."""
HOUSE_SECONDS = 300.0
LAST_SECONDS = 5.0
"""So long a stop waits for what it has cut short to be over."""
LOST_KEY_SECONDS = 7 * 86_400.0
"""So long after it was made, the key of a process that vanished with an earlier kernel still works: its program may
run. How long answers are kept is another matter, and configured."""
NEVER_RAN = "tool_unavailable"
"""The code of a tool's run that came to nothing before the tool was asked."""
BACKGROUND_NICE = 10
"""Of the kernel's own work that nobody waits for."""
UNWRITABLE = "the disk of the kernel's home is full or fails, and nothing can be recorded; the kernel's log says more"


class Kernel:
    """One kernel: models, tools, memory and files of one home, and the queues in front of them.

    Made by `boot`, ended by `stop`. All methods are called on the event loop that booted it.
    """

    def __init__(self, config: Config, home: Path, clock: Clock) -> None:
        self.config = config
        self.home = home
        self.clock = clock
        self.trace = Trace()
        self.processes = ProcessTable()
        self.queues: dict[str, Queue[Any]] = {}
        self.is_ready = False
        self._is_stopping = False
        self._closers = contextlib.AsyncExitStack()
        self._open: dict[str, Syscall] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._ids = count(1)
        self._id_prefix = f"call_{secrets.token_hex(6)}_"

    # ── boot ──

    @classmethod
    async def boot(
        cls,
        config: Config,
        home: Path,
        *,
        cores: Mapping[str, Core] | None = None,
        clock: Clock | None = None,
    ) -> Kernel:
        """Open the home, load the cores, take up what was open, and be ready. Raises HomeError or ConfigError.

        `cores` replaces those of the configuration.
        """
        know_types()
        kernel = cls(config, home, clock or SystemClock())
        kernel.database = Database.open(home / "aios.db", durable=config.journal.mode == "durable")
        try:
            await kernel._boot_rooms(cores)
            kernel._recover()
            kernel.cores.serve()
            await kernel.search.open()
            await kernel.journal.settled()
        except BaseException:
            await kernel._close_rooms()
            raise
        kernel._keep_house()
        kernel.is_ready = True
        return kernel

    database: Database
    journal: Journal
    repeats: Repeats
    access: AccessManager
    spaces: Spaces
    search: Search
    memory: MemoryManager
    storage: StorageManager
    transfers: Transfers
    tools: ToolManager
    llm: LLMManager
    cores: Plug
    control: Control
    contexts: ContextManager
    prices: Prices
    windows: Windows
    recall: RuntimeMemory
    preparation: Preparation
    _house: Timer
    _purging: asyncio.Task[None]

    async def _boot_rooms(self, cores: Mapping[str, Core] | None) -> None:
        config, clock = self.config, self.clock
        self._closers.callback(self.database.close)
        self.journal = Journal(self.database, clock, keep=config.journal.keep, max_bytes=config.journal.max_bytes)
        self._closers.callback(self.journal.write_held)
        self.repeats = Repeats(self.journal)
        self.processes = ProcessTable(first_pid=self.journal.last_pid() + 1)
        groups = Groups(config.group)
        self.spaces = Spaces(groups.shared_blocks())
        self.access = AccessManager(self.database, groups, self.spaces)
        self.access.ensure_admin(self.home)
        use_one_thread()  # searches compare vectors, in pieces that several threads would only wait for
        self.search = Search(self.database, clock, self._embedder())
        self._closers.push_async_callback(self.search.close)
        self.memory = MemoryManager(self.database, clock, Segments(), self.search, self.spaces, config.memory)
        self._closers.callback(self.memory.close)
        await self._open_storage(groups)
        self.transfers = Transfers(self, self.storage.streams)
        self.search.take_up()
        self.tools = ToolManager(self.storage, self.memory, config.tool, clock=clock, folders=[self.home])
        await self.tools.open()
        self._closers.push_async_callback(self.tools.close)
        self.contexts = self._open_contexts()
        self._closers.push_async_callback(self.contexts.close)
        self.prices = Prices(config.price)
        await self._open_cores(cores)
        self._make_queue("llm", self.llm)
        self.windows = Windows(self.llm, self._ask, config.context.summarise_with)
        self.recall = RuntimeMemory(self._search, self.memory, tokens=config.memory.recall_tokens)
        distiller = Distiller(self._search, self._ask, config.memory.distil_with)
        self.preparation = Preparation([self.recall, self.windows, distiller])
        self._make_queue("memory", Pool("memory", self.memory))
        self._make_queue("storage", Pool("storage", self.storage))
        self._make_queue("tool", _Marked(self.tools, self.journal))
        self.control = Control(self.processes, self.access, self.queues, clock, self._abort)
        self._make_queue("kernel", Pool("kernel", self.control, MAX_ANSWERS))

    async def _open_storage(self, groups: Groups) -> None:
        self.storage = StorageManager(
            self.database, self.home, self.clock, self.spaces, self.config.storage, self.search, groups.allows
        )
        self.storage.open()
        self._closers.callback(self.storage.close)
        self._closers.push_async_callback(self.storage.knowledge.close)
        self._closers.push_async_callback(self.storage.mounts.close)
        await self.storage.mounts.open(self.config.mount)

    def _make_core(self, section: CoreSection) -> Core:
        self.prices.know(section)
        return self._prepared(make_core(section, self.home))

    def _prepared(self, core: Core) -> Core:
        if isinstance(core, SwapsOut):
            core.contexts = self.contexts
        return core

    def _open_contexts(self) -> ContextManager:
        settings = self.config.context
        swap = Swap(self.home / "swap" / "context", settings.disk_bytes)
        contexts = ContextManager(swap, ram_bytes=settings.ram_bytes, now=self.clock.now)
        contexts.open()
        return contexts

    async def _open_cores(self, given: Mapping[str, Core] | None) -> None:
        """One that cannot be opened is shown as failed, with the reason, and spares the others."""
        roster, settings = Roster(), self.config.router
        roster.listen(self._core_moved)
        router = Router(roster, settings.default, models=self.config.model, aliases=settings.aliases)
        self.llm = LLMManager(roster, router, self.clock.now, self.prices)
        self.cores = Plug(self.llm, self._make_core, _Generations(self))
        self._closers.push_async_callback(self.cores.close)
        for each in self.config.core if given is None else map(self._prepared, given.values()):
            await self.cores.boot(each)

    def _core_moved(self, seat: Seat) -> None:
        self.trace.add(Row(self.clock.now(), "", 0, "core", seat.state.value, seat.name, seat.why))

    def _make_queue(self, name: str, runner: Runner[Any]) -> None:
        settings = self.config.scheduler
        self.queues[name] = Queue(
            name,
            POLICIES[settings.policy](settings.quantum),
            runner,
            clock=self.clock,
            trace=self.trace,
            on_end=self._ended,
            max_waiting=settings.max_waiting,
            is_held=name != "kernel",
        )

    async def why_not_ready(self) -> Stopping | None:
        """What keeps calls from being taken or recorded; None when nothing does. After a write has failed the store
        is tried again, since those who ask may send no calls until then."""
        if not self.is_ready:
            return Stopping("the kernel is stopping", retry_after=5)
        if not self.can_write:
            try:
                await self.database.try_write()
            except AiosError as error:
                # Its message names the home, and these pages are shown to everybody.
                return Stopping(UNWRITABLE, code=error.code, retry_after=error.retry_after)
        return None

    # ── submit ──

    def authenticate(self, key: str | None) -> Principal:
        """Who the key stands for. Raises Unauthorized."""
        return self.access.authenticate(key)

    def submit(
        self,
        principal: Principal,
        name: str,
        args: Args,
        *,
        key: str | None = None,
        on_chunk: OnChunk | None = None,
        timeout: float | None = None,
        session: str | None = None,
        nice: int = -20,
    ) -> Syscall:
        """Check, acknowledge and queue a call; its `future` gives the result struct or raises an AiosError.

        A refusal raises at once. With `key` a repeated submit joins the first call or gets its recorded answer
        (`on_chunk` then hears what was said so far before this returns); another body is a Conflict. Calls of one
        `session` go to the same core where there is a choice. Servers that rank their calls are told `nice`, but never
        less than the process has.
        """
        process = self.vet(principal, name, args)
        spec = spec_of(name)
        body = None
        if key is not None:
            earlier = self.repeats.find(spec, args, process, key, on_chunk)
            if isinstance(earlier, Syscall):
                return earlier
            body = earlier
        call = self._make(spec, args, process, principal, key)
        call.body, call.session, call.nice = body, session, nice
        if on_chunk is not None:
            call.listeners.append(on_chunk)
        self._start(call, timeout)
        return call

    def vet(self, principal: Principal, name: str, args: Args) -> Process:
        """Whose process asks. Raises what `submit` would, by who asks and for what."""
        if self._is_stopping:
            raise Stopping("the kernel is stopping; try again when it is back", retry_after=5)
        spec = spec_of(name)
        process = self._process_of(principal)
        self.access.check(principal, spec, args, self.processes)
        return process

    def _start(self, call: Syscall, timeout: float | None) -> None:
        """Acknowledge and queue a call. A refusal raises at once."""
        self._check_room(call)
        self._register(call, timeout)
        queue = self.queues[call.spec.module]
        if _is_journalled(call):
            queue.num_expected += 1
            self.journal.open(call, lambda error: self._admit(call, error))
        else:
            queue.push(call)

    async def call(
        self,
        principal: Principal,
        name: str,
        args: Args,
        *,
        key: str | None = None,
        on_chunk: OnChunk | None = None,
        timeout: float | None = None,
    ) -> Any:
        """`submit` and wait. When the waiting task is cancelled, so is the call, unless it has a key."""
        call = self.submit(principal, name, args, key=key, on_chunk=on_chunk, timeout=timeout)
        return await self.wait(call)

    async def wait(self, call: Syscall) -> Any:
        """The call's result. When the waiting task is cancelled, so is the call, unless it has a key."""
        assert call.future is not None
        try:
            # Others may wait for a keyed call too: one who leaves must not take the answer along.
            return await (asyncio.shield(call.future) if call.is_detached else call.future)
        except asyncio.CancelledError:
            self.cancel(call)
            raise

    def cancel(self, call: Syscall, why: str = "the client disconnected") -> None:
        """End a call that nobody waits for any more; one with a key goes on."""
        if not call.is_detached:
            self._abort(call, Cancelled(why))

    def _process_of(self, principal: Principal) -> Process:
        if principal.pid is None:
            return self.processes.implicit(principal, self.clock.wall())
        try:
            process = self.processes.get(principal.pid)
        except NotFound:
            # The key of a process is revoked when it ends: this one outlived the kernel that started it.
            process = self._revive(self.journal.process(principal.pid), principal)
        process.is_revived = False
        if process.state is ProcessState.ENDED:
            raise Denied(f"process {process.pid} has ended", code="process_ended")
        return process

    def _make(self, spec: CallSpec, args: Args, process: Process, principal: Principal, key: str | None) -> Syscall:
        call_id = self._id_prefix + str(next(self._ids))
        if isinstance(args, LLMGenerate):
            args = self._settled(args, process)
        call = Syscall(call_id, spec, args, process, self.clock.now(), key, principal)
        if key is not None and spec.is_streamed:
            call.chunks = []
        return call

    def _settled(self, args: LLMGenerate, process: Process) -> LLMGenerate:
        """With what the agent left to the kernel: it is on record with the call, so that a second run is the same."""
        window = args.window or process.window or self.config.context.window
        memory = args.memory or process.memory or ("auto" if self.config.memory.auto else None)
        seed = secrets.randbits(62) if args.seed is None else args.seed
        if (seed, window, memory) == (args.seed, args.window, args.memory):
            return args
        return msgspec.structs.replace(args, seed=seed, window=window, memory=memory)

    async def _ask(self, call: Syscall, args: LLMGenerate) -> Generation:
        """A generation that `call` needs first."""
        args = msgspec.structs.replace(args, window=args.window or "error", memory="off")
        result: Generation = await self._first(call, "llm_generate", args)
        return result

    async def _search(self, call: Syscall, args: MemSearch) -> Entries:
        """A search of memory that `call` needs first."""
        result: Entries = await self._first(call, "mem_search", args)
        return result

    async def _first(self, call: Syscall, name: str, args: Args) -> Any:
        """The result of a call that `call` needs first, in its process and on its account."""
        process = call.process
        principal = call.principal or Principal(process.owner, process.agent, process.pid)
        child = self._make(spec_of(name), args, process, principal, None)
        self._start(child, None)
        return await self.wait(child)

    def _embedder(self) -> Asking | None:
        """What [search] embed_with names."""
        model = self.config.search.embed_with
        if model is None:
            return None
        name = next((f"{model} ({model_of(core)})" for core in self.config.core if core.name == model), model)
        return Asking(model, name, self._embed, lambda: self.llm.shortest_context(model))

    async def _embed(self, args: LLMEmbed, is_urgent: bool) -> Embeddings:
        """Vectors on the kernel's own account. What nobody waits for gives way to everybody."""
        if not self.llm.knows(str(args.model)):  # another model's vectors would be no use
            raise NotFound(f"[search] embed_with names '{args.model}', and there is no such model now", code="no_core")
        agent = "search" if is_urgent else "index"
        owner = Principal(NOBODY, agent, key_id=f"kernel/{agent}")
        process = self.processes.implicit(owner, self.clock.wall())
        process.nice = 0 if is_urgent else BACKGROUND_NICE
        call = self._make(spec_of("llm_embed"), args, process, owner, None)
        self._start(call, None)
        result: Embeddings = await self.wait(call)
        return result

    def _check_room(self, call: Syscall) -> None:
        queue = self.queues[call.spec.module]
        limit = self.config.scheduler.max_open
        root = call.process.root
        # Waits are counted apart: a parent that waits for its children must not take the room that they need.
        if (root.num_waits if call.spec.is_wait else root.num_open) >= limit:
            raise Full(
                f"process {root.pid} and its children have {limit} calls open already; wait for some of them",
                code="too_many_open_calls",
                retry_after=1,
            )
        queue.check_room()
        queue.runner.check(call)

    def _register(self, call: Syscall, timeout: float | None) -> None:
        call.future = asyncio.get_running_loop().create_future()
        call.process.open_calls[call.id] = call
        call.process.num_calls += 1
        call.process.root.num_open += not call.spec.is_wait
        call.process.root.num_waits += call.spec.is_wait
        self._open[call.id] = call
        self._idle.clear()
        if call.key is not None:
            self.repeats.add(call)
        limit = min(timeout or self.config.scheduler.timeout, self.config.scheduler.timeout)
        if not call.spec.is_wait:
            call.timer = self.clock.call_later(limit, lambda: self._expire(call, limit))

    def _admit(self, call: Syscall, error: AiosError | None) -> None:
        """The journal has the call, or could not take it."""
        self.queues[call.spec.module].num_expected -= 1
        if call.state is not State.NEW:
            return
        if error is not None:
            self._end_unqueued(call, error, is_recorded=False)
        else:
            self._enqueue(call)

    def _enqueue(self, call: Syscall) -> None:
        """A call that is on record joins its queue, once all is done that it asks for before."""
        queue = self.queues[call.spec.module]
        if not (steps := self.preparation.steps(call)):
            queue.push(call)
            return
        queue.num_expected += 1
        queue.park(call, steps[0].why)
        self.preparation.begin(call, steps, lambda fate: self._after_steps(call, fate))

    def _after_steps(self, call: Syscall, fate: Fate) -> None:
        queue = self.queues[call.spec.module]
        queue.num_expected -= 1
        if call.state in TERMINAL:
            return
        match fate:
            case AiosError():
                queue.abort(call, fate)
            case Prepared.READY:
                queue.push(call)
            case Prepared.CANCELLED:
                why = "the kernel broke off what this call needed before it could begin; ask again"
                queue.abort(call, CutShort(why, retry_after=1))

    def _expire(self, call: Syscall, limit: float) -> None:
        was = f"{call.state.value}: {call.why}" if call.state is State.BLOCKED else call.state.value
        self._abort(call, TimedOut(f"{call.spec.name} was not done after {limit:g} s (it was {was})"))

    def _abort(self, call: Syscall, fate: AiosError) -> None:
        if call.id not in self._open or call.state in TERMINAL:
            return
        if call.state is State.NEW:
            self._end_unqueued(call, fate)
        else:
            self.queues[call.spec.module].abort(call, fate)

    # ── the end of a call ──

    def _end_unqueued(self, call: Syscall, fate: AiosError, *, is_recorded: bool = True) -> None:
        call.error = fate
        fate.call_id = call.id
        state = State.CANCELLED if isinstance(fate, Cancelled) else State.FAILED
        move(call, state, self.clock.now(), self.trace, fate.code)
        self._ended(call, is_recorded)

    def _ended(self, call: Syscall, is_recorded: bool = True) -> None:
        """A call reached its last state: account, journal, answer. A keyed answer is recorded before it is given.

        What the journal refused to open needs no end there: on a full disk such ends would use up the last room.
        """
        if call.timer is not None:
            call.timer.cancel()
        if call.is_begun and call.error is not None:
            call.error = _after_begun(call.error)
        self.preparation.forget(call)
        process = call.process
        process.open_calls.pop(call.id, None)
        process.tokens_in += call.tokens_in
        process.tokens_cached += call.tokens_cached
        process.tokens_out += call.tokens_out
        if call.cost is not None:
            process.cost = (process.cost or 0.0) + call.cost
        process.num_failed += call.state is not State.DONE
        process.root.num_open -= not call.spec.is_wait
        process.root.num_waits -= call.spec.is_wait
        self.recall.ended(call, lambda: self._record(call, is_recorded))

    def _record(self, call: Syscall, is_recorded: bool) -> None:
        if not (is_recorded and _is_journalled(call)):
            self._give(call, None)
        elif self._is_stopping and isinstance(call.error, Stopping):
            self._give(call, None)  # stays open in the journal: the next boot takes it up
        elif call.key is None:
            self.journal.close(call)
            self._give(call, None)
        else:
            self.journal.close(call, lambda error: self._give(call, error))

    def _give(self, call: Syscall, journal_error: AiosError | None) -> None:
        self._open.pop(call.id, None)
        if call.key is not None:
            self.repeats.discard(call)
        error = journal_error or call.error
        assert call.future is not None
        if not call.future.done():
            if error is not None:
                call.future.set_exception(error)
                call.future.exception()  # nobody may be left to hear it; that is no warning's business
            else:
                call.future.set_result(call.result)
        if call.process.is_revived and not call.process.open_calls:
            self.processes.forget(call.process)
        if not self._open:
            self._idle.set()

    # ── after a restart ──

    def _recover(self) -> None:
        """Calls that were open when the kernel last died: run those with a key, end the others."""
        for record in self.journal.recover():
            spec = CALLS.get(record.name)
            why: AiosError
            if record.key is None:
                why = CutShort("the kernel died while this call was open", code="kernel_restarted")
                self.journal.settle(record, State.CANCELLED, why)
            elif spec is None or record.args is None:
                why = ModuleFault(f"this kernel cannot read the {record.name} that an older one had open")
                self.journal.settle(record, State.FAILED, why)
            elif record.is_begun and not spec.is_repeatable:
                why = OutcomeUnknown(
                    "the kernel died while this ran; whether it took effect is not known: not run again"
                )
                self.journal.settle(record, State.FAILED, why)
            else:
                self._take_up(record, spec, record.args)
        self.contexts.sweep(self._open.keys())

    def _take_up(self, record: OpenRecord, spec: CallSpec, args: Args) -> None:
        known = self.journal.process(record.pid)
        process = self._revive(known, Principal(record.owner, record.agent, record.pid))
        call = Syscall(record.call_id, spec, args, process, self.clock.now(), record.key)
        call.body, call.opened = record.body_hash, record.opened
        if spec.is_streamed:
            call.chunks = []
        self._register(call, None)
        if (stored := self.contexts.find(call.id)) is not None and not self._adopted(call, stored):
            self.contexts.drop_stored(call.id)
        self._enqueue(call)

    def _adopted(self, call: Syscall, stored: Stored) -> bool:
        """Let `call` go on from what an earlier kernel has left of it. Whether its core is still to read that."""
        if stored.core:
            return self.llm.adopt(call, stored)
        try:
            self.llm.carry_on(call, self.contexts.left(call.id))
            call.note("resumed from its text")
        except ValueError as error:
            call.note(f"begun anew: {error}")
        return False

    def _revive(self, known: Process | None, principal: Principal) -> Process:
        """A process that an earlier kernel started, as the journal has it, else as far as its key says."""
        assert principal.pid is not None
        wall = self.clock.wall()
        known = known or Process(principal.pid, principal.agent, principal.owner, started_wall=wall)
        return self.processes.revive(known)

    def _keep_house(self) -> None:
        """Every now and then: forget what was kept for long enough."""
        self._house = self.clock.call_later(HOUSE_SECONDS, self._keep_house)
        self._purging = asyncio.get_running_loop().create_task(self._purge())

    async def _purge(self) -> None:
        wall = self.clock.wall()
        with contextlib.suppress(AiosError):  # a full disk is told to those who write
            await self.journal.purge(wall, self._alive())
            await self.storage.keep_house()
            await self.memory.finish_clearing()
        self.access.purge(wall - LOST_KEY_SECONDS, self._alive())

    def _alive(self) -> set[int]:
        return {process.pid for process in self.processes.list()}

    # ── looking ──

    def info(self, process: Process) -> ProcessInfo:
        return self.control.info(process)

    def visible(self, principal: Principal, *, ended: bool = False) -> list[Process]:
        return self.control.visible(principal, ended=ended)

    def find(self, principal: Principal, pid: int) -> Process | None:
        """Process `pid`, if `principal` may see it."""
        return self.control.find(principal, pid)

    @property
    def can_write(self) -> bool:
        """Whether calls can be recorded now: False while the disk is full, and for good after a failed fsync."""
        return self.database.can_write

    def statistics(self) -> dict[str, Any]:
        """Plain numbers for metrics, `top` and tests."""
        return {
            "processes": len(self.processes),
            "open_calls": len(self._open),
            "queues": {
                name: {"waiting": len(queue.policy), "running": len(queue.running)}
                for name, queue in self.queues.items()
            },
            "cores": self.llm.statistics(),
            "context": self.contexts.statistics(),
            "memory": self.memory.statistics(),
            "search": self.search.statistics(),
            "tools": {"problems": self.tools.problems},
            "journal": self.journal.statistics(),
        }

    async def check_home(self) -> list[Fault]:
        """What is wrong with what the home holds; reads all of it, while calls go on."""
        rooms = rooms_of(self.database, self.home)
        return await self.database.read_async(lambda c: list(faults(c, rooms, is_served=True)))

    def check_integrity(self) -> None:
        """Every room's own check; meant for tests, when nothing runs."""
        for queue in self.queues.values():
            queue.check_integrity()
        if not self._open:
            self.llm.check_integrity()
            self.contexts.check_integrity()

    # ── shut down ──

    async def stop(self, drain: float | None = None) -> None:
        """Take no more calls, wait up to `drain` seconds for the open ones, end the rest, close every room.

        Calls with a key that are cut short stay open in the journal and go on at the next boot.
        """
        if self._is_stopping:
            return
        self._is_stopping, self.is_ready = True, False
        self._house.cancel()
        await self.search.close()  # it would ask for vectors for as long as others are waited for
        limit = self.config.server.drain if drain is None else drain
        for call in [call for call in self._open.values() if call.spec.is_wait]:
            self._abort(call, self._cut_short(call))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), limit)
        if self._open:
            self._idle.clear()
        fates = [(call, self._cut_short(call)) for call in self._open.values()]
        self.contexts.keep([call.id for call, fate in fates if isinstance(fate, Stopping)])
        for call, fate in fates:
            if isinstance(fate, Stopping) and (said := half_said(call)) is not None:
                self.contexts.leave(call.id, said)
            self._abort(call, fate)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), LAST_SECONDS)
        await self.contexts.flush(LAST_SECONDS)
        self._purging.cancel()  # what it has not forgotten yet goes at the next boot
        await asyncio.wait([self._purging], timeout=LAST_SECONDS)
        await self._close_rooms()

    def _cut_short(self, call: Syscall) -> AiosError:
        """What `call` ends with when the kernel will not wait for it: to come back, unless that could do harm."""
        if call.is_detached and not (call.state is State.RUNNING and self._may_be_half_done(call)):
            return Stopping("the kernel stopped before this was done; it goes on at the next start", retry_after=5)
        if call.state is State.RUNNING and self._may_have_changed(call):
            return OutcomeUnknown(
                "the kernel stopped while this ran; whether it took effect is not known: look before you try again"
            )
        return CutShort("the kernel stopped before this was done; try again when it is back", retry_after=5)

    def _may_be_half_done(self, call: Syscall) -> bool:
        """Whether it is not carried on at the next start: nobody could tell what of it was done."""
        return not call.spec.is_repeatable and self._may_have_changed(call)

    def _may_have_changed(self, call: Syscall) -> bool:
        """Whether a second run of `call` could do harm, if the first took effect."""
        if call.spec.effect in (Effect.PURE, Effect.READ):
            return False
        return call.spec.module != "tool" or self.tools.side_effect(call)

    def hurry(self) -> None:
        """End a drain that is under way: what is open is cut short now."""
        self._idle.set()

    async def _close_rooms(self) -> None:
        await self._closers.aclose()


def _after_begun(error: AiosError) -> AiosError:
    """What a side effect under a key is said to have ended with: not with what asking again would mend, when it had
    begun and may have been done."""
    if error.status < 500 or isinstance(error, Stopping | OutcomeUnknown) or error.code == NEVER_RAN:
        return error
    why = f"{error.message}; whether it took effect is not known: it is not run again under this key"
    return type(error)(why, code=OutcomeUnknown.default_code, call_id=error.call_id)


def _is_journalled(call: Syscall) -> bool:
    """Whether a crash would leave anything of the call to tell: not of a mere look, nor of the process table."""
    return call.spec.module != "kernel" and (call.key is not None or call.spec.effect is not Effect.READ)


class _Generations:
    """The calls that ask for a core, as those see them who plug cores in and out."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.abort = kernel._abort

    def open(self) -> list[Syscall]:
        return [call for call in self._kernel._open.values() if call.spec.module == "llm"]

    def restart(self, call: Syscall) -> None:
        self._kernel.queues["llm"].restart(call)

    def pump(self) -> None:
        self._kernel.queues["llm"].pump()


class _Marked:
    """The tool room's runner, with a mark in the journal before a side effect of a keyed call begins."""

    def __init__(self, tools: ToolManager, journal: Journal) -> None:
        self._tools = tools
        self._journal = journal
        self.check, self.free, self.fits = tools.check, tools.free, tools.fits
        self.take, self.release, self.drop = tools.take, tools.release, tools.drop

    async def run(self, call: Syscall, slot: str, quantum: int | None) -> Any:
        if call.key is not None and self._tools.side_effect(call):
            await self._mark(call)
        return await self._tools.run(call, slot, quantum)

    async def _mark(self, call: Syscall) -> None:
        marked: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def then(error: AiosError | None) -> None:
            if not marked.done():
                marked.set_result(None) if error is None else marked.set_exception(error)

        self._journal.begin(call, then)
        await marked
        call.is_begun = True

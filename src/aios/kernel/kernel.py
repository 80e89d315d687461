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

from aios.abi.calls import Args, CallSpec, LLMGenerate, ProcessInfo, know_types, spec_of
from aios.abi.errors import AiosError, Cancelled, CutShort, Denied, NotFound, Stopping, TimedOut
from aios.abi.messages import Chunk

from .access import AccessManager, Groups
from .check import faults, rooms_of
from .clock import Clock, SystemClock
from .config import Config
from .context import ContextManager, Windows
from .control import Control
from .database import Database, Fault
from .effects import Effects, Marked, after_begun, is_journalled
from .errands import Errands
from .house import House
from .idempotency import Repeats
from .journal import Journal
from .llm import Core, LLMManager, Plug, Prices
from .llm.local.blas import use_one_thread
from .llm.manager import half_said
from .memory import Distiller, MemoryManager, RuntimeMemory
from .models import Generations, Models
from .open_calls import OpenCalls
from .prepare import Fate, Preparation, Prepared
from .process import Principal, Process, ProcessState, ProcessTable
from .recovery import Recovery
from .scheduler import POLICIES, Pool, Queue, Runner
from .search import Search
from .spaces import Spaces
from .storage import Segments, StorageManager
from .syscall import TERMINAL, State, Syscall, move
from .tool import ToolManager
from .trace import Trace
from .transfers import Transfers

OnChunk = Callable[[Chunk], None]

MAX_ANSWERS = 4096
"""Calls of the kernel itself at once: they take no time, but for those that wait for a process to end."""
LAST_SECONDS = 5.0
"""So long a stop waits for what it has cut short to be over."""
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
        self._open = OpenCalls(config.scheduler.max_open)
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
            kernel.recovery.run(lambda call: kernel._register(call, None), kernel._enqueue)
            kernel.cores.serve()
            await kernel.search.open()
            await kernel.journal.settled()
        except BaseException:
            await kernel._close_rooms()
            raise
        kernel.house.keep()
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
    recovery: Recovery
    effects: Effects
    house: House

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
        errands = Errands(self)
        self.search = Search(self.database, clock, errands.embedder(config))
        self._closers.push_async_callback(self.search.close)
        self.memory = MemoryManager(self.database, clock, Segments(), self.search, self.spaces, config.memory)
        self._closers.callback(self.memory.close)
        await self._open_storage(groups)
        self.transfers = Transfers(self, self.storage.streams)
        self.search.take_up()
        self.tools = ToolManager(self.storage, self.memory, config.tool, clock=clock, folders=[self.home])
        await self.tools.open()
        self._closers.push_async_callback(self.tools.close)
        self.effects = Effects(self.tools)
        await self._open_models(cores)
        self._make_queue("llm", self.llm)
        self.recovery = Recovery(self.journal, self.processes, self.contexts, self.llm, clock)
        self.windows = Windows(self.llm, errands.ask, config.context.summarise_with)
        self.recall = RuntimeMemory(errands.search, self.memory, tokens=config.memory.recall_tokens)
        distiller = Distiller(errands.search, errands.ask, config.memory.distil_with)
        self.preparation = Preparation([self.recall, self.windows, distiller])
        self._make_queue("memory", Pool("memory", self.memory))
        self._make_queue("storage", Pool("storage", self.storage))
        self._make_queue("tool", Marked(self.tools, self.journal))
        self.control = Control(self.processes, self.access, self.queues, clock, self._abort)
        self._make_queue("kernel", Pool("kernel", self.control, MAX_ANSWERS))
        self.house = House(clock, self.processes, self.journal, self.access, self.storage, self.memory)

    async def _open_storage(self, groups: Groups) -> None:
        self.storage = StorageManager(
            self.database, self.home, self.clock, self.spaces, self.config.storage, self.search, groups.allows
        )
        self.storage.open()
        self._closers.callback(self.storage.close)
        self._closers.push_async_callback(self.storage.knowledge.close)
        self._closers.push_async_callback(self.storage.mounts.close)
        await self.storage.mounts.open(self.config.mount)

    async def _open_models(self, cores: Mapping[str, Core] | None) -> None:
        generations = Generations(self._open, self.queues, self._abort)
        models = Models(self.config, self.home, self.clock, self.trace, generations)
        self.contexts, self.prices, self.llm, self.cores = models.contexts, models.prices, models.llm, models.cores
        self._closers.push_async_callback(models.close)
        await models.open(cores)

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
        queue = self.queues[call.spec.module]
        self._open.check_room(call)
        queue.check_room()
        queue.runner.check(call)
        self._register(call, timeout)
        if is_journalled(call):
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
            process = self.recovery.revive(principal)
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

    def begin(self, name: str, args: Args, process: Process, principal: Principal) -> Syscall:
        """A call of the kernel's own, in `process`: nobody's rights are checked. A refusal raises at once."""
        call = self._make(spec_of(name), args, process, principal, None)
        self._start(call, None)
        return call

    def _register(self, call: Syscall, timeout: float | None) -> None:
        call.future = asyncio.get_running_loop().create_future()
        self._open.add(call)
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
        if call not in self._open or call.state in TERMINAL:
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
            call.error = after_begun(call.error)
        self.preparation.forget(call)
        self._open.ended(call)
        self.recall.ended(call, lambda: self._record(call, is_recorded))

    def _record(self, call: Syscall, is_recorded: bool) -> None:
        if not (is_recorded and is_journalled(call)):
            self._give(call, None)
        elif self._is_stopping and isinstance(call.error, Stopping):
            self._give(call, None)  # stays open in the journal: the next boot takes it up
        elif call.key is None:
            self.journal.close(call)
            self._give(call, None)
        else:
            self.journal.close(call, lambda error: self._give(call, error))

    def _give(self, call: Syscall, journal_error: AiosError | None) -> None:
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
        self._open.forget(call)

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
        self.house.rest()
        await self.search.close()  # it would ask for vectors for as long as others are waited for
        limit = self.config.server.drain if drain is None else drain
        for call in [call for call in self._open if call.spec.is_wait]:
            self._abort(call, self.effects.cut_short(call))
        await self._open.over(limit)
        fates = [(call, self.effects.cut_short(call)) for call in self._open]
        self.contexts.keep([call.id for call, fate in fates if isinstance(fate, Stopping)])
        for call, fate in fates:
            if isinstance(fate, Stopping) and (said := half_said(call)) is not None:
                self.contexts.leave(call.id, said)
            self._abort(call, fate)
        await self._open.over(LAST_SECONDS)
        await self.contexts.flush(LAST_SECONDS)
        await self.house.close()
        await self._close_rooms()

    def hurry(self) -> None:
        """End a drain that is under way: what is open is cut short now."""
        self._open.hurry()

    async def _close_rooms(self) -> None:
        await self._closers.aclose()

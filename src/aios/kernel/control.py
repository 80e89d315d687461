"""The calls that the kernel answers itself, without a queue: access checks and processes. Knows no module's inside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from aios.abi import calls as abi
from aios.abi.calls import CallSpec, convert_args, spec_of
from aios.abi.errors import AiosError, BadRequest, Cancelled, Denied, Full

from .clock import Clock
from .process import Principal, Process, ProcessState, ProcessTable
from .scheduler import Queue
from .syscall import State, Syscall

MAX_CHILDREN = 64
"""Live processes that one agent's task may have: each costs a turn of nobody else's, but memory of everybody's."""


class Access(Protocol):
    """What control needs of the access manager."""

    def check(self, principal: Principal, spec: CallSpec, args: Any, processes: ProcessTable) -> None: ...
    def mint(self, *, owner: str, agent: str, pid: int | None = None, name: str = "") -> tuple[str, str]: ...
    def revoke(self, key_id: str) -> None: ...
    def revoke_process(self, pid: int) -> None: ...
    async def settled(self) -> None: ...


class Control:
    """Process table, signals and questions. One handler a call, named like the call."""

    def __init__(
        self,
        processes: ProcessTable,
        access: Access,
        queues: Mapping[str, Queue[Any]],
        clock: Clock,
        abort: Callable[[Syscall, AiosError], None],
    ) -> None:
        self._processes = processes
        self._access = access
        self._queues = queues
        self._clock = clock
        self._abort = abort
        self._waiters: dict[int, list[asyncio.Future[None]]] = {}

    def check(self, call: Syscall) -> None:
        if call.key is not None:
            raise BadRequest(f"{call.spec.name} is answered at once and takes no Idempotency-Key", code="no_key_here")

    async def run(self, call: Syscall) -> Any:
        handler = getattr(self, call.spec.name)
        return await handler(call.principal, call.process, call.args)

    async def acc_check(self, principal: Principal, process: Process, args: abi.AccCheck) -> abi.Verdict:
        try:
            spec = spec_of(args.call)
            self._access.check(principal, spec, convert_args(spec, args.arguments), self._processes)
        except (Denied, BadRequest) as error:
            return abi.Verdict(allowed=False, why=error.message)
        return abi.Verdict(allowed=True, why="its own data and nothing else")

    async def proc_spawn(self, principal: Principal, process: Process, args: abi.ProcSpawn) -> abi.Spawned:
        if not principal.is_admin and process.root.num_live > MAX_CHILDREN:
            raise Full(
                f"the task of process {process.root.pid} has {MAX_CHILDREN} processes already; end some of them",
                code="too_many_processes",
                retry_after=5,
            )
        child = self._processes.spawn(
            args.agent,
            principal.owner,
            wall=self._clock.wall(),
            parent=None if principal.is_admin else process.pid,
            nice=args.nice,
            command=args.command,
        )
        child.window = args.window or child.window
        child.memory = args.memory or child.memory
        _, key = self._access.mint(owner=principal.owner, agent=args.agent, pid=child.pid, name=f"pid {child.pid}")
        await self._access.settled()  # a key that was handed out works after a crash too
        return abi.Spawned(pid=child.pid, key=key)

    async def proc_list(self, principal: Principal, process: Process, args: abi.ProcList) -> abi.Processes:
        return abi.Processes(processes=[self.info(p) for p in self.visible(principal, ended=args.is_all)])

    async def proc_signal(self, principal: Principal, process: Process, args: abi.ProcSignal) -> abi.Empty:
        target = self._processes.live(args.pid)
        if args.signal == "stop":
            self._stop(target)
        elif args.signal == "cont":
            self._continue(target)
        elif args.signal == "exit":
            self.end(target, args.code, Cancelled("its process ended", code="process_ended"), detached=False)
        else:
            for child in self._processes.below(target):
                self.end(child, None, Cancelled("its parent process was killed", code="killed"))
            self.end(target, args.code, Cancelled("its process was killed", code="killed"))
        return abi.Empty()

    async def proc_nice(self, principal: Principal, process: Process, args: abi.ProcNice) -> abi.Empty:
        self._processes.live(args.pid).nice = args.nice
        return abi.Empty()

    async def proc_wait(self, principal: Principal, process: Process, args: abi.ProcWait) -> abi.ProcessInfo:
        target = self._processes.get(args.pid)
        if target is process:
            raise BadRequest(f"process {args.pid} is the one that asks: it cannot wait for its own end", param="pid")
        if target.state is not ProcessState.ENDED:
            ended = asyncio.get_running_loop().create_future()
            self._waiters.setdefault(target.pid, []).append(ended)
            timer = self._clock.call_later(args.timeout, lambda: _settle(ended))
            try:
                await ended
            finally:
                timer.cancel()
                self._forget_waiter(target.pid, ended)
        return self.info(target)

    # ── signals ──

    def _stop(self, target: Process) -> None:
        target.move(ProcessState.STOPPED)
        for call in list(target.open_calls.values()):
            if (queue := self._queues.get(call.spec.module)) is not None:
                queue.hold(call)

    def _continue(self, target: Process) -> None:
        target.move(ProcessState.RUNNING)
        for call in list(target.open_calls.values()):
            if (queue := self._queues.get(call.spec.module)) is not None:
                queue.unhold(call)

    def end(self, target: Process, code: int | None, fate: AiosError, *, detached: bool = True) -> None:
        """End `target` and its open calls with `fate`; with `detached=False` calls that outlive it go on."""
        if target.state is ProcessState.ENDED:
            return
        self._processes.end(target, self._clock.wall(), code)
        self._access.revoke_process(target.pid)
        for call in list(target.open_calls.values()):
            if detached or not call.is_detached:
                self._abort(call, type(fate)(fate.message, code=fate.code))
        for waiter in self._waiters.pop(target.pid, []):
            _settle(waiter)

    def revoke(self, key_id: str) -> None:
        """End a key, and the process that was made for it. Raises NotFound."""
        self._access.revoke(key_id)
        if process := self._processes.without_key(key_id):
            self.end(process, None, Cancelled("its key was revoked", code="key_revoked"), detached=False)

    def _forget_waiter(self, pid: int, waiter: asyncio.Future[None]) -> None:
        waiting = self._waiters.get(pid, [])
        if waiter in waiting:
            waiting.remove(waiter)
        if not waiting:
            self._waiters.pop(pid, None)

    # ── what people see ──

    def visible(self, principal: Principal, *, ended: bool = False) -> list[Process]:
        """Processes that `principal` may see: all for an admin, else those of its own agent and their children."""
        return [process for process in self._processes.list(ended=ended) if self._may_see(principal, process)]

    def find(self, principal: Principal, pid: int) -> Process | None:
        """Process `pid`, live or remembered, if it is among those that `principal` may see."""
        process = self._processes.find(pid)
        return process if process is not None and self._may_see(principal, process) else None

    def _may_see(self, principal: Principal, process: Process) -> bool:
        step: Process | None = process
        while step is not None and not principal.is_admin:
            if (step.owner, step.agent) == (principal.owner, principal.agent):
                return True
            step = None if step.parent is None else self._processes.find(step.parent)
        return principal.is_admin

    def info(self, process: Process) -> abi.ProcessInfo:
        running = next((c for c in process.open_calls.values() if c.state is State.RUNNING), None)
        return abi.ProcessInfo(
            pid=process.pid,
            agent=process.agent,
            owner=process.owner,
            state=process.state.value,
            nice=process.nice,
            parent=process.parent,
            command=process.command,
            started=process.started_wall,
            ended=process.ended_wall,
            exit_code=process.exit_code,
            num_calls=process.num_calls,
            num_failed=process.num_failed,
            tokens_in=process.tokens_in,
            tokens_cached=process.tokens_cached,
            tokens_out=process.tokens_out + sum(c.tokens_out for c in process.open_calls.values()),
            num_slices=process.num_slices,
            num_switches=process.num_switches,
            wait_s=round(process.wait_s + self._waiting_now(process), 6),
            run_s=round(process.run_s, 6),
            core=running.core if running else None,
            open_calls=[self._open_call(call) for call in process.open_calls.values()],
            cost=None if process.cost is None else round(process.cost, 9),
        )

    def _waiting_now(self, process: Process) -> float:
        waits = (State.QUEUED, State.BLOCKED, State.SUSPENDED)
        return sum(self._clock.now() - c.since for c in process.open_calls.values() if c.state in waits)

    def _open_call(self, call: Syscall) -> abi.OpenCall:
        queue = self._queues.get(call.spec.module)
        position = queue.policy.position(call) if queue and call.state is State.QUEUED else None
        return abi.OpenCall(
            id=call.id,
            name=call.spec.name,
            state=call.state.value,
            since=round(self._clock.now() - call.since, 6),
            why=call.why or ("waits for a slot" if call.state is State.QUEUED else None),
            core=call.core,
            position=position,
            estimate=round(queue.estimate(position), 3) if queue and position else None,
        )


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)

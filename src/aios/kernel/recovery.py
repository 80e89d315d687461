"""What an earlier kernel left behind: calls that were open, generations that were stopped, processes whose keys still
work. Knows no queue.
"""

from __future__ import annotations

from collections.abc import Callable

from aios.abi.calls import CALLS, Args, CallSpec
from aios.abi.errors import AiosError, CutShort, ModuleFault, OutcomeUnknown

from .clock import Clock
from .context import ContextManager, Stored
from .journal import Journal, OpenRecord
from .llm import LLMManager
from .process import Principal, Process, ProcessTable
from .syscall import State, Syscall

OnCall = Callable[[Syscall], None]


class Recovery:
    def __init__(
        self, journal: Journal, processes: ProcessTable, contexts: ContextManager, llm: LLMManager, clock: Clock
    ) -> None:
        self._journal = journal
        self._processes = processes
        self._contexts = contexts
        self._llm = llm
        self._clock = clock

    def run(self, register: OnCall, enqueue: OnCall) -> None:
        """Calls that were open when the kernel last died: those with a key go on, the others end.

        `register` hears that a call is open, then `enqueue` that it may join its queue: it is on record already.
        """
        taken_up = set[str]()
        for record in self._journal.recover():
            spec = CALLS.get(record.name)
            if (fate := _fate(record, spec)) is not None:
                self._journal.settle(record, *fate)
            else:
                assert spec is not None
                assert record.args is not None
                call = self._made(record, spec, record.args)
                register(call)
                self._continue(call)
                enqueue(call)
                taken_up.add(record.call_id)
        self._contexts.sweep(taken_up)

    def revive(self, principal: Principal) -> Process:
        """A process that an earlier kernel started, as the journal has it, else as far as its key says."""
        assert principal.pid is not None
        known = self._journal.process(principal.pid)
        if known is None:
            known = Process(principal.pid, principal.agent, principal.owner, started_wall=self._clock.wall())
        return self._processes.revive(known)

    def _made(self, record: OpenRecord, spec: CallSpec, args: Args) -> Syscall:
        process = self.revive(Principal(record.owner, record.agent, record.pid))
        call = Syscall(record.call_id, spec, args, process, self._clock.now(), record.key)
        call.body, call.opened = record.body_hash, record.opened
        if spec.is_streamed:
            call.chunks = []
        return call

    def _continue(self, call: Syscall) -> None:
        if (stored := self._contexts.find(call.id)) is not None and not self._adopted(call, stored):
            self._contexts.drop_stored(call.id)

    def _adopted(self, call: Syscall, stored: Stored) -> bool:
        """Let `call` go on from what an earlier kernel has left of it. Whether its core is still to read that."""
        if stored.core:
            return self._llm.adopt(call, stored)
        try:
            self._llm.carry_on(call, self._contexts.left(call.id))
            call.note("resumed from its text")
        except ValueError as error:
            call.note(f"begun anew: {error}")
        return False


def _fate(record: OpenRecord, spec: CallSpec | None) -> tuple[State, AiosError] | None:
    """What a call ends with that does not go on."""
    if record.key is None:
        return State.CANCELLED, CutShort("the kernel died while this call was open", code="kernel_restarted")
    if spec is None or record.args is None:
        return State.FAILED, ModuleFault(f"this kernel cannot read the {record.name} that an older one had open")
    if record.is_begun and not spec.is_repeatable:
        why = "the kernel died while this ran; whether it took effect is not known: not run again"
        return State.FAILED, OutcomeUnknown(why)
    return None

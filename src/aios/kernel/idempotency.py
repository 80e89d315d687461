"""Calls with an Idempotency-Key: the same key again joins the call under way, or gets the answer on record.

Keys are scoped to the agent. Knows no queue and no module.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aios.abi.calls import Args, CallSpec
from aios.abi.errors import Conflict, Full
from aios.abi.messages import Chunk, FunctionDelta, Generation, ToolCallDelta

from .journal import Journal, Recorded, body_hash
from .process import Process
from .syscall import Syscall

OnChunk = Callable[[Chunk], None]

MAX_LISTENERS = 64


class Repeats:
    """Which keyed calls are under way; the journal has those that are over."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._live: dict[tuple[str, str, str], tuple[bytes, Syscall]] = {}

    def add(self, call: Syscall) -> None:
        call.body = call.body or body_hash(call)
        self._live[_scope(call)] = (call.body, call)

    def discard(self, call: Syscall) -> None:
        self._live.pop(_scope(call), None)

    def find(self, spec: CallSpec, args: Args, process: Process, key: str, on_chunk: OnChunk | None) -> Syscall | bytes:
        """The earlier call with this key, under way or as it ended; for a new key the hash of its body.

        Raises Conflict; Full when too many listen to one answer already; Stopping when the answer is not on record yet.
        """
        probe = Syscall("", spec, args, process, 0.0, key)
        body = body_hash(probe)
        if (live := self._live.get(_scope(probe))) is not None:
            known, call = live
            _same(known, body, key)
            _listen(call, on_chunk)
            return call
        record = self._journal.find(process.owner, process.agent, key)
        if record is None:
            return body
        _same(record.body_hash, body, key)
        return _replay(probe, record, on_chunk)


def _replay(call: Syscall, record: Recorded, on_chunk: OnChunk | None) -> Syscall:
    """`call` as it ended according to `record`; a listener hears the answer as one chunk."""
    if record.state is None:
        raise Conflict(f"the call under '{(call.key or '')[:80]}' is not over yet; ask again", code="idempotency_open")
    call.id, call.state, call.result, call.error = record.call_id, record.state, record.result, record.error
    call.opened = record.opened
    call.future = asyncio.get_running_loop().create_future()
    if record.error is not None:
        call.future.set_exception(record.error)
        call.future.exception()
    else:
        if on_chunk is not None and isinstance(record.result, Generation):
            on_chunk(_whole(record.result))
        call.future.set_result(record.result)
    return call


def _scope(call: Syscall) -> tuple[str, str, str]:
    return call.process.owner, call.process.agent, call.key or ""


def _same(known: bytes, body: bytes, key: str) -> None:
    if known != body:
        raise Conflict(
            f"the Idempotency-Key '{key[:80]}' was used with another call or body; use a new key for a new call",
            code="idempotency_conflict",
        )


def _listen(call: Syscall, on_chunk: OnChunk | None) -> None:
    """Let one more listener hear the answer from its start."""
    if on_chunk is None:
        return
    if len(call.listeners) >= MAX_LISTENERS:
        raise Full(f"{MAX_LISTENERS} clients listen to this call already; ask again when it is done", retry_after=1)
    for chunk in call.chunks or ():
        call.is_heard = True
        on_chunk(chunk)
    call.listeners.append(on_chunk)


def _whole(generation: Generation) -> Chunk:
    """A recorded answer as one chunk of a stream."""
    deltas = [
        ToolCallDelta(n, c.id, "function", FunctionDelta(c.function.name, c.function.arguments))
        for n, c in enumerate(generation.message.tool_calls or ())
    ]
    return Chunk(
        text=generation.message.text(),
        tool_calls=deltas or None,
        logprobs=generation.logprobs,
        finish_reason=generation.finish_reason,
        usage=generation.usage,
        reasoning=generation.message.reasoning_content or "",
    )

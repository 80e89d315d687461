"""`/aios/v1/events`: the trace as server-sent events, to those who may see each row. Knows states, no contents."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec import Struct

from aios.abi.errors import AiosError, BadRequest, Full

from .exchange import Exchange, encode
from .stream import EventStream

if TYPE_CHECKING:
    from aios.kernel import Kernel, Principal, Row

MAX_TAIL = 10_000
MAX_STREAMS = 64
"""Every row is shown to every listener while the kernel waits: more would slow all calls."""
MAX_STREAMS_EACH = 4
"""Those of one process, or of one key that names none."""
FOR_ADMINS = 8
"""Streams that agents cannot take: who looks for what is wrong must be able to look."""
MAX_KNOWN = 10_000
KERNEL = 0
"""The pid of rows that are about no call: cores that come and go. For admins."""


class TraceEvent(Struct, omit_defaults=True):
    """A call entered `state` at `time` (seconds since 1970)."""

    time: float
    call_id: str
    pid: int
    agent: str
    name: str
    state: str
    core: str | None = None
    why: str | None = None


class View:
    """The rows that a key may see, as events. Asked for every row, so what is known of a pid is remembered."""

    def __init__(self, kernel: Kernel, principal: Principal) -> None:
        self._kernel = kernel
        self._principal = principal
        self._agents: dict[int, str | None] = {}
        self._offset = kernel.clock.wall() - kernel.clock.now()

    def event(self, row: Row) -> bytes:
        """`row` as an event; empty when this key may not see it."""
        agent = self._agent(row.pid)
        if agent is None:
            return b""
        time = round(row.time + self._offset, 6)
        shown = TraceEvent(time, row.call_id, row.pid, agent, row.name, row.state, row.core, row.why)
        return b"event: call\ndata: %s\n\n" % encode(shown)

    def _agent(self, pid: int) -> str | None:
        if pid not in self._agents:
            if len(self._agents) >= MAX_KNOWN:
                self._agents.clear()
            if pid == KERNEL:
                self._agents[pid] = "kernel" if self._principal.is_admin else None
            else:
                process = self._kernel.find(self._principal, pid)
                self._agents[pid] = None if process is None else process.agent
        return self._agents[pid]


class Streams:
    """All open streams of one gateway, counted by who listens."""

    def __init__(self) -> None:
        self._open: Counter[int | str] = Counter()

    @contextlib.contextmanager
    def _place(self, principal: Principal) -> Iterator[None]:
        """One of the places that there are. Raises Full when none is left for `principal`."""
        who = principal.pid or principal.key_id
        limit = MAX_STREAMS if principal.is_admin else MAX_STREAMS - FOR_ADMINS
        if self._open.total() >= limit:
            raise _full(f"{limit} clients listen to events already, the most allowed")
        if self._open[who] >= MAX_STREAMS_EACH and not principal.is_admin:
            raise _full(f"{MAX_STREAMS_EACH} streams of events are open with this key already; close one of them")
        self._open[who] += 1
        try:
            yield
        finally:
            self._open[who] -= 1
            if not self._open[who]:
                del self._open[who]

    async def answer(self, exchange: Exchange) -> None:
        """`GET /aios/v1/events`."""
        tail = _tail(exchange)
        with self._place(exchange.principal):
            await _stream_events(exchange, tail)


def _full(why: str) -> Full:
    return Full(f"{why}; try again later", code="too_many_streams", retry_after=5)


async def _stream_events(exchange: Exchange, tail: int) -> None:
    """The last `tail` rows and then new ones as they come; with `follow=false` only the last ones."""
    kernel = exchange.kernel
    if exchange.scope["method"] == "HEAD":
        await exchange.start_events()
        await exchange.end()
        return
    view = View(kernel, exchange.principal)
    stream = EventStream(exchange, lambda: None, lambda: _keep_on(exchange, stream))
    stream.put(b": events\n\n")
    for row in list(kernel.trace.rows)[-tail:] if tail else ():
        stream.put(view.event(row))
    if "follow" in exchange.query and not exchange.flag("follow"):
        stream.finish()
        await stream.run()
    else:
        stop = kernel.trace.listen(lambda row: stream.put(view.event(row)))
        try:
            await stream.run()
        finally:
            stop()
    if not stream.is_cut:
        await exchange.end()


def _tail(exchange: Exchange) -> int:
    text = exchange.query.get("tail", "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and int(text) <= MAX_TAIL):
        raise BadRequest(f"tail must be a number from 0 to {MAX_TAIL}, not '{text[:40]}'", param="tail")
    return int(text)


def _keep_on(exchange: Exchange, stream: EventStream) -> bytes:
    """Every few seconds: a comment, as long as the key is still good and the kernel runs."""
    try:
        exchange.kernel.authenticate(exchange.key())
    except AiosError:
        stream.finish()
    if not exchange.kernel.is_ready:
        stream.finish()
    return b": quiet\n\n"

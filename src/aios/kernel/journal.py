"""The durable record of calls: what was acknowledged, what ended how, what must be taken up after a crash.

Knows calls, not modules: what a call does is none of its business.

A call without a key is an event in the log, one row a group of commits, folded down to the open calls as it grows. A
call with a key has a row of its own, with its arguments and its answer. What is large is stored once by its hash, and a
list of messages is a chain of nodes, each the hash of its parent and one message: a dialogue that grows by two
messages a call costs two nodes a call.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import apsw
import msgspec

from aios.abi.calls import CALLS, Args, CallSpec, convert_args
from aios.abi.errors import AiosError, BadRequest, OutcomeUnknown, from_dict

from .clock import Clock
from .database import Database, row, rows, value
from .process import Process
from .syscall import State, Syscall

log = logging.getLogger("aios.journal")

Then = Callable[[AiosError | None], None]
_Place = tuple[str, str, str]
"""Owner, agent and key: where a call with a key is found again."""

LARGE = 512
"""Bytes of JSON from which an argument is stored by its hash."""
FOLD_AFTER = 50_000
"""Events in the log before it is folded down to the calls that are open."""
KNOWN_NODES = 100_000
PURGE_STEP = 1000
_OPEN, _BEGIN, _END = "open", "begin", "end"

_encode = msgspec.json.Encoder(enc_hook=str).encode
_canonical = msgspec.json.Encoder(order="sorted").encode
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


@dataclass(frozen=True, slots=True)
class Recorded:
    """A call with a key, as the journal knows it. `state` is None while it is open; then `result` or `error` is set."""

    call_id: str
    name: str
    body_hash: bytes
    state: State | None = None
    result: Any = None
    error: AiosError | None = None


@dataclass(frozen=True, slots=True)
class OpenRecord:
    """A call that was acknowledged and has no end. `opened` is seconds since 1970.

    Calls without a key have no `args`. `is_begun` says that a side effect was under way. `args` holds the seed that
    the kernel drew. `args` is None too when this kernel cannot read them any more.
    """

    call_id: str
    name: str
    pid: int
    opened: float
    is_begun: bool
    owner: str = ""
    agent: str = ""
    nice: int = 0
    key: str | None = None
    body_hash: bytes = b""
    args: Args | None = None

    @property
    def spec(self) -> CallSpec | None:
        return CALLS.get(self.name)


def body_hash(call: Syscall) -> bytes:
    """What tells two bodies under one key apart: the call's name and its arguments as they came."""
    try:
        return hashlib.sha256(call.spec.name.encode() + _canonical(call.args)).digest()
    except UnicodeEncodeError as error:
        raise BadRequest(f"the arguments hold text that is not valid Unicode: {error}", code="bad_arguments") from None


class _Node(NamedTuple):
    hash: bytes
    parent: bytes | None
    body: bytes


class _Keyed(NamedTuple):
    """What is written of a call with a key. `answer` is (state, result JSON, error JSON); an end without one is not
    kept."""

    place: _Place
    opening: tuple[Any, ...] = ()
    nodes: tuple[_Node, ...] = ()
    answer: tuple[str, bytes | None, bytes | None] | None = None


class _Event(NamedTuple):
    kind: str
    row: tuple[Any, ...]
    """Of an opening: (id, name, pid, opened, is_begun). Of all others: (id,)."""
    then: Then | None
    keyed: _Keyed | None = None


class _Group:
    """The events of one commit."""

    def __init__(self) -> None:
        self.events: list[_Event] = []
        self.touched: list[bytes] = []
        self.seq = 0


class Journal:
    """Made on the event loop and used from there; its writing happens on the database's thread, a group at a time.

    `keep` is seconds and `max_bytes` the bound for answers of calls with a key: the oldest go first. Open calls stay.
    """

    def __init__(self, database: Database, clock: Clock, *, keep: float, max_bytes: int) -> None:
        self._database = database
        self._clock = clock
        self._keep = keep
        self._max_bytes = max_bytes
        self._waiting: deque[_Event] = deque()
        self._is_scheduled = False
        self._fresh: dict[_Place, Recorded] = {}
        """Calls with a key whose end is not on disk."""
        self._open: dict[str, tuple[Any, ...]] = {}
        """Calls without a key that are open, as the log on disk has them."""
        self._num_logged = 0
        self._known: OrderedDict[bytes, float] = OrderedDict()
        self._pids: set[int] = set()
        self._num_opened = self._num_ended = 0
        self._kept_bytes = 0

    # ── the life of a call ──

    def open(self, call: Syscall, then: Then) -> None:
        """Record that `call` is acknowledged, then `then(None)`; `then(error)` when it could not be recorded.

        `call.body` is the hash of the arguments as they came; a seed that the kernel drew since is recorded with the
        arguments, so that a call taken up after a crash has it again.
        """
        process = call.process
        wall = self._clock.wall()
        self._num_opened += 1
        if process.pid not in self._pids:
            self.started(process)
        keyed = None
        if call.key is not None:
            keyed = self._opening(call, wall, call.body or body_hash(call))
        self._add(_Event(_OPEN, (call.id, call.spec.name, process.pid, wall, False), then, keyed))

    def begin(self, call: Syscall, then: Then) -> None:
        """Record that `call`'s side effect starts, then `then(None)`: only then may it. For calls not repeatable."""
        place = _place(call)
        self._add(_Event(_BEGIN, (call.id,), then, _Keyed(place) if place else None))

    def close(self, call: Syscall, then: Then | None = None) -> None:
        """Record `call`'s end. Its answer is kept if it has a key, but 429 and 5xx are forgotten: the key is free.

        `then(error)` says that the end is not on disk yet; it is kept in memory and written as soon as that works.
        """
        self._end(call.id, _place(call), call.state, call.result, call.error, then)

    def settle(self, record: OpenRecord, state: State, error: AiosError | None, then: Then | None = None) -> None:
        """Record the end of a call that `recover` found and the kernel does not run again."""
        place = (record.owner, record.agent, record.key) if record.key is not None else None
        self._end(record.call_id, place, state, None, error, then)

    def _end(
        self, id: str, place: _Place | None, state: State, result: Any, error: AiosError | None, then: Then | None
    ) -> None:
        self._num_ended += 1
        keyed = None
        if place is not None:
            keyed = _Keyed(place, answer=self._answer(place, state, result, error))
        self._add(_Event(_END, (id,), then, keyed))

    def _answer(
        self, place: _Place, state: State, result: Any, error: AiosError | None
    ) -> tuple[str, bytes | None, bytes | None] | None:
        if error is not None and _is_forgotten(error):
            self._fresh.pop(place, None)
            return None
        known = self._fresh.get(place)
        if known is not None:
            self._fresh[place] = replace(known, state=state, result=result, error=error)
        if error is None:
            return state.value, _encode(result), None
        return state.value, None, _encode({**error.to_dict(), "status": error.status})

    def _opening(self, call: Syscall, wall: float, body: bytes) -> _Keyed:
        place = _place(call)
        assert place is not None
        tip, args, nodes = _split(call.args)
        self._fresh[place] = Recorded(call.id, call.spec.name, body)
        process, size = call.process, len(args) + 200
        opening = (call.id, *place, call.spec.name, process.pid, process.nice, wall, size, body, tip, args)
        return _Keyed(place, opening, tuple(nodes))

    # ── processes ──

    def started(self, process: Process) -> None:
        """Record a process, so that pids go on after a restart and a call that is taken up again has its owner."""
        self._pids.add(process.pid)
        row = (
            process.pid, process.agent, process.owner, process.parent, process.nice, process.command,
            process.started_wall,
        )  # fmt: skip

        def job(connection: apsw.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO processes VALUES (?, ?, ?, ?, ?, ?, ?)", row)

        self._database.submit(job)

    def last_pid(self) -> int:
        """The highest pid that was ever used on this home; 0 on a new one."""
        sql = "SELECT max(pid) FROM (SELECT pid FROM processes UNION ALL SELECT pid FROM keys)"
        return self._database.read(lambda c: value(c, sql)) or 0

    def process(self, pid: int) -> Process | None:
        """A process of an earlier kernel that made a call; its program may still run."""
        sql = "SELECT agent, owner, parent, nice, command, started FROM processes WHERE pid = ?"
        found = self._database.read(lambda c: row(c, sql, (pid,)))
        if found is None:
            return None
        agent, owner, parent, nice, command, started = found
        return Process(pid, agent, owner, parent, nice, command, started_wall=started)

    # ── looking up ──

    def find(self, owner: str, agent: str, key: str) -> Recorded | None:
        """The call that `owner`'s `agent` made under `key`, if it is open or its answer is still kept."""
        place = (owner, agent, key)
        return self._fresh.get(place) or self._recorded(place)

    def _recorded(self, place: _Place) -> Recorded | None:
        sql = "SELECT id, name, body_hash, state, result, error FROM calls WHERE owner = ? AND agent = ? AND key = ?"
        found = self._database.read(lambda c: row(c, sql, place))
        if found is None:
            return None
        id, name, body, state, result, error = found
        if state is None:
            return Recorded(id, name, body)
        return Recorded(id, name, body, State(state), _result_of(name, result), _error_of(error))

    def recover(self) -> list[OpenRecord]:
        """Every call without an end, oldest first: those of the last kernel. Called once, at boot."""
        for (blob,) in self._database.read(lambda c: rows(c, "SELECT events FROM log ORDER BY seq")):
            for kind, event in _unpack(blob):
                self._num_logged += 1
                self._note(kind, tuple(event))
        found = [OpenRecord(*event) for event in self._open.values()]
        for record in self._database.read(_open_keyed):
            place = (record.owner, record.agent, record.key or "")
            self._fresh[place] = Recorded(record.call_id, record.name, record.body_hash)
            found.append(record)
        return sorted(found, key=lambda record: (record.opened, record.call_id))

    # ── writing, on the database's thread ──

    def _add(self, event: _Event) -> None:
        self._waiting.append(event)
        # The flag is cleared before the events are taken, so an event that finds it set will still be taken.
        if not self._is_scheduled:
            self._is_scheduled = True
            group = _Group()
            self._database.submit(lambda c: self._flush(c, group), lambda _, error: self._flushed(group, error))

    def _take(self, group: _Group) -> None:
        self._is_scheduled = False
        try:
            while True:
                group.events.append(self._waiting.popleft())
        except IndexError:
            return

    def _flush(self, connection: apsw.Connection, group: _Group) -> None:
        self._take(group)
        events = [(event.kind, event.row) for event in group.events if event.keyed is None]
        if events:
            connection.execute("INSERT INTO log(events) VALUES (?)", (_pack(events),))
            group.seq = connection.last_insert_rowid()
        for event in group.events:
            if event.keyed is not None:
                self._write_keyed(connection, event, event.keyed, group)

    def _write_keyed(self, connection: apsw.Connection, event: _Event, keyed: _Keyed, group: _Group) -> None:
        id = event.row[0]
        if event.kind == _OPEN:
            self._write_nodes(connection, keyed.nodes, group)
            connection.execute(_INSERT_CALL, keyed.opening)
        elif event.kind == _BEGIN:
            connection.execute("UPDATE calls SET is_begun = 1 WHERE id = ?", (id,))
        elif keyed.answer is None:
            connection.execute("DELETE FROM calls WHERE id = ?", (id,))
        else:
            state, result, error = keyed.answer
            size = len(result or b"") + len(error or b"")
            connection.execute(_END_CALL, (state, self._clock.wall(), size, result, error, id))
        if event.kind == _END:
            connection.execute("DELETE FROM effects WHERE call = ?", (id,))

    def _write_nodes(self, connection: apsw.Connection, nodes: Iterable[_Node], group: _Group) -> None:
        """Add the nodes that are not there, and say of the others that they were used, once in a while."""
        wall = self._clock.wall()
        for node in nodes:
            if wall - self._known.get(node.hash, -1e18) < self._slack:
                continue
            connection.execute(
                "INSERT INTO nodes VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET used = excluded.used",
                (node.hash, node.parent, wall, len(node.body) + 100, node.body),
            )
            group.touched.append(node.hash)

    @property
    def _slack(self) -> float:
        """How far `used` of a node may lag behind its last use."""
        return min(self._keep / 8, 300.0)

    # ── after the commit, on the event loop ──

    def _flushed(self, group: _Group, error: AiosError | None) -> None:
        if error is None:
            self._settle_memory(group)
        else:
            self._hold(group)
        _tell([event.then for event in group.events if event.then is not None], error)

    def _hold(self, group: _Group) -> None:
        """The group was not written. Ends wait for the next one; everything else was refused."""
        if not group.events:
            self._take(group)
        for event in group.events:
            if event.kind == _OPEN and event.keyed is not None:
                self._fresh.pop(event.keyed.place, None)
        ends = [event._replace(then=None) for event in group.events if event.kind == _END]
        self._waiting.extendleft(reversed(ends))

    def _settle_memory(self, group: _Group) -> None:
        wall = self._clock.wall()
        for event in group.events:
            if event.keyed is None:
                self._note(event.kind, event.row)
            elif event.kind == _END:
                known = self._fresh.get(event.keyed.place)
                if known is not None and known.call_id == event.row[0]:
                    del self._fresh[event.keyed.place]
        for hash in group.touched:
            self._known[hash] = wall
        while len(self._known) > KNOWN_NODES:
            self._known.popitem(last=False)
        self._num_logged += len(group.events)
        if group.seq and self._num_logged > FOLD_AFTER + 2 * len(self._open):
            self._fold(group.seq)

    def _note(self, kind: str, row: tuple[Any, ...]) -> None:
        if kind == _OPEN:
            self._open[row[0]] = row
        elif kind == _END:
            self._open.pop(row[0], None)
        elif kind == _BEGIN and row[0] in self._open:
            self._open[row[0]] = (*self._open[row[0]][:4], True)

    def _fold(self, seq: int) -> None:
        """Put the calls open after group `seq` in the place of the log up to there: what has ended needs no event."""
        self._num_logged = len(self._open)
        blob = _pack([(_OPEN, row) for row in self._open.values()])

        def job(connection: apsw.Connection) -> None:
            connection.execute("DELETE FROM log WHERE seq <= ?", (seq,))
            connection.execute("INSERT INTO log VALUES (?, ?)", (seq, blob))

        self._database.submit(job)

    # ── retention ──

    async def purge(self, now: float) -> int:
        """Forget answers older than `keep` seconds before `now` (since 1970), then the oldest until all fit into
        `max_bytes`. Returns how many calls went. Short steps, so that nobody waits long behind it."""
        cutoff, count = now - self._keep, 0
        while True:
            gone = await self._database.run(lambda c, t=cutoff: _forget(c, t, self._slack))  # type: ignore[misc]
            count += gone
            if gone >= PURGE_STEP:
                continue
            self._kept_bytes, oldest = await self._database.read_async(_weigh)
            if self._kept_bytes <= self._max_bytes or oldest is None or oldest >= now:
                return count
            cutoff = max(cutoff, oldest)

    def statistics(self) -> dict[str, Any]:
        """`kept_bytes` is as of the last purge."""
        return {
            "opened": self._num_opened,
            "ended": self._num_ended,
            "open": self._num_opened - self._num_ended,
            "waiting": len(self._waiting),
            "kept_bytes": self._kept_bytes,
            **self._database.statistics(),
        }


_INSERT_CALL = (
    "INSERT OR REPLACE INTO calls(id, owner, agent, key, name, pid, nice, opened, size, body_hash, tip, args)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_END_CALL = "UPDATE calls SET state = ?, ended = ?, size = size + ?, result = ?, error = ? WHERE id = ?"


_OPEN_CALLS = (
    "SELECT id, name, pid, opened, is_begun, owner, agent, nice, key, body_hash, tip, args"
    " FROM calls WHERE state IS NULL"
)


def _place(call: Syscall) -> _Place | None:
    return (call.process.owner, call.process.agent, call.key) if call.key is not None else None


def _is_forgotten(error: AiosError) -> bool:
    """Whether a repeated call should be run again instead of hearing `error` again."""
    return (error.status == 429 or error.status >= 500) and not isinstance(error, OutcomeUnknown)


def _tell(listeners: list[Then], error: AiosError | None) -> None:
    for n, then in enumerate(listeners):
        is_told = False
        try:
            then(error)
            is_told = True
        finally:
            # One listener's bug must not keep the others of its group waiting.
            if not is_told:
                asyncio.get_running_loop().call_soon(_tell, listeners[n + 1 :], error)


# ── arguments and answers, taken apart and put together ──


def _split(args: Args) -> tuple[bytes | None, bytes, list[_Node]]:
    """`args` as the tip of a chain of messages, JSON of the rest, and all nodes that both refer to."""
    inline: dict[str, msgspec.Raw] = {}
    large: dict[str, str] = {}
    nodes: list[_Node] = []
    tip = None
    for name, wire_name in zip(args.__struct_fields__, args.__struct_encode_fields__, strict=True):
        content = getattr(args, name)
        if content is None:
            continue
        if name == "messages":
            for message in content:
                nodes.append(_chain(tip, _encode(message)))
                tip = nodes[-1].hash
            continue
        text = _encode(content)
        if len(text) < LARGE:
            inline[wire_name] = msgspec.Raw(text)
        else:
            nodes.append(_Node(hashlib.sha256(b"value" + text).digest(), None, text))
            large[wire_name] = nodes[-1].hash.hex()
    return tip, _encode({"inline": inline, "large": large}), nodes


def _chain(parent: bytes | None, text: bytes) -> _Node:
    return _Node(hashlib.sha256(b"chain" + (parent or bytes(32)) + text).digest(), parent, text)


_CHAIN = """
    WITH RECURSIVE chain(parent, body, depth) AS (
        SELECT parent, body, 0 FROM nodes WHERE hash = ?1
        UNION ALL
        SELECT nodes.parent, nodes.body, depth + 1 FROM chain JOIN nodes ON nodes.hash = chain.parent)
    SELECT body, parent FROM chain ORDER BY depth DESC"""


def _join(connection: apsw.Connection, name: str, tip: bytes | None, rest: bytes) -> Args | None:
    """What `_split` took apart; None when a piece is gone or this kernel has no such call any more."""
    spec = CALLS.get(name)
    parts = msgspec.json.decode(rest)
    found: dict[str, Any] = dict(parts["inline"])
    for field, hash in parts["large"].items():
        text = value(connection, "SELECT body FROM nodes WHERE hash = ?", (bytes.fromhex(hash),))
        if text is None:
            return None
        found[field] = msgspec.json.decode(text)
    if tip is not None:
        chain = rows(connection, _CHAIN, (tip,))
        if not chain or chain[0][1] is not None:
            return None
        found["messages"] = [msgspec.json.decode(body) for body, _ in chain]
    try:
        return convert_args(spec, found) if spec else None
    except BadRequest as error:
        log.warning("a recorded call '%s' cannot be read any more: %s", name, error)
        return None


def _open_keyed(connection: apsw.Connection) -> list[OpenRecord]:
    found = []
    for id, name, pid, opened, begun, owner, agent, nice, key, body, tip, rest in rows(connection, _OPEN_CALLS):
        args = _join(connection, name, tip, rest)
        found.append(OpenRecord(id, name, pid, opened, bool(begun), owner, agent, nice, key, body, args))
    return found


def _result_of(name: str, text: bytes | None) -> Any:
    return None if text is None else msgspec.json.decode(text, type=CALLS[name].result)


def _error_of(text: bytes | None) -> AiosError | None:
    if text is None:
        return None
    body = msgspec.json.decode(text)
    return from_dict(body["status"], body)


# ── retention, as jobs ──


def _forget(connection: apsw.Connection, cutoff: float, slack: float) -> int:
    """Drop at most PURGE_STEP answers that ended before `cutoff`, and what nobody refers to since then."""
    connection.execute(
        "DELETE FROM calls WHERE id IN (SELECT id FROM calls WHERE ended <= ? ORDER BY ended LIMIT ?)",
        (cutoff, PURGE_STEP),
    )
    gone = connection.changes()
    # A call that is open still needs its nodes, and they are never younger than it.
    oldest = value(connection, "SELECT min(opened) FROM calls WHERE state IS NULL")
    limit = cutoff if oldest is None else min(cutoff, oldest)
    connection.execute(
        "DELETE FROM nodes WHERE hash IN (SELECT hash FROM nodes WHERE used < ? ORDER BY used LIMIT ?)",
        (limit - slack, 4 * PURGE_STEP),
    )
    gone += connection.changes() // 4
    connection.execute("DELETE FROM processes WHERE started <= ? AND pid < (SELECT max(pid) FROM processes)", (cutoff,))
    return gone


def _weigh(connection: apsw.Connection) -> tuple[int, float | None]:
    """Bytes of all answers and nodes, and the end of the oldest answers that may go next."""
    total = value(connection, "SELECT (SELECT total(size) FROM calls) + (SELECT total(size) FROM nodes)")
    oldest = value(
        connection,
        "SELECT max(ended) FROM (SELECT ended FROM calls WHERE ended IS NOT NULL ORDER BY ended LIMIT ?)",
        (PURGE_STEP,),
    )
    return int(total), oldest

"""A call's life on record: opened, begun, ended, each told when its group is committed. Knows no module and no table.

On a full disk nothing is opened but calls that make room; ends are written as long as there is any room at all, and
held until they are. Nobody hears how a call with a key ended before that is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Collection
from typing import Any

import apsw

from aios.abi.errors import AiosError, OutcomeUnknown

from ..clock import Clock
from ..database import Database
from ..process import Process
from ..syscall import State, Syscall
from . import keyed
from .arguments import Nodes, split
from .held import HeldEnds, untold
from .log import Log
from .processes import ProcessRecords
from .records import BEGIN, END, OPEN, Event, Group, Keyed, KeyPlace, OpenRecord, Recorded, Then, body_hash, place_of
from .retention import Retention

Told = tuple[Then, AiosError | None]
"""Whom to tell, and what."""


class Journal:
    """Made on the event loop and used from there; its writing happens on the database's thread, a group at a time.

    `keep` is seconds and `max_bytes` the bound for answers of calls with a key: the oldest go first. Open calls stay.
    """

    def __init__(self, database: Database, clock: Clock, *, keep: float, max_bytes: int) -> None:
        slack = min(keep / 8, 300.0)
        self._database = database
        self._clock = clock
        self._log = Log(database)
        self._nodes = Nodes(slack)
        self._processes = ProcessRecords(database)
        self._retention = Retention(database, keep=keep, max_bytes=max_bytes, slack=slack)
        self._waiting: deque[Event] = deque()
        self._is_scheduled = False
        self._fresh: dict[KeyPlace, Recorded] = {}
        """Calls with a key that are open: their end, if they have one, is not on disk."""
        self._held = HeldEnds()
        self._wanted: set[str] = set()
        """Calls that make room, which are tried twice to open: their opening was not written, nor have they ended."""
        self._num_opened = self._num_ended = 0

    # ── the life of a call ──

    def open(self, call: Syscall, then: Then) -> None:
        """Record that `call` is acknowledged, then `then(None)`; `then(error)` when it could not be recorded.

        `call.body` is the hash of the arguments as they came; a seed that the kernel drew since is recorded with the
        arguments, so that a call taken up after a crash has it again.
        """
        process = call.process
        wall = call.opened = self._clock.wall()
        self._num_opened += 1
        if not process.is_recorded:
            self._processes.add(process)
        opening = None
        if call.key is not None:
            opening = self._opening(call, wall, call.body or body_hash(call))
        if call.spec.frees:
            self._wanted.add(call.id)
        row = (call.id, call.spec.name, process.pid, wall, False)
        self._add(Event(OPEN, row, then, opening, call.spec.frees))

    def begin(self, call: Syscall, then: Then) -> None:
        """Record that `call`'s side effect starts, then `then(None)`: only then may it. For calls not repeatable."""
        place = place_of(call)
        self._add(Event(BEGIN, (call.id,), then, Keyed(place) if place else None))

    def close(self, call: Syscall, then: Then | None = None) -> None:
        """Record `call`'s end. Its answer is kept if it has a key, but 429 and 5xx are forgotten: the key is free. Not
        so with the code "outcome_unknown": what may have been done is not to be done again.

        `then(error)` says that the end is not on disk yet. It is held, for `find` too, and written as soon as that
        works.
        """
        self._end(call.id, place_of(call), call.state, call.result, call.error, then)

    def settle(self, record: OpenRecord, state: State, error: AiosError | None, then: Then | None = None) -> None:
        """Record the end of a call that `recover` found and the kernel does not run again."""
        place = (record.owner, record.agent, record.key) if record.key is not None else None
        self._end(record.call_id, place, state, None, error, then)

    def _end(
        self, id: str, place: KeyPlace | None, state: State, result: Any, error: AiosError | None, then: Then | None
    ) -> None:
        self._num_ended += 1
        self._wanted.discard(id)
        ending = None
        if place is not None:
            is_kept = error is None or not _is_forgotten(error)
            ending = Keyed(place, answer=keyed.answer_of(state, result, error) if is_kept else None)
        self._add(Event(END, (id,), then, ending, True))

    def _opening(self, call: Syscall, wall: float, body: bytes) -> Keyed:
        place = place_of(call)
        assert place is not None
        tip, args, nodes = split(call.args)
        self._fresh[place] = Recorded(call.id, call.spec.name, body, opened=wall)
        process, size = call.process, len(args) + 200
        opening = (call.id, *place, call.spec.name, process.pid, process.nice, wall, size, body, tip, args)
        return Keyed(place, opening, tuple(nodes))

    # ── looking up ──

    def find(self, owner: str, agent: str, key: str) -> Recorded | None:
        """The call that `owner`'s `agent` made under `key`, if it is open or its answer is still kept.

        Raises Stopping of one whose end could not be written, and has that tried again.
        """
        place = (owner, agent, key)
        if (error := self._held.why(place)) is not None:
            self.write_held()
            raise error
        return self._fresh.get(place) or self._database.read(lambda c: keyed.find(c, place))

    def recover(self) -> list[OpenRecord]:
        """Every call without an end, oldest first: those of the last kernel. Called once, at boot."""
        found = self._log.load()
        for record in self._database.read(keyed.find_open):
            place = (record.owner, record.agent, record.key or "")
            self._fresh[place] = Recorded(record.call_id, record.name, record.body_hash, opened=record.opened)
            found.append(record)
        return sorted(found, key=lambda record: (record.opened, record.call_id))

    async def settled(self) -> None:
        """Until all that was said so far is on disk, or held since it could not be written."""
        for _ in range(2):  # what is refused on a full disk is tried once more
            with contextlib.suppress(AiosError):
                await self._database.run(lambda c: None, frees=True)

    def started(self, process: Process) -> None:
        """Record a process, so that pids go on after a restart and a call that is taken up again has its owner."""
        self._processes.add(process)

    def last_pid(self) -> int:
        """The highest pid that was ever used on this home; 0 on a new one."""
        return self._processes.last_pid()

    def process(self, pid: int) -> Process | None:
        """A process of an earlier kernel that made a call; its program may still run."""
        return self._processes.find(pid)

    async def purge(self, now: float, alive: Collection[int] = ()) -> int:
        """Forget answers that were kept for long enough, and processes as old that are not `alive`: pids of those that
        run. How many calls went."""
        self.write_held()
        return await self._retention.purge(now, alive)

    def write_held(self) -> None:
        """Try once more to write the ends that could not be written."""
        if ends := self._held.take():
            self._try_again(ends)

    def statistics(self) -> dict[str, Any]:
        """`kept_bytes` is as of the last purge."""
        return {
            "opened": self._num_opened,
            "ended": self._num_ended,
            "open": self._num_opened - self._num_ended,
            "waiting": len(self._waiting) + len(self._held),
            "kept_bytes": self._retention.kept_bytes,
            **self._database.statistics(),
        }

    # ── writing, on the database's thread ──

    def _add(self, event: Event) -> None:
        self._waiting.append(event)
        # The flag is cleared before the events are taken, so an event that finds it set will still be taken.
        if not self._is_scheduled:
            self._is_scheduled = True
            group = Group()
            self._database.submit(lambda c: self._flush(c, group), lambda _, error: self._flushed(group, error))

    def _take(self, group: Group) -> None:
        self._is_scheduled = False
        try:
            while True:
                group.events.append(self._waiting.popleft())
        except IndexError:
            return

    def _flush(self, connection: apsw.Connection, group: Group) -> None:
        self._take(group)
        self._write(connection, group)

    def _write(self, connection: apsw.Connection, group: Group) -> None:
        events = [event for event in group.events if event.keyed is None]
        if events:
            group.seq = self._log.append(connection, events)
        group.wall = self._clock.wall()
        for event in group.events:
            if event.keyed is not None:
                group.touched += self._nodes.write(connection, event.keyed.nodes, group.wall)
                keyed.write(connection, event, event.keyed, group.wall)

    # ── after the commit, on the event loop ──

    def _flushed(self, group: Group, error: AiosError | None) -> None:
        if error is None:
            self._settle_memory(group)
            self.write_held()
            told: list[Told] = [(event.then, None) for event in group.events if event.then is not None]
        else:
            told = self._refuse(group, error)
        _tell(told)

    def _refuse(self, group: Group, error: AiosError) -> list[Told]:
        """The group was not written: who hears what of that now. What is spared on a full disk is tried once more;
        ends that find no room even then are held."""
        if not group.events:
            self._take(group)
        again: list[Event] = []
        refused: list[Event] = []
        can_try = error.code == "storage_full" and not group.is_last_try
        for event in group.events:
            (again if can_try and self._is_spared(event) else refused).append(event)
        if again:
            self._try_again(again)
        for event in refused:
            self._forget(event)
        self._held.add([event for event in refused if event.kind == END], error)
        why = {OPEN: error, BEGIN: error, END: untold(error)}
        return [(event.then, why[event.kind]) for event in refused if event.then is not None]

    def _is_spared(self, event: Event) -> bool:
        # An end may be on its way already: an opening that came after it would stay open for good.
        return event.is_spared and (event.kind != OPEN or event.row[0] in self._wanted)

    def _forget(self, event: Event) -> None:
        """It was not written. An opening never will be."""
        if event.kind == OPEN:
            self._num_opened -= 1
            self._wanted.discard(event.row[0])
            if event.keyed is not None:
                self._fresh.pop(event.keyed.place, None)

    def _try_again(self, events: list[Event]) -> None:
        group = Group(events, is_last_try=True)
        self._database.submit(lambda c: self._write(c, group), lambda _, error: self._flushed(group, error), frees=True)

    def _settle_memory(self, group: Group) -> None:
        for event in group.events:
            if event.is_spared and event.kind == OPEN:
                self._wanted.discard(event.row[0])
            if event.keyed is None:
                self._log.note(event.kind, event.row)
            elif event.kind == END:
                self._settle_end(event.row[0], event.keyed.place)
        self._nodes.settle(group.touched, group.wall)
        self._log.settle(len(group.events), group.seq)

    def _settle_end(self, id: str, place: KeyPlace) -> None:
        self._held.settle(place)
        known = self._fresh.get(place)
        if known is not None and known.call_id == id:
            del self._fresh[place]


def _is_forgotten(error: AiosError) -> bool:
    """Whether a repeated call should be run again instead of hearing `error` again."""
    return (error.status == 429 or error.status >= 500) and error.code != OutcomeUnknown.default_code


def _tell(told: list[Told]) -> None:
    for n, (then, error) in enumerate(told):
        is_told = False
        try:
            then(error)
            is_told = True
        finally:
            # One listener's bug must not keep the others of its group waiting.
            if not is_told:
                asyncio.get_running_loop().call_soon(_tell, told[n + 1 :])

"""The one thread that writes: jobs that wait are committed in groups. Knows no table and no room.

When the disk is full the reserve is released, and until it can be taken again only jobs that make room are done.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import apsw

from aios.abi.errors import AiosError, KernelFault

from .answers import Answer, Then, tell
from .fold import fold
from .health import BUGS, FULL, SPOILS_GROUP, Health
from .query import Job, value
from .reserve import NEEDED, Reserve

log = logging.getLogger("aios.database")

Outcome = tuple[Any, AiosError | None]
"""A job's value, or what went wrong."""

MAX_GROUP = 4096
LOOK_AGAIN = 5.0
"""Seconds between two looks whether a full disk has room again, when nobody writes."""
ENOUGH_PAGES = 512
"""Free pages inside the file (2 MiB) that are as good as room on the disk."""


class Item(NamedTuple):
    """A job that waits. With `frees` it makes room, and is done on a full disk too."""

    job: Job[Any]
    then: Then | None
    loop: asyncio.AbstractEventLoop | None
    frees: bool = False


class Writer:
    """`put` may be called from any thread; `connection` belongs to the writer's from `start` on."""

    def __init__(self, connection: apsw.Connection, health: Health, reserve: Reserve) -> None:
        self.num_groups = self.num_jobs = 0
        self._connection = connection
        self._health = health
        self._reserve = reserve
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._door = threading.Lock()
        self._is_shut = False
        self._thread = threading.Thread(target=self._run, name="aios_write", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, item: Item) -> bool:
        """Queue `item` for the next group. False after `stop`: nobody would ever come to it."""
        with self._door:
            if not self._is_shut:
                self._queue.put(item)
            return not self._is_shut

    def num_waiting(self) -> int:
        return self._queue.qsize()

    def stop(self) -> None:
        """Commit what waits and end the thread. Called once."""
        with self._door:
            self._is_shut = True
            self._queue.put(None)
        self._thread.join()

    def close(self) -> None:
        """After `stop`, and when all others have closed: this ends the log."""
        self._connection.close()

    # ── the thread ──

    def _run(self) -> None:
        """Until `stop`. However it ends, nobody is left without an answer."""
        group: list[Item] = []
        is_last = False
        try:
            while not is_last:
                group, is_last = self._next_group()
                outcomes = self._commit(group) if group else []
                told, group = group, []
                _tell(told, outcomes)
        finally:
            if (error := sys.exc_info()[1]) is not None:
                log.critical("the writer of %s ended", self._health.path, exc_info=True)
                self._health.poison = f"the writer of the kernel's store ended ({type(error).__name__}: {error})"
                self._refuse_all(group, is_last)

    def _next_group(self) -> tuple[list[Item], bool]:
        """Waits for an item; it and what else waits. True when the store was closed after them."""
        group: list[Item] = []
        while not group or (len(group) < MAX_GROUP and self._queue.qsize()):
            item = self._next_item()
            if item is None:
                return group, True
            group.append(item)
        return group, False

    def _next_item(self) -> Item | None:
        while self._health.is_full and self._health.poison is None:
            try:
                return self._queue.get(timeout=LOOK_AGAIN)
            except Empty:
                self._commit([Item(rewrite_first_page, None, None)])
        return self._queue.get()

    def _refuse_all(self, group: list[Item], is_last: bool) -> None:
        """Answer `group`, and all that comes until `stop`, with what poisoned the store."""
        while True:
            _tell(group, _refused(group, self._health.poisoned()))
            if is_last:
                return
            group, is_last = self._next_group()

    # ── a group ──

    def _commit(self, group: list[Item]) -> list[Outcome]:
        """The outcome of each job of `group`."""
        health = self._health
        if health.poison is not None:
            return _refused(group, health.poisoned())
        if not self._reserve.is_held and not self._regain():
            return self._make_room(group, f"fewer than {NEEDED >> 20} MiB are free on it")
        try:
            return self._transaction(group)
        except FULL as error:
            self._fill_up(error)
            if health.poison is not None:
                return _refused(group, health.poisoned())
            return self._make_room(group, error)
        except SPOILS_GROUP as error:
            return _refused(group, health.unusable(error))
        except MemoryError:
            return _refused(group, health.no_memory())

    def _fill_up(self, error: apsw.Error) -> None:
        """The disk took no more: give those who make room what was set aside for them."""
        log.error("%s cannot be written: %s", self._health.path, error)
        self._health.note_sync(error)
        self._health.is_full = True
        self._reserve.release()
        # Folded, the log begins again from its start: it needs no more of the disk.
        fold(self._connection, self._health)

    def _make_room(self, group: list[Item], why: object) -> list[Outcome]:
        """Do the jobs of `group` that make room; the others are refused."""
        full = self._health.full(why)
        freeing = [item for item in group if item.frees]
        done: Iterator[Outcome] = iter(())
        try:
            if freeing:
                done = iter(self._transaction(freeing))
                self._regain()
        except (*SPOILS_GROUP, MemoryError) as error:
            log.error("%s cannot be written, even to make room: %s", self._health.path, error)
            done = iter(_refused(freeing, full))
        return [next(done) if item.frees else (None, full) for item in group]

    def _regain(self) -> bool:
        """Whether there is room again: on the disk for the reserve, or for long enough inside the file."""
        has_room = self._reserve.take() or self._free_pages() >= ENOUGH_PAGES
        if has_room and self._health.is_full:
            log.warning("%s can be written again", self._health.path)
        self._health.is_full = not has_room
        return has_room

    def _free_pages(self) -> int:
        try:
            return int(value(self._connection, "PRAGMA freelist_count"))
        except SPOILS_GROUP:
            return 0

    def _transaction(self, group: list[Item]) -> list[Outcome]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = self._together(group)
            if outcomes is None:
                connection.execute("ROLLBACK; BEGIN IMMEDIATE")
                outcomes = [self._apart(item.job) for item in group]
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        self.num_groups += 1
        self.num_jobs += len(group)
        return outcomes

    def _together(self, group: list[Item]) -> list[Outcome] | None:
        """Each job's outcome; None when one failed after it had written, so that all must be done again."""
        outcomes: list[Outcome] = []
        for item in group:
            before = self._connection.total_changes()
            try:
                outcomes.append((item.job(self._connection), None))
            except AiosError as error:
                if self._connection.total_changes() != before:
                    return None
                outcomes.append((None, error))
            except SPOILS_GROUP:
                raise
            except BUGS:
                return None
        return outcomes

    def _apart(self, job: Job[Any]) -> Outcome:
        """The outcome of a job inside a savepoint of its own."""
        self._connection.execute("SAVEPOINT job")
        result: Any = None
        fault: AiosError | None = None
        try:
            result = job(self._connection)
        except AiosError as error:
            fault = error
        except SPOILS_GROUP:
            raise
        except BUGS as error:
            log.exception("a job of the store failed")
            fault = KernelFault(f"the store could not carry this out: {type(error).__name__}: {error}")
        self._connection.execute("RELEASE job" if fault is None else "ROLLBACK TO job; RELEASE job")
        return result, fault


def rewrite_first_page(connection: apsw.Connection) -> None:
    """The least that really writes, and changes nothing."""
    version = value(connection, "PRAGMA user_version")
    connection.execute(f"PRAGMA user_version={version}")


def _refused(group: list[Item], error: AiosError) -> list[Outcome]:
    return [(None, error)] * len(group)


def _tell(group: list[Item], outcomes: list[Outcome]) -> None:
    """One wake-up of each loop for all answers of the group."""
    answers: dict[asyncio.AbstractEventLoop | None, list[Answer]] = {}
    for item, (result, error) in zip(group, outcomes, strict=True):
        if item.then is not None:
            answers.setdefault(item.loop, []).append((item.then, result, error))
    for loop, batch in answers.items():
        tell(loop, batch)

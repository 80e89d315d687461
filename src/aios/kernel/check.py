"""Whether what a home holds is as it should be, over all rooms, and the mending of what can be. Knows no call.

Of a kernel that runs, `faults` is asked by the kernel itself; a home that no kernel runs on is opened here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import NamedTuple

import apsw

from .clock import SystemClock
from .database import Database, Fault, page_faults
from .memory import check as check_memory
from .memory import repair as repair_memory
from .memory.search import entries_in
from .search import Index, Search
from .storage import Segments, Swap, SwapError, mend
from .storage import check as storage
from .storage.blobs import Blobs
from .storage.knowledge import check as knowledge
from .storage.knowledge import source

BACKUP = "cannot be mended: 'aios fs restore' brings a backup back"


class Rooms(NamedTuple):
    """What is looked at, beside the tables."""

    home: Path
    blobs: Blobs
    segments: Segments
    indexes: dict[str, Index]


def rooms_of(database: Database, home: Path) -> Rooms:
    search, segments = Search(database, SystemClock()), Segments()
    indexes = {
        "memory": search.index("memory", entries_in(segments)),
        "files": search.index("passages", source()),
    }
    return Rooms(home, Blobs(home / "blobs", durable=database.is_durable), segments, indexes)


def faults(connection: apsw.Connection, rooms: Rooms, *, is_served: bool) -> Iterator[Fault]:
    """What is wrong, as it is found: every page, content, count and index is read, so this takes its time."""
    looks: list[tuple[str, Callable[[], Iterator[Fault]]]] = [
        ("aios.db", lambda: _pages(connection)),
        ("memory", lambda: check_memory(connection, rooms.segments)),
        ("files", lambda: storage.check(connection, rooms.blobs, is_served=is_served)),
        ("passages", lambda: knowledge.check(connection)),
        ("searches", lambda: _indexes(connection, rooms)),
        ("swap", lambda: _swap(rooms.home, is_served=is_served)),
    ]
    for where, look in looks:
        try:
            yield from look()
        except (apsw.CorruptError, apsw.NotADBError, apsw.IOError) as error:
            yield Fault(where, f"it cannot be read: {error}", BACKUP)


def repair(connection: apsw.Connection, rooms: Rooms) -> None:
    """Mend what can be. Nobody else may be at work. Drops nothing that can be read."""
    connection.execute("REINDEX")
    for index in rooms.indexes.values():
        if index.check_integrity(connection):
            index.rebuild(connection)
    repair_memory(connection, rooms.segments, rooms.indexes["memory"])
    mend.repair(connection, rooms.blobs)
    knowledge.repair(connection, rooms.indexes["files"])
    for index in rooms.indexes.values():
        while index.take_up(connection):
            pass


def repair_home(home: Path) -> tuple[list[Fault], list[Fault]]:
    """Of a home that no kernel runs on: what was wrong, and what still is. Raises HomeError."""
    with _opened(home) as database:
        rooms = rooms_of(database, home)
        before = database.read(lambda c: list(faults(c, rooms, is_served=False)))
        if before:
            database.run_now(lambda c: repair(c, rooms))
            database.read(lambda c: mend.remove_nobodys(c, rooms.blobs))
            _drop_swap(home, before)
        return before, database.read(lambda c: list(faults(c, rooms, is_served=False))) if before else []


def check_home(home: Path) -> list[Fault]:
    """What is wrong in a home that no kernel runs on. Raises HomeError."""
    with _opened(home) as database:
        rooms = rooms_of(database, home)
        return database.read(lambda c: list(faults(c, rooms, is_served=False)))


def _opened(home: Path) -> AbstractContextManager[Database]:
    """A home's store, for as long as this is entered."""
    return closing(Database.open(home / "aios.db"))


def _pages(connection: apsw.Connection) -> Iterator[Fault]:
    for text in page_faults(connection, 20):
        yield Fault("aios.db", text, "indexes are made anew" if "index" in text else BACKUP)


def _indexes(connection: apsw.Connection, rooms: Rooms) -> Iterator[Fault]:
    for room, index in rooms.indexes.items():
        for line in index.check_integrity(connection):
            yield Fault(f"search in {room}", line, "is made anew")


def _swap(home: Path, *, is_served: bool) -> Iterator[Fault]:
    """Suspended generations. A damaged one is no loss: it is computed again."""
    folder = home / "swap" / "context"
    if is_served or not folder.is_dir():
        return
    swap = Swap(folder, 1 << 62)
    swap.open()
    for key in swap.sizes():
        try:
            swap.get(key)
        except (KeyError, SwapError) as error:
            yield Fault(f"swap/context/{key}", str(error), "is removed; the generation is computed again")


def _drop_swap(home: Path, found: list[Fault]) -> None:
    keys = [fault.where.removeprefix("swap/context/") for fault in found if fault.where.startswith("swap/context/")]
    if keys:
        swap = Swap(home / "swap" / "context", 1 << 62)
        swap.open()
        for key in keys:
            swap.drop(key)

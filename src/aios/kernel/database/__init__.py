"""The one SQLite file of a home: one writer, readers beside it. This is its door. Knows no table but by its script.

    submit(job, then) ──▶ [jobs waiting] ──▶ writer thread: BEGIN · all of them · COMMIT ──▶ every `then`, one wake-up

A group is what came while the last one was committed, so nobody waits for a timer and a busy kernel commits seldom.
In `fast` mode a commit reaches the operating system (kill -9 loses nothing) and waits for no fsync; the log is folded
into the file by a thread of its own, which is also where fast mode syncs. In `durable` mode each group is one fsync.
"""

from .database import Database
from .fault import Fault, page_faults
from .home import HomeError, HomeLock
from .kept import Kept, add_kept, kept
from .once import answered, exactly_once
from .query import Job, as_list, row, rows, value
from .readers import NUM_SLOW_READERS
from .schema import MIGRATIONS

__all__ = [
    "MIGRATIONS",
    "NUM_SLOW_READERS",
    "Database",
    "Fault",
    "HomeError",
    "HomeLock",
    "Job",
    "Kept",
    "add_kept",
    "answered",
    "as_list",
    "exactly_once",
    "kept",
    "page_faults",
    "row",
    "rows",
    "value",
]

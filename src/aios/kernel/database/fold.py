"""The thread that moves SQLite's log into the file, off the way of calls. Knows no job."""

from __future__ import annotations

import logging
import threading

import apsw

from .health import Health

log = logging.getLogger("aios.database")

FOLD_PAGES = 4_000
"""Pages in the log before it is folded into the file (16 MiB)."""
TRUNCATE_PAGES = 32_000
"""Pages after which writers wait for the folding to catch up, so that the log stays bounded."""


class Folder:
    """`watch` tells it how long the log is; its thread folds when that is long enough."""

    def __init__(self, connection: apsw.Connection, health: Health) -> None:
        self.num_pages = 0
        self._connection = connection
        self._health = health
        self._must_fold = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aios_fold", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def watch(self, connection: apsw.Connection, name: str, pages: int) -> int:
        """SQLite's hook: `pages` are in the log after a commit."""
        self.num_pages = pages
        if pages >= FOLD_PAGES and not self._must_fold.is_set():
            self._must_fold.set()
        return apsw.SQLITE_OK

    def stop(self) -> None:
        """Fold what there is and end the thread; the store is closed by then."""
        self._must_fold.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._health.is_closed:
            self._must_fold.wait()
            must_catch_up = self._health.is_closed or self.num_pages >= TRUNCATE_PAGES
            fold(self._connection, self._health)
            if must_catch_up:
                fold(self._connection, self._health, apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self._must_fold.clear()


def fold(connection: apsw.Connection, health: Health, how: int = apsw.SQLITE_CHECKPOINT_PASSIVE) -> None:
    """Move what can be moved. The log keeps the rest; writers notice a full disk by themselves."""
    try:
        connection.wal_checkpoint(mode=how)
    except apsw.Error as error:
        log.error("the log of %s could not be folded: %s", health.path, error)
        health.note_sync(error)

"""`Watch` by the package watchfiles, for systems that are not Linux. Knows no mount and no version.

It watches whole trees, goes through links, and tells nobody that events were lost: what comes from behind a link is
found to be none of the mount's when it is looked at, and a very large batch counts as one that may lack something.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Hashable
from typing import Any

from .watch import Heard

log = logging.getLogger("aios.storage")

STEP = 200
"""Milliseconds between two looks at what has been heard of; its threads cannot be woken."""
LARGE = 4096
"""Changes of one batch past which some may have been dropped."""
ADDED = 1


class Watchfiles:
    """Raises ImportError where the package is not there."""

    def __init__(self) -> None:
        from watchfiles._rust_notify import RustNotify

        self._notify = RustNotify
        self._loop = asyncio.get_running_loop()
        self._stops: dict[Hashable, threading.Event] = {}

    def listen(self, top: Hashable, folder: str, heard: Heard, lost: Callable[[], None]) -> None:
        self.drop(top)
        stop = self._stops[top] = threading.Event()
        args = (stop, folder, heard, lost)
        threading.Thread(target=self._follow, args=args, name="aios_watch", daemon=True).start()

    def add(self, top: Hashable, path: str, folder: int) -> bool:
        """All folders of `top` are watched from `listen` on."""
        return True

    def drop(self, top: Hashable, path: str = "") -> None:
        if not path and (stop := self._stops.pop(top, None)) is not None:
            stop.set()

    def close(self) -> None:
        for top in list(self._stops):
            self.drop(top)

    # ── in a thread ──

    def _follow(self, stop: threading.Event, folder: str, heard: Heard, lost: Callable[[], None]) -> None:
        is_first = True
        while not stop.is_set():
            try:
                notify = self._notify([folder], False, False, 0, True, True)
            except OSError as error:  # the folder is gone again, or has too much in it to be watched
                log.warning("changes in %s are found by looking through it: %s", folder, error)
                return
            if not is_first:
                self._say(stop, lost)
            is_first = False
            with contextlib.suppress(RuntimeError):  # a name that is no UTF-8, for one; it hears nothing more then
                while not stop.is_set():
                    # Without a time limit: at one, watchfiles forgets what came in that moment.
                    found = notify.watch(STEP, STEP, 0, stop)
                    if isinstance(found, set):
                        self._tell(stop, folder, found, heard, lost)
            notify.close()

    def _tell(
        self, stop: threading.Event, folder: str, found: set[tuple[int, str]], heard: Heard, lost: Callable[[], None]
    ) -> None:
        if len(found) > LARGE:
            self._say(stop, lost)
            return
        for kind, path in found:
            if path == folder or path.startswith(f"{folder}/"):
                self._say(stop, heard, path[len(folder) + 1 :], kind == ADDED)

    def _say(self, stop: threading.Event, listener: Callable[..., None], *args: Any) -> None:
        def say() -> None:
            if not stop.is_set():
                listener(*args)

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(say)

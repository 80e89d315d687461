"""Hearing of what is changed in folders by others, as Linux tells it (inotify). Knows no mount and no version.

Not by watchfiles, as on other systems (`watchfiles_watch.py`), which goes through links: for a link to /usr in a folder
it took 2.9 s to watch 15,450 folders there. It also keeps to itself that the system has dropped events, and looks
twenty times a second whether there are any.

One descriptor serves all folders. It is read on the event loop, when there is something and some at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import struct
import sys
import threading
from collections.abc import Callable, Hashable
from typing import NamedTuple, Protocol

log = logging.getLogger("aios.storage")

CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x8, 0x40, 0x80, 0x100, 0x200
DELETE_SELF, MOVE_SELF, UNMOUNT, OVERFLOW, IGNORED = 0x400, 0x800, 0x2000, 0x4000, 0x8000
ONLYDIR, IS_DIR = 0x01000000, 0x40000000
MASK = CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF | ONLYDIR
"""A file that is being written counts when it is closed: one that is open for days is not a change a moment."""
READ = 64 << 10
"""Bytes of events that are read in one turn of the loop: some two thousand, some milliseconds."""
_HEAD = struct.Struct("iIII")
Heard = Callable[[str, bool], None]
"""Told a path below a folder's top, "" being the top itself, and whether it is a folder that came to be there. None of
it says what is there now: look."""


class Watch(Protocol):
    """Hears of changes in folders that it was shown one by one. Used on the event loop, but for `add`."""

    def add(self, top: Hashable, path: str, folder: int) -> bool:
        """From now on tell changes in the folder that is open as `folder`, not in those below it, to `top`; False if
        the system has no room for that. May be called from any thread, and again when the folder has moved."""

    def listen(self, top: Hashable, folder: str, heard: Heard, lost: Callable[[], None]) -> None:
        """`folder` is where `top` is. `lost` is called when the system has dropped events: all may have changed."""

    def drop(self, top: Hashable, path: str = "") -> None:
        """Forget the folder `path` of `top` and all below it."""

    def close(self) -> None: ...


class _Place(NamedTuple):
    top: Hashable
    path: str


class Inotify:
    """`Watch` on Linux. Raises OSError when the system has no room for one more."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._file = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._places: dict[int, dict[Hashable, str]] = {}
        """By the system's number of a watch: whose folders it is, and what it is called there."""
        self._numbers: dict[_Place, int] = {}
        self._listeners: dict[Hashable, tuple[Heard, Callable[[], None]]] = {}
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._file, self._read)

    def add(self, top: Hashable, path: str, folder: int) -> bool:
        with self._lock:  # no event is read before it is known whose it is
            # The descriptor leads to the very folder that is open, whatever its name has become.
            number = self._libc.inotify_add_watch(self._file, f"/proc/self/fd/{folder}".encode(), MASK)
            if number < 0:
                return ctypes.get_errno() in (errno.EACCES, errno.ENOTDIR)  # what cannot be read cannot be versioned
            self._know(number, _Place(top, path))
            return True

    def _know(self, number: int, place: _Place) -> None:
        known = self._places.setdefault(number, {})
        if (old := known.get(place.top)) is not None:  # it has moved
            self._numbers.pop(_Place(place.top, old), None)
        known[place.top] = place.path
        self._numbers[place] = number

    def listen(self, top: Hashable, folder: str, heard: Heard, lost: Callable[[], None]) -> None:
        self._listeners[top] = heard, lost

    def drop(self, top: Hashable, path: str = "") -> None:
        if not path:
            self._listeners.pop(top, None)
        with self._lock:
            self._drop(top, path)

    def _drop(self, top: Hashable, path: str) -> None:
        for place in [p for p in self._numbers if p.top == top and _is_below(p.path, path)]:
            number = self._numbers.pop(place)
            tops = self._places.get(number, {})
            tops.pop(top, None)
            if not tops and self._places.pop(number, None) is not None:
                self._libc.inotify_rm_watch(self._file, number)

    def close(self) -> None:
        self._loop.remove_reader(self._file)
        os.close(self._file)

    def num_watched(self) -> int:
        return len(self._numbers)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError), self._lock:
            data = os.read(self._file, READ)
            at = 0
            while at < len(data):
                number, mask, _, length = _HEAD.unpack_from(data, at)
                at += _HEAD.size + length
                self._tell(number, mask, data[at - length : at].rstrip(b"\0"))

    def _tell(self, number: int, mask: int, name: bytes) -> None:
        if mask & OVERFLOW:
            for _, lost in list(self._listeners.values()):
                lost()
            return
        places = list(self._places.get(number, {}).items())
        if mask & IGNORED:
            for top, path in places:
                self._numbers.pop(_Place(top, path), None)
            self._places.pop(number, None)
            return
        for top, path in places:
            if (listener := self._listeners.get(top)) is not None:
                inner = os.fsdecode(name)
                whole = f"{path}/{inner}" if path and inner else path or inner
                listener[0](whole, bool(mask & IS_DIR and mask & (CREATE | MOVED_TO)))


def open_watch() -> Watch | None:
    """What this system has to watch with; None when it has nothing, or no room for it."""
    try:
        if sys.platform.startswith("linux"):
            return Inotify()
        from .watchfiles_watch import Watchfiles

        return Watchfiles()
    except (OSError, ImportError) as error:
        log.warning("changes in mounted folders are found by looking through them: %s", error)
        return None


def _is_below(path: str, folder: str) -> bool:
    return not folder or path == folder or path.startswith(f"{folder}/")

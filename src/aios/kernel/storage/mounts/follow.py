"""Keeping up with a mounted folder: what is heard of, and what a whole look finds, is noted in small steps.

A whole look is taken when the folder is mounted, at each start, when it is back, and when events were lost.
Knows no call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar

from aios.abi.errors import AiosError

from ...clock import Clock, Timer
from ...database import Database
from ...spaces import Scope
from ..base import MAX_DEPTH
from ..tree import TOP, Tree
from . import seen
from .beneath import Batch, Beneath
from .disk import Disk
from .faults import Gone
from .locks import PathLocks
from .naming import fits, is_nameable, normal
from .notice import Noted, Notice
from .seen import Known
from .watch import Watch

log = logging.getLogger("aios.storage")

WAIT = 0.05
"""Seconds that changes are gathered for. Most files are touched more than once when they are written."""
RETRY = 30.0
"""Seconds until it is tried again after the store could not be written."""
LOOK_WHOLE = 60.0
"""Seconds after which a folder is looked through again whose changes the system does not tell."""
PATIENCE = 20
"""So many times as long as a look took is rested after it."""
MANY = 50_000
"""Paths that are heard of and not noted yet; past that a whole look is cheaper."""
CALM = 1.0
STORMY = 60.0
"""Seconds that a file which was just noted is left alone, and how long at most: each time that it has changed again by
then it is twice as long, so that one which is written all the time does not become a version each time."""
BATCH = 100
"""Paths that are noted together."""


T = TypeVar("T")


class Note(Protocol):
    """As `Notice.note`."""

    async def __call__(self, paths: list[str], *, thorough: bool) -> Noted: ...


class Progress(NamedTuple):
    """`is_looking`: a whole look is under way, and has seen `num_seen` files and folders. `num_unkept` found no room
    then, or since. Without `is_watched` the system does not tell of all changes: the folder is looked through now and
    then."""

    is_looking: bool
    num_seen: int
    num_unkept: int
    is_watched: bool


class Pace(NamedTuple):
    """When a file was noted, and how long it is left alone after that."""

    noted: float
    rest: float

    def again(self, now: float) -> Pace:
        is_calm = now > self.noted + 2 * self.rest
        return Pace(now, CALM if is_calm else min(2 * self.rest, STORMY))


class Follower:
    """Of one mount. `on_gone` hears why its folder is not there, after which it rests until `look_whole`."""

    def __init__(
        self,
        scope: Scope,
        beneath: Beneath,
        disk: Disk,
        database: Database,
        notice: Notice,
        locks: PathLocks,
        clock: Clock,
        watch: Watch | None,
        on_gone: Callable[[Gone], None],
    ) -> None:
        self._scope = scope
        self._beneath = beneath
        self._disk = disk
        self._database = database
        self._notice = notice
        self._locks = locks
        self._clock = clock
        self._watch = watch
        self._on_gone = on_gone
        self._heard: dict[str, bool] = {}
        """Paths, and whether a folder came to be there."""
        self._busy: set[str] = set()
        """Somebody was at these when they were to be noted."""
        self._paces: dict[str, Pace] = {}
        self._is_whole_wanted = False
        self._timer: Timer | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_watched = watch is not None
        self._is_looking = False
        self._looked = self._took = 0.0
        """When the last whole look was over, and how long it was."""
        self._num_seen = 0
        self._num_unkept = 0
        if watch is not None:
            watch.listen(scope, beneath.folder, self.hear, self.look_whole)

    @property
    def progress(self) -> Progress:
        return Progress(self._is_looking, self._num_seen, self._num_unkept, self._is_watched)

    @property
    def is_idle(self) -> bool:
        """Whether all that was heard of is noted."""
        return not (self._heard or self._busy or self._is_whole_wanted or self._task)

    def hear(self, path: str, is_new_folder: bool = False) -> None:
        """Something may have changed at `path`."""
        clean = _clean(path)
        if clean is not None:
            self._heard[clean] = self._heard.get(clean, False) or is_new_folder
            if len(self._heard) > MANY:
                self.look_whole()
            self._wake(WAIT)

    def look_whole(self) -> None:
        """Anything may have changed."""
        self._is_whole_wanted = True
        self._wake(0)

    def look_whole_if_due(self) -> None:
        """The system does not tell of all changes, and the last look is long enough ago."""
        rest = max(LOOK_WHOLE, PATIENCE * self._took)
        if not (self._is_watched or self._is_looking) and self._clock.now() - self._looked > rest:
            self.look_whole()

    async def close(self) -> None:
        self.rest()
        if self._watch is not None:
            self._watch.drop(self._scope)
            self._watch = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def rest(self) -> None:
        """Do nothing until something is heard of."""
        self._heard.clear()
        self._busy.clear()
        self._is_whole_wanted = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watch is not None:
            self._watch.drop(self._scope)
            self._watch.listen(self._scope, self._beneath.folder, self.hear, self.look_whole)

    # ── working ──

    def _wake(self, delay: float) -> None:
        if self._task is None and self._timer is None:
            self._timer = self._clock.call_later(delay, self._start)

    def _start(self) -> None:
        self._timer = None
        if self._task is None:
            self._heard.update(dict.fromkeys(self._busy.difference(self._heard), False))
            self._busy.clear()
            self._task = asyncio.get_running_loop().create_task(self._work())
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task, self._is_looking = None, False
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("following the mount '%s' failed", self._scope.mount, exc_info=error)
        elif self._heard or self._busy:
            self._wake(WAIT if self._heard else CALM / 4)

    async def _work(self) -> None:
        try:
            while self._heard or self._is_whole_wanted:
                if self._is_whole_wanted:
                    await self._look_whole()
                else:
                    await self._note_heard()
        except Gone as error:
            self._on_gone(error)
        except AiosError as error:
            log.warning("the mount '%s' is not kept up with for now: %s", self._scope.mount, error)
            self._is_whole_wanted = True
            self._timer = self._clock.call_later(RETRY, self._start)

    async def _look_whole(self) -> None:
        self._is_whole_wanted = False
        self._heard.clear()
        self._is_looking, self._is_watched = True, self._watch is not None
        self._num_seen = self._num_unkept = 0
        begun = self._clock.now()
        noted = await self.look("")
        self._looked = self._clock.now()
        self._took = self._looked - begun
        self._is_looking, self._num_unkept = False, noted.num_unkept

    async def _note_heard(self) -> None:
        paths = self._due()
        folders = [path for path in paths if self._heard.pop(path)]
        noted = await self._note(paths, thorough=False)
        for folder in folders:
            noted += await self.look(folder)
        self._num_unkept += noted.num_unkept

    def _due(self) -> list[str]:
        """Some of the paths that were heard of, but for those that are to be left alone; these wait."""
        now, due = self._clock.now(), []
        for path, is_new_folder in list(islice(self._heard.items(), 10 * BATCH)):
            pace = None if is_new_folder else self._paces.get(path)
            if pace is not None and now < pace.noted + pace.rest:
                del self._heard[path]
                self._busy.add(path)
                continue
            self._paces[path] = Pace(now, CALM) if pace is None else pace.again(now)
            due.append(path)
            if len(due) == BATCH:
                break
        if len(self._paces) > MANY:
            self._paces.clear()
        return due

    async def _note(self, paths: list[str], *, thorough: bool) -> Noted:
        """Those that nobody is at; the others when it is their turn again."""
        with self._held(paths) as held:
            noted, large = await self._notice.note_small(held, thorough=thorough) if held else (Noted(), [])
        for path in large:
            with self._held([path]) as alone:  # while it is read, the others are free
                noted += await self._notice.note_large(path) if alone else Noted()
        return noted

    @contextlib.contextmanager
    def _held(self, paths: list[str]) -> Iterator[list[str]]:
        """Those of `paths` that nobody is at."""
        held = [path for path in paths if self._locks.try_hold(path)]
        self._busy.update(set(paths).difference(held))
        try:
            yield held
        finally:
            for path in held:
                self._locks.release(path)

    # ── a whole look ──

    async def look(self, folder: str, *, is_held: bool = False) -> Noted:
        """Note all that is at the folder and below it, and that something is no more. With `is_held` the caller has
        it."""
        noted = Noted()
        note = self._notice.note if is_held else self._note
        walk = self._beneath.walk(folder, self._enter)
        here, num_there = None, 0
        try:
            while (batch := await self._disk.run_long(next, walk, None)) is not None:
                if batch.folder != here:
                    here, num_there = batch.folder, await self._read(partial(seen.num_in, folder=batch.folder))
                known = await self._read(partial(seen.known_in, folder=batch.folder, names=_names(batch)))
                num_there -= len(known) - known.count(None)
                for paths in _some(_differing(batch, known)):
                    noted += await note(paths, thorough=True)
                if batch.is_last and num_there > 0:
                    noted += await self._look_for(batch.folder, note)
                self._num_seen += len(batch.entries)
        finally:
            self._disk.later(walk.close)
        return noted

    async def _look_for(self, folder: str, note: Note) -> Noted:
        """Note all that the store has in the folder: some of it was not found there."""
        noted, last = Noted(), ""
        while paths := await self._read(partial(_some_in, folder=folder, after=last)):
            noted += await note(paths, thorough=False)
            last = paths[-1].rpartition("/")[2]
        return noted

    async def _read(self, look: Callable[[Tree], T]) -> T:
        return await self._database.read_async(lambda c: look(Tree(c, self._scope)))

    def _enter(self, path: str, folder: int) -> None:
        """In a thread, before a folder is read: what changes from here on is heard of."""
        self._beneath.sweep(folder)
        if self._watch is not None and not self._watch.add(self._scope, path, folder):
            self._is_watched = False


def _names(batch: Batch) -> list[str]:
    return [entry.path.rpartition("/")[2] for entry in batch.entries]


def _differing(batch: Batch, known: list[Known | None]) -> list[str]:
    """Paths of `batch` that are not as they are known."""
    pairs = zip(batch.entries, known, strict=True)
    return [entry.path for entry, known in pairs if known is None or not known.is_surely(entry, thorough=True)]


def _some_in(tree: Tree, folder: str, after: str) -> list[str]:
    """The next of what the store has in the folder."""
    parent = tree.find(folder) if folder else None
    if parent is None and folder:
        return []
    start = f"{folder}/" if folder else ""
    nodes = tree.children(TOP if parent is None else parent.id, BATCH, after)
    return [start + node.name for node in nodes]


def _some(paths: list[str]) -> Iterator[list[str]]:
    for at in range(0, len(paths), BATCH):
        yield paths[at : at + BATCH]


def _clean(path: str) -> str | None:
    """A path that the system told, as agents would write it; None for one that none of them can."""
    path = normal(path)
    names = path.split("/") if path else []
    if not fits(path) or len(names) >= MAX_DEPTH or not all(map(is_nameable, names)):
        return None
    return path

"""Snapshots in files: those of this run, and what an earlier run has left. Knows no pool, tier or live generation.

Files are read, written and checked by one thread, in the order in which that was asked for, so that neither the event
loop nor an engine waits for a disk, but for `open` and `thawed`. All methods are called on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, TypeVar

from .base import File, Snapshot, SnapshotError, Stored, Swap, SwapFault, Thawed
from .health import Health
from .logits import read

log = logging.getLogger("aios.context")

OVERHEAD = 4096
"""Bytes that a snapshot takes on disk beside its arrays and state, at most."""
NAME = re.compile(r"([^@]+)@([^@]*)@([0-9]{1,18})")
"""CALL@CORE@NUMBER; without a core's name any may go on with it."""
SHOWN = 3
"""Foreign files that are named."""
R = TypeVar("R")


class Disk:
    """`swap` with its budget. `health` hears what becomes of each write."""

    def __init__(self, swap: Swap, now: Callable[[], float]) -> None:
        self.health = Health(swap.folder, now)
        self._swap = swap
        self._is_open = False
        self._taken = 0
        """Bytes that the files will take when all that was asked for is done."""
        self._stored: dict[str, tuple[Stored, File]] = {}
        """Of an earlier run of the kernel, or left for the next: by call's id."""
        self._numbers = count()
        self._thread = ThreadPoolExecutor(1, "aios-swap")

    def open(self) -> None:
        """Look what an earlier run has left. Where the folder cannot be used that is told, and looked at again with the
        first write."""
        try:
            self._look()
        except OSError as error:  # calls can be answered without
            self.health.refused(error)
            return
        found = [(name, size, NAME.fullmatch(name)) for name, size in self._swap.sizes().items()]
        found.sort(key=lambda each: int(each[2][3]) if each[2] else 0)
        for name, size, parts in found:
            assert parts is not None, "it was taken for one of ours"
            self._taken += size
            self.forget(parts[1])  # a call's older one, left behind by a crash
            self._stored[parts[1]] = Stored(parts[1], parts[2]), File(name, size)

    async def close(self) -> None:
        """Wait until what was asked for is done."""
        await asyncio.to_thread(self._thread.shutdown)

    # ── of this run ──

    @property
    def budget(self) -> int:
        return self._swap.budget

    @property
    def room(self) -> int:
        """What the budget will leave when all that was asked for is done."""
        return self._swap.budget - self._taken

    async def write(self, snapshot: Snapshot) -> File | None:
        """The new file; None when the disk does not take it."""
        about, size, written = snapshot.about, size_of(snapshot), 0
        name = f"{about.key}@{about.core}@{next(self._numbers)}"
        self._taken += size
        try:
            written = await self._run(self._put, name, snapshot)
        except (OSError, MemoryError) as error:
            if (cause := error.cause if isinstance(error, SwapFault) else error) is None:
                self.health.spent(self.budget)
            else:
                self.health.refused(cause)
            return None
        finally:
            self._taken += written - size
        self.health.taken()
        return File(name, written)

    async def read(self, file: File, key: str) -> Snapshot:
        """The snapshot of call `key` in `file`. OSError, SnapshotError, KeyError or MemoryError when it is not to be
        had whole."""
        try:
            return await self._run(_read, self._swap, file.name, key)
        except (OSError, SnapshotError, KeyError, MemoryError):
            self.health.misread()
            raise

    def remove(self, file: File) -> None:
        self._taken -= file.size
        with contextlib.suppress(RuntimeError):  # closed: the next start sweeps it away
            self._thread.submit(self._swap.drop, file.name)

    # ── from one run to the next ──

    @property
    def num_stored(self) -> int:
        return len(self._stored)

    def find(self, key: str) -> Stored | None:
        """What an earlier run has left of call `key`."""
        found = self._stored.get(key)
        return found[0] if found is not None else None

    async def load(self, key: str, fingerprint: str, vocabulary: str) -> Thawed:
        """What is stored of call `key`, for an engine of this fingerprint and vocabulary.

        Raises SnapshotError when nothing of it is of use.
        """
        return await self._run(self.thawed, key, fingerprint, vocabulary)

    def thawed(self, key: str, fingerprint: str, vocabulary: str) -> Thawed:
        """As `load`, here and now, though others may be written meanwhile: for small ones."""
        if (found := self._stored.get(key)) is None:
            raise SnapshotError("its snapshot is gone")
        return _thaw(self._swap, found[1].name, key, fingerprint, vocabulary)

    def store(self, stored: Stored, file: File) -> None:
        """Leave `file` for the next start."""
        self._stored[stored.key] = stored, file

    def forget(self, key: str) -> None:
        """What is stored of call `key` is not needed."""
        if (found := self._stored.pop(key, None)) is not None:
            self.remove(found[1])

    def stored_but(self, keys: Collection[str]) -> set[str]:
        """Calls of which something is stored, all but `keys`."""
        return self._stored.keys() - set(keys)

    # ── on the thread, but for the first look ──

    def _look(self) -> None:
        foreign = self._swap.open(lambda key: NAME.fullmatch(key) is not None)
        self._is_open = True
        if foreign:
            log.warning(
                "%s holds %d that suspended generations did not leave there (%s); what is not the kernel's is let be",
                self._swap.folder, len(foreign), _listed(foreign),
            )  # fmt: skip

    def _put(self, name: str, snapshot: Snapshot) -> int:
        if not self._is_open:  # it could not be used at the start
            self._look()
            for left in self._swap.sizes():  # of calls that have begun anew meanwhile
                self._swap.drop(left)
        return self._swap.put(name, snapshot.parts())

    async def _run(self, job: Callable[..., R], *args: Any) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job, *args)


def size_of(snapshot: Snapshot) -> int:
    """Bytes that `snapshot` takes on disk, at most."""
    return snapshot.nbytes + OVERHEAD


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(repr(name[:80]) for name in names[:SHOWN]) + more


def _read(swap: Swap, name: str, key: str) -> Snapshot:
    return _owned(read(swap.get(name)), key)


def _owned(snapshot: Snapshot, key: str) -> Snapshot:
    """`snapshot`, if it is of call `key`: a file's name can be given to another file. Raises SnapshotError."""
    if snapshot.about.key != key:
        raise SnapshotError("its snapshot is of another call")
    return snapshot


def _thaw(swap: Swap, name: str, key: str, fingerprint: str, vocabulary: str) -> Thawed:
    try:
        snapshot, why = read(swap.get(name)), None
    except KeyError:
        raise SnapshotError("its snapshot is gone") from None
    except OSError as error:
        snapshot, why = _salvaged(error.rest if isinstance(error, SwapFault) else b""), str(error)
    except SnapshotError as error:
        if error.rest is None:
            raise
        snapshot, why = error.rest, str(error)
    _owned(snapshot, key)
    if snapshot.about.vocabulary != vocabulary:
        raise SnapshotError("its snapshot is of another model, whose tokens mean something else")
    if why is None and snapshot.about.fingerprint != fingerprint:
        why = f"its snapshot was made by engine {snapshot.about.fingerprint}, and this is {fingerprint}"
        snapshot = snapshot.as_text()
    return Thawed(snapshot.state, snapshot.arrays, why)


def _salvaged(data: bytes | memoryview) -> Snapshot:
    """The text-based form of what the disk gave, though it is not what was put. Raises SnapshotError."""
    try:
        return read(data).as_text()
    except SnapshotError as error:
        if error.rest is None:
            raise
        return error.rest

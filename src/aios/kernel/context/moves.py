"""Carries stopped generations one tier further, and back into their pool. Knows no core, call or earlier run.

What goes where is decided by `tiers.py`. A generation is in its old place until it is whole in the new one. All methods
are called on the event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ..unbroken import unbroken
from .base import About, Array, File, Held, Pool, Snapshot, SnapshotError
from .disk import Disk, size_of
from .logits import LogitsSnapshot
from .text import TextSnapshot
from .tiers import Entry, Tier, Tiers

R = TypeVar("R")
LARGE = 16 << 20
"""Bytes whose copying takes more than a few milliseconds."""
UNREADABLE = "its snapshot could not be read back"


@dataclass(slots=True, eq=False)
class _Gate:
    """A pool's way in: one at a time brings a generation back, and waits for room if it must."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    bell: asyncio.Event = field(default_factory=asyncio.Event)


class Moves:
    """`ram_bytes` bounds what is kept in host memory, `disk` what is on disk; past both only text is kept."""

    def __init__(self, tiers: Tiers, disk: Disk, ram_bytes: int) -> None:
        self.ram_bytes = ram_bytes
        self.failures: Counter[Pool | None] = Counter()
        """How often the disk failed a generation of each pool, or one that was in none."""
        self._tiers = tiers
        self._disk = disk
        self._gates: dict[Pool, _Gate] = {}
        self._spilling = asyncio.Lock()
        self._being_copied = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def ram_room(self) -> int:
        return self.ram_bytes - self._tiers.bytes(Tier.RAM)

    # ── room in a pool ──

    def gate(self, pool: Pool) -> _Gate:
        if (gate := self._gates.get(pool)) is None:
            gate = self._gates[pool] = _Gate()
        return gate

    def freed(self, pool: Pool) -> None:
        """A generation of `pool` was stopped, or is over."""
        if (gate := self._gates.get(pool)) is not None:
            gate.bell.set()

    def forget(self, pool: Pool) -> None:
        self._gates.pop(pool, None)
        self.failures.pop(pool, None)

    async def clear(self, pool: Pool, needed: int, *, is_patient: bool = False) -> None:
        """Move the oldest out of `pool` until `needed` bytes are free, if stopped ones can make them so or it
        `is_patient`. The pool's gate must be held."""
        bell = self.gate(pool).bell
        while pool.room < needed:
            if (oldest := self._tiers.oldest(Tier.POOL, pool)) is not None:
                await self._evict(oldest)
            elif is_patient:
                bell.clear()
                await bell.wait()
            else:
                return

    # ── back into the pool ──

    async def bring_back(self, entry: Entry) -> str | None:
        """Into its pool, whose gate must be held. Says what was lost on the way, if anything was."""
        held, why = entry.held, None
        arrays: Sequence[Array] | None = entry.arrays
        entry.pins += 1
        try:
            if entry.file is not None:
                arrays, why = await self._read(entry, entry.file)
            await self.clear(held.pool, held.needs, is_patient=True)
        finally:
            entry.pins -= 1
        if self._tiers.get(held.key) is not entry:
            return None  # dropped; there is nothing to go on with
        arrays, misfit = await _enter(held, arrays)
        self._tiers.count(entry.tier if arrays is not None else Tier.TEXT, held.pool)
        self.leave(entry)
        return why or misfit

    async def admit(self, held: Held, arrays: Sequence[Array] | None) -> str | None:
        """One that was in no tier, into its pool, whose gate must be held; as `bring_back`."""
        await self.clear(held.pool, held.needs, is_patient=True)
        arrays, why = await _enter(held, arrays)
        self._tiers.count(Tier.DISK if arrays is not None else Tier.TEXT, held.pool)
        return why

    async def _read(self, entry: Entry, file: File) -> tuple[Sequence[Array] | None, str | None]:
        """The arrays of a generation on disk; None and why, when they are not to be had."""
        try:
            return (await self._disk.read(file, entry.held.key)).arrays, None
        except (OSError, SnapshotError, KeyError, MemoryError) as error:
            self.failures[entry.pool] += 1
            return None, f"{UNREADABLE}: {error}"

    # ── one tier further ──

    async def _evict(self, entry: Entry) -> None:
        """Out of its pool: into memory, or through it to the disk when it is too large for what is left there."""
        held = entry.held
        if held.form == "text":
            held.forget()
            self._tiers.to_text(entry)
            return
        fits = await self._free_ram(held.size)
        if not self._tiers.has(entry, Tier.POOL):
            return  # it went on meanwhile
        await self._to_ram(entry)
        if not fits and self._tiers.has(entry, Tier.RAM):
            await self._spill(entry)

    async def _to_ram(self, entry: Entry) -> None:
        """From its pool to memory; its text is kept where the machine has none left. It may go on meanwhile."""
        held = entry.held
        size, arrays = held.size, None
        self._being_copied += size
        try:
            arrays = await _carried_out(held.copying(), size)
        except MemoryError:
            pass
        finally:
            self._being_copied -= size
        if not self._tiers.has(entry, Tier.POOL):
            return
        held.forget()
        if arrays is None:
            self._tiers.to_text(entry)
        else:
            self._tiers.to_ram(entry, arrays)

    async def _free_ram(self, size: int) -> bool:
        """Move the oldest in memory to the disk until there is room for `size` bytes; False when there never is."""
        if size > self.ram_bytes:
            return False
        async with self._spilling:
            while self.ram_room < self._being_copied + size:
                if (oldest := self._tiers.oldest(Tier.RAM)) is None:
                    return False
                await self._spill(oldest)
        return True

    async def _spill(self, entry: Entry) -> None:
        """From memory to the disk. Whoever asked for that may be cancelled: it is carried to its end all the same."""
        entry.pins += 1
        task = asyncio.get_running_loop().create_task(self._spilled(entry))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _spilled(self, entry: Entry) -> None:
        """It stays in memory until it is on disk; when that is full or fails, its text is kept."""
        try:
            file = await self.write(_snapshot(entry), entry.pool)
        finally:
            entry.pins -= 1
        if not self._tiers.has(entry, Tier.RAM):  # it went on, or its call was cancelled
            if file is not None:
                self._disk.remove(file)
        elif file is None:
            self._tiers.to_text(entry)
        else:
            self._tiers.to_disk(entry, file)

    async def write(self, snapshot: Snapshot, pool: Pool | None = None) -> File | None:
        """The new file; None when the disk has no room. The oldest there make some. `pool` is the one it was in."""
        disk, size = self._disk, size_of(snapshot)
        while disk.room < size <= disk.budget and (oldest := self._tiers.oldest(Tier.DISK)) is not None:
            assert oldest.file is not None
            disk.remove(oldest.file)
            self._tiers.to_text(oldest)
            disk.health.spent(disk.budget)
        if disk.room < size:
            disk.health.spent(disk.budget)
            return None
        file = await disk.write(snapshot)
        if file is None:  # else the pool would be held here for good, though its core has left
            self.failures[pool] += 1
        return file

    async def saved(self, entry: Entry) -> File | None:
        """What goes on from `entry` at the next start, in a file: as text if there is no room for more. It stays where
        it is, but for a file that it had, and for its pool."""
        if entry.file is not None:
            return entry.file
        if entry.tier is Tier.POOL and entry.held.form == "logits":
            await self._to_ram(entry)
        snapshot = _snapshot(entry)
        file = await self.write(snapshot, entry.pool)
        if file is None and snapshot.form == "logits":
            file = await self.write(snapshot.as_text(), entry.pool)
        return file

    # ── at an end ──

    def leave(self, entry: Entry, *, but: File | None = None) -> None:
        """Out of its tier; its file is removed, unless that is `but`."""
        if entry.file is not None and entry.file is not but:
            self._disk.remove(entry.file)
        self._tiers.remove(entry)

    async def over(self) -> None:
        """Wait until what is on its way is there."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def check_integrity(self) -> None:
        """Raises AssertionError when more is kept somewhere than its budget allows."""
        if not self._tasks:  # what is on its way through the memory to the disk is not kept there
            assert self.ram_room >= 0
            assert self._disk.room >= 0


async def _enter(held: Held, arrays: Sequence[Array] | None) -> tuple[Sequence[Array] | None, str | None]:
    """Put it into its pool. What it could use of `arrays`, and why not all."""
    try:
        load = held.reopen(arrays)
    except ValueError as error:
        held.reopen(None)()
        return None, f"{UNREADABLE}: {error}"
    try:
        await _carried_out(load, sum(array.nbytes for array in arrays or ()))
    except BaseException:
        held.forget()
        raise
    return arrays, None


async def _carried_out(job: Callable[[], R], size: int) -> R:
    """Do `job`, which copies `size` bytes: aside, when that would hold up the loop. It is over when this returns or
    raises, whoever is cancelled: what it copies to and from is not given to others before."""
    if size < LARGE:
        return job()
    return await unbroken(asyncio.get_running_loop().run_in_executor(None, job))


def _snapshot(entry: Entry) -> Snapshot:
    held = entry.held
    about = About(held.key, held.core, held.fingerprint, held.vocabulary)
    if entry.arrays is None:
        return TextSnapshot(about, held.state)
    return LogitsSnapshot(about, held.state, entry.arrays)

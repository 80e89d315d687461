"""Keeps stopped generations: in their pool, in host memory, on disk, as text. Knows no core, model, call or policy.

What goes where is decided by `tiers.py`; here it is carried out. All methods are called on the event loop. Files are
read, written and checked by one thread, in the order in which that was asked for, so that neither the loop nor an
engine waits for a disk. A generation is in its old place until it is whole in the new one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

from .base import About, Array, Held, Pool, Snapshot, SnapshotError, Stored, Swap, Thawed
from .logits import LogitsSnapshot, read
from .text import TextSnapshot
from .tiers import Entry, Tier, Tiers

OVERHEAD = 4096
"""Bytes that a snapshot takes on disk beside its arrays and state, at most."""
R = TypeVar("R")
LARGE = 16 << 20
"""Bytes whose copying takes more than a few milliseconds."""
UNREADABLE = "its snapshot could not be read back"


@dataclass(slots=True, eq=False)
class _Gate:
    """A pool's way in: one at a time brings a generation back, and waits for room if it must."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    bell: asyncio.Event = field(default_factory=asyncio.Event)


class ContextManager:
    """`ram_bytes` bounds what is kept in host memory, `swap` what is on disk; past both only text is kept.

    A generation that was begun can always go on: those that run fit their pool, and any other can leave it.
    """

    def __init__(self, swap: Swap, *, ram_bytes: int) -> None:
        self._swap = swap
        self._ram_bytes = ram_bytes
        self._tiers = Tiers()
        self._gates: dict[Pool, _Gate] = {}
        self._spilling = asyncio.Lock()
        self._files: dict[Entry, str] = {}
        self._stored: dict[str, tuple[Stored, str, int]] = {}
        """Of an earlier run of the kernel, or left for the next: by call's id, with the file's name and size."""
        self._being_written = self._being_copied = 0
        self._numbers = count()
        self._kept: frozenset[str] = frozenset()
        self._parting: dict[Entry, None] = {}
        self._switches: Counter[Pool] = Counter()
        self._num_failed = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._disk = ThreadPoolExecutor(1, "aios-swap")

    # ── for cores ──

    def room(self, pool: Pool, *, is_text: bool = False) -> int:
        """Bytes of `pool` that new generations may reserve: what is free, and what stopped ones can make free without
        losing what they have computed."""
        free = self._ram_bytes - self._tiers.bytes(Tier.RAM) + self._disk_room
        stopped = self._tiers.bytes(Tier.POOL, pool)
        return pool.room + (stopped if is_text else min(stopped, max(0, free)))

    def put(self, held: Held) -> None:
        """`held` was stopped. It keeps its room in the pool until others need it."""
        self._tiers.add(held)
        self.freed(held.pool)

    async def take(self, held: Held, *, is_switch: bool = True) -> str | None:
        """`held` goes on: it is in its pool again when this returns. Says what was lost on the way, if anything was.

        Waits while running generations fill the pool. One that is not here stays as it is.
        """
        entry = self._tiers.get(held.key)
        if entry is None:
            return None
        self._switches[held.pool] += is_switch
        if entry.tier is Tier.POOL:
            self._tiers.count(Tier.POOL, held.pool)
            self._tiers.remove(entry)
            return None
        async with self._gate(held.pool).lock:
            return await self._bring_back(entry)

    async def make_room(self, pool: Pool, needed: int) -> None:
        """Make `needed` bytes of `pool` free, if stopped generations can make them so; who runs keeps its room."""
        gate = self._gate(pool)
        if pool.room < needed or gate.lock.locked():
            async with gate.lock:
                await self._clear(pool, needed)

    def freed(self, pool: Pool) -> None:
        """A generation of `pool` was stopped, or is over."""
        if (gate := self._gates.get(pool)) is not None:
            gate.bell.set()

    def drop(self, held: Held) -> None:
        """`held` will not go on; what it holds is free at once. If its call is to outlive the kernel, it is kept until
        `flush` has saved it."""
        entry = self._tiers.get(held.key)
        if entry is None:
            held.forget()
        elif held.key in self._kept:
            self._parting[entry] = None
        else:
            self._discard(entry)
        self.freed(held.pool)

    def part(self, held: Held) -> None:
        """`held` was broken off while it ran: as `put` and then `drop`."""
        if self._tiers.get(held.key) is None:
            self._tiers.add(held)
        self.drop(held)

    async def load(self, key: str, pool: Pool, fingerprint: str, vocabulary: str) -> Thawed:
        """What an earlier run of the kernel left of call `key`, for an engine of this fingerprint and vocabulary.

        Raises SnapshotError, a ValueError, when nothing of it is of use.
        """
        if (found := self._stored.get(key)) is None:
            raise SnapshotError("its snapshot is gone")
        return await self._run(_thaw, self._swap, found[1], key, fingerprint, vocabulary)

    async def admit(self, held: Held, arrays: Sequence[Array] | None) -> str | None:
        """Give `held`, which was made of what `load` gave, its room in its pool; as `take`. Nothing is stored then."""
        async with self._gate(held.pool).lock:
            await self._clear(held.pool, held.needs, is_patient=True)
            arrays, why = await _enter(held, arrays)
            self._tiers.count(Tier.DISK if arrays is not None else Tier.TEXT, held.pool)
            if (found := self._stored.pop(held.key, None)) is not None:
                self._remove_file(found[1])
            return why

    def drop_stored(self, key: str) -> None:
        """What is stored of call `key` is not needed; kept all the same if the call is to outlive the kernel."""
        if key not in self._kept and (found := self._stored.pop(key, None)) is not None:
            self._remove_file(found[1])

    def statistics(self, pool: Pool | None = None) -> dict[str, Any]:
        """Generations and bytes in each tier, how many went on from there, and switches: of one pool, or of all."""
        switches = self._switches[pool] if pool is not None else self._switches.total()
        own = {} if pool is not None else self._budgets()
        return {"switches": switches, **self._tiers.statistics(pool), **own}

    def forget_pool(self, pool: Pool) -> None:
        """`pool` is closed."""
        self._gates.pop(pool, None)
        self._switches.pop(pool, None)
        self._tiers.forget(pool)

    # ── for the kernel ──

    def open(self) -> None:
        """Look what an earlier run has left."""
        for name, size in self._swap.sizes().items():
            key, _, rest = name.partition("@")
            core = rest.rpartition("@")[0]
            if key in self._stored or not core:
                self._remove_file(name)  # a call's older one, left behind by a crash
            else:
                self._stored[key] = (Stored(key, core), name, size)

    def find(self, key: str) -> Stored | None:
        """What an earlier run has left of call `key`."""
        found = self._stored.get(key)
        return found[0] if found is not None else None

    def sweep(self, keys: Collection[str]) -> None:
        """Forget what is stored of all calls but `keys`."""
        for key in self._stored.keys() - set(keys):
            self.drop_stored(key)

    def keep(self, keys: Collection[str]) -> None:
        """The calls with these ids go on at the next start: what is dropped of theirs from now on is to be saved."""
        self._kept = frozenset(keys)

    async def flush(self, limit: float) -> None:
        """Write what is to be kept, for at most `limit` seconds; the calls whose turn does not come start anew."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while self._parting:
                    entry = next(iter(self._parting))
                    await self._save(entry)
                    self._parting.pop(entry, None)
        self._kept = frozenset()
        for entry in self._parting:
            self._discard(entry)
        self._parting.clear()

    async def close(self) -> None:
        """Wait until what was asked of the disk is done."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.to_thread(self._disk.shutdown)

    def check_integrity(self) -> None:
        """Raises AssertionError when something is in no place, in two, or past a budget."""
        self._tiers.check_integrity()
        if not self._tasks:  # what is on its way through the memory to the disk is not kept there
            assert self._tiers.bytes(Tier.RAM) <= self._ram_bytes
            assert self._disk_room >= 0

    # ── back into the pool ──

    async def _bring_back(self, entry: Entry) -> str | None:
        held, why = entry.held, None
        arrays: Sequence[Array] | None = entry.arrays
        entry.is_pinned = True
        try:
            if entry.tier is Tier.DISK:
                arrays, why = await self._read(entry)
            await self._clear(held.pool, held.needs, is_patient=True)
        finally:
            entry.is_pinned = False
        if self._tiers.get(held.key) is not entry:
            return None  # dropped; there is nothing to go on with
        arrays, misfit = await _enter(held, arrays)
        self._tiers.count(entry.tier if arrays is not None else Tier.TEXT, held.pool)
        self._leave_tier(entry)
        return why or misfit

    async def _read(self, entry: Entry) -> tuple[Sequence[Array] | None, str | None]:
        """The arrays of a generation on disk; None and why, when they are not to be had."""
        try:
            snapshot = await self._run(_read, self._swap, self._files[entry], entry.held.key)
        except (OSError, SnapshotError, KeyError, MemoryError) as error:
            self._num_failed += 1
            return None, f"{UNREADABLE}: {error}"
        return snapshot.arrays, None

    async def _clear(self, pool: Pool, needed: int, *, is_patient: bool = False) -> None:
        """Move the oldest out of `pool` until `needed` bytes are free. The pool's gate must be held."""
        bell = self._gate(pool).bell
        while pool.room < needed:
            if (oldest := self._tiers.oldest(Tier.POOL, pool)) is not None:
                await self._evict(oldest)
            elif is_patient:
                bell.clear()
                await bell.wait()
            else:
                return

    # ── one tier further ──

    async def _evict(self, entry: Entry) -> None:
        """Out of its pool: into memory, or through it to the disk when it is too large for what is left there."""
        held = entry.held
        if held.form == "text":
            held.forget()
            self._tiers.move(entry, Tier.TEXT, 0)
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
            self._tiers.move(entry, Tier.TEXT, 0)
        else:
            self._tiers.move(entry, Tier.RAM, sum(array.nbytes for array in arrays), arrays)

    async def _free_ram(self, size: int) -> bool:
        """Move the oldest in memory to the disk until there is room for `size` bytes; False when there never is."""
        if size > self._ram_bytes:
            return False
        async with self._spilling:
            while self._tiers.bytes(Tier.RAM) + self._being_copied + size > self._ram_bytes:
                if (oldest := self._tiers.oldest(Tier.RAM)) is None:
                    return False
                await self._spill(oldest)
        return True

    async def _spill(self, entry: Entry) -> None:
        """From memory to the disk. Whoever asked for that may be cancelled: it is carried to its end all the same."""
        entry.is_pinned = True
        task = asyncio.get_running_loop().create_task(self._spilled(entry))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _spilled(self, entry: Entry) -> None:
        """It stays in memory until it is on disk; when that is full or fails, its text is kept."""
        try:
            written = await self._write(_snapshot(entry))
        finally:
            entry.is_pinned = False
        if not self._tiers.has(entry, Tier.RAM):  # it went on, or its call was cancelled
            if written is not None:
                self._remove_file(written[0])
        elif written is None:
            self._tiers.move(entry, Tier.TEXT, 0)
        else:
            self._files[entry] = written[0]
            self._tiers.move(entry, Tier.DISK, written[1])

    async def _write(self, snapshot: Snapshot) -> tuple[str, int] | None:
        """The name and size of the new file; None when the disk has no room. The oldest there make some."""
        size = snapshot.nbytes + OVERHEAD
        if size > self._swap.budget:
            return None
        while self._disk_room < size and (oldest := self._tiers.oldest(Tier.DISK)) is not None:
            self._remove_file(self._files.pop(oldest))
            self._tiers.move(oldest, Tier.TEXT, 0)
        name = f"{snapshot.about.key}@{snapshot.about.core}@{next(self._numbers)}"
        self._being_written += size
        try:
            return name, await self._run(_put, self._swap, name, snapshot)
        except OSError:
            self._num_failed += 1
            return None
        finally:
            self._being_written -= size

    async def _save(self, entry: Entry) -> None:
        """Leave `entry` on disk for the next start, as text if there is no room for more."""
        held = entry.held
        if entry.tier is Tier.DISK:
            name, size = self._files.pop(entry), entry.bytes
        else:
            if entry.tier is Tier.POOL and held.form == "logits":
                await self._to_ram(entry)
            snapshot = _snapshot(entry)
            written = await self._write(snapshot)
            if written is None and snapshot.form == "logits":
                written = await self._write(snapshot.as_text())
            if written is None:
                self._discard(entry)
                return
            name, size = written
        self._stored[held.key] = (Stored(held.key, held.core), name, size)
        self._discard(entry)

    # ── at an end ──

    def _discard(self, entry: Entry) -> None:
        self._leave_tier(entry)
        entry.held.forget()

    def _leave_tier(self, entry: Entry) -> None:
        if (name := self._files.pop(entry, None)) is not None:
            self._remove_file(name)
        self._tiers.remove(entry)

    def _remove_file(self, name: str) -> None:
        with contextlib.suppress(RuntimeError):  # closed: the next start sweeps it away
            self._disk.submit(self._swap.drop, name)

    # ── small things ──

    @property
    def _disk_room(self) -> int:
        """What the budget will leave when all that was asked of the disk is done."""
        stored = sum(size for _, _, size in self._stored.values())
        return self._swap.budget - self._tiers.bytes(Tier.DISK) - stored - self._being_written

    def _budgets(self) -> dict[str, int]:
        return {
            "ram_budget_bytes": self._ram_bytes,
            "disk_budget_bytes": self._swap.budget,
            "stored": len(self._stored),
            "disk_failures": self._num_failed,
        }

    def _gate(self, pool: Pool) -> _Gate:
        if (gate := self._gates.get(pool)) is None:
            gate = self._gates[pool] = _Gate()
        return gate

    async def _run(self, job: Callable[..., R], *args: Any) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._disk, job, *args)


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
    future = asyncio.get_running_loop().run_in_executor(None, job)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return future.result()


def _snapshot(entry: Entry) -> Snapshot:
    held = entry.held
    about = About(held.key, held.core, held.fingerprint, held.vocabulary)
    if entry.arrays is None:
        return TextSnapshot(about, held.state)
    return LogitsSnapshot(about, held.state, entry.arrays)


# ── on the disk's thread ──


def _put(swap: Swap, name: str, snapshot: Snapshot) -> int:
    return swap.put(name, snapshot.parts())


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
        snapshot, why = _salvaged(getattr(error, "rest", b"")), str(error)
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

"""Keeps stopped generations: in their pool, in host memory, on disk, as text. Knows no core, model, call or policy.

Who is kept where is decided by `tiers.py` and carried out by `moves.py`; `disk.py` has the files. All methods are
called on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

from .base import About, Array, Held, Pool, Stored, Swap, Thawed
from .disk import Disk
from .moves import Moves
from .text import TextSnapshot
from .tiers import Entry, Tier, Tiers


class ContextManager:
    """`ram_bytes` bounds what is kept in host memory, `swap` what is on disk; past both only text is kept.

    A generation that was begun can always go on: those that run fit their pool, and any other can leave it.
    """

    def __init__(self, swap: Swap, *, ram_bytes: int, now: Callable[[], float]) -> None:
        self._tiers = Tiers()
        self._disk = Disk(swap, now)
        self._moves = Moves(self._tiers, self._disk, ram_bytes)
        self._kept: frozenset[str] = frozenset()
        self._parting: dict[Entry, None] = {}
        self._leaving: dict[str, bytes] = {}
        """What calls of no core of ours go on from, until `flush` has saved it."""
        self._switches: Counter[Pool] = Counter()

    # ── for cores ──

    def room(self, pool: Pool, *, is_text: bool = False) -> int:
        """Bytes of `pool` that new generations may reserve: what is free, and what stopped ones can make free without
        losing what they have computed."""
        free = self._moves.ram_room + self._disk.room
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
        async with self._moves.gate(held.pool).lock:
            return await self._moves.bring_back(entry)

    async def make_room(self, pool: Pool, needed: int) -> None:
        """Make `needed` bytes of `pool` free, if stopped generations can make them so; who runs keeps its room."""
        gate = self._moves.gate(pool)
        if pool.room < needed or gate.lock.locked():
            async with gate.lock:
                await self._moves.clear(pool, needed)

    def freed(self, pool: Pool) -> None:
        """A generation of `pool` was stopped, or is over."""
        self._moves.freed(pool)

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
        return await self._disk.load(key, fingerprint, vocabulary)

    async def admit(self, held: Held, arrays: Sequence[Array] | None) -> str | None:
        """Give `held`, which was made of what `load` gave, its room in its pool; as `take`. Nothing is stored then."""
        async with self._moves.gate(held.pool).lock:
            why = await self._moves.admit(held, arrays)
            self._disk.forget(held.key)
            return why

    def drop_stored(self, key: str) -> None:
        """What is stored of call `key` is not needed; kept all the same if the call is to outlive the kernel."""
        if key not in self._kept:
            self._disk.forget(key)

    def statistics(self, pool: Pool | None = None) -> dict[str, Any]:
        """Generations and bytes in each tier, how many went on from there, switches, and how the disk failed them: of
        one pool, or of all."""
        health, of_tiers = self._disk.health, self._tiers.statistics(pool)
        if pool is not None:
            trouble = {"disk_trouble": health.trouble} if health.trouble is not None else {}
            failures = {"disk_failures": self._moves.failures[pool]}
            return {"switches": self._switches[pool], **of_tiers, **failures, **trouble}
        return {
            "switches": self._switches.total(),
            **of_tiers,
            "ram_budget_bytes": self._moves.ram_bytes,
            "disk_budget_bytes": self._disk.budget,
            "stored": self._disk.num_stored,
            "disk_failures": health.num_failed,
            "disk_spent": health.num_spent,
            "disk_is_failing": health.trouble is not None,
        }

    def forget_pool(self, pool: Pool) -> None:
        """`pool` is closed."""
        self._moves.forget(pool)
        self._switches.pop(pool, None)
        self._tiers.forget(pool)

    # ── for the kernel ──

    def open(self) -> None:
        """Look what an earlier run has left."""
        self._disk.open()

    def find(self, key: str) -> Stored | None:
        """What an earlier run has left of call `key`."""
        return self._disk.find(key)

    def sweep(self, keys: Collection[str]) -> None:
        """Forget what is stored of all calls but `keys`."""
        for key in self._disk.stored_but(keys):
            self.drop_stored(key)

    def keep(self, keys: Collection[str]) -> None:
        """The calls with these ids go on at the next start: what is dropped of theirs from now on is to be saved."""
        self._kept = frozenset(keys)

    def leave(self, key: str, state: bytes) -> None:
        """At the next start call `key` goes on from `state` (JSON), on any core that can; `flush` saves it."""
        self._leaving[key] = state

    def left(self, key: str) -> bytes:
        """What was left of call `key` by an earlier run. Reads a file of a few kilobytes. Raises SnapshotError, a
        ValueError, when it is of no use."""
        return self._disk.thawed(key, "", "").state

    async def flush(self, limit: float) -> None:
        """Write what is to be kept, for at most `limit` seconds; the calls whose turn does not come start anew."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while self._leaving:
                    key, state = self._leaving.popitem()
                    file = await self._moves.write(TextSnapshot(About(key, "", "", ""), state))
                    if file is not None:
                        self._disk.store(Stored(key, ""), file)
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
        await self._moves.over()
        await self._disk.close()

    def check_integrity(self) -> None:
        """Raises AssertionError when something is in no place, in two, or past a budget."""
        self._tiers.check_integrity()
        self._moves.check_integrity()

    async def _save(self, entry: Entry) -> None:
        """Leave `entry` on disk for the next start, if there is any room."""
        held, file = entry.held, await self._moves.saved(entry)
        if file is not None:
            self._disk.store(Stored(held.key, held.core), file)
        self._discard(entry, but=file)

    def _discard(self, entry: Entry, *, but: Any = None) -> None:
        self._moves.leave(entry, but=but)
        entry.held.forget()

"""How long answers are kept, and how the oldest go. Knows the journal's tables and no call's life."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import apsw

from ..database import Database, as_list, value

PURGE_STEP = 1000
"""Answers that go in one job, so that nobody waits long behind it."""


class Retention:
    """`keep` is seconds and `max_bytes` the bound for answers of calls with a key: the oldest go first."""

    def __init__(self, database: Database, *, keep: float, max_bytes: int, slack: float) -> None:
        self._database = database
        self._keep = keep
        self._max_bytes = max_bytes
        self._slack = slack
        self.kept_bytes = 0

    async def purge(self, now: float, alive: Collection[int]) -> int:
        """Forget answers older than `keep` seconds before `now` (since 1970), then the oldest until all fit into
        `max_bytes`, and processes as old but for those `alive` at `now`. Returns how many calls went."""
        cutoff, count = now - self._keep, 0
        running = as_list(list(alive))
        while True:
            forget = partial(_forget, cutoff=cutoff, slack=self._slack, alive=running)
            gone = await self._database.run(forget, frees=True)
            count += gone
            if gone >= PURGE_STEP:
                continue
            self.kept_bytes, oldest = await self._database.read_async(_weigh)
            if self.kept_bytes <= self._max_bytes or oldest is None or oldest >= now:
                return count
            cutoff = max(cutoff, oldest)


def _forget(connection: apsw.Connection, cutoff: float, slack: float, alive: str) -> int:
    """Drop at most PURGE_STEP answers that ended before `cutoff`, and what nobody refers to since then. `alive` is a
    JSON list of pids."""
    connection.execute(
        "DELETE FROM calls WHERE id IN (SELECT id FROM calls WHERE ended <= ? ORDER BY ended LIMIT ?)",
        (cutoff, PURGE_STEP),
    )
    gone = connection.changes()
    # A call that is open still needs its nodes, and they are never younger than it.
    oldest = value(connection, "SELECT min(opened) FROM calls WHERE state IS NULL")
    limit = cutoff if oldest is None else min(cutoff, oldest)
    connection.execute(
        "DELETE FROM nodes WHERE hash IN (SELECT hash FROM nodes WHERE used < ? ORDER BY used LIMIT ?)",
        (limit - slack, 4 * PURGE_STEP),
    )
    gone += connection.changes() // 4
    # While a key names a process, its program may come back and is known by its record. One that began at `cutoff` may
    # have begun after somebody looked who is alive.
    connection.execute(
        "DELETE FROM processes WHERE started < ? AND pid < (SELECT max(pid) FROM processes)"
        " AND pid NOT IN (SELECT value FROM json_each(?))"
        " AND pid NOT IN (SELECT pid FROM keys WHERE pid IS NOT NULL)"
        " AND pid NOT IN (SELECT pid FROM calls WHERE state IS NULL)",
        (cutoff, alive),
    )
    return gone


def _weigh(connection: apsw.Connection) -> tuple[int, float | None]:
    """Bytes of all answers and nodes, and the end of the oldest answers that may go next."""
    total = value(connection, "SELECT (SELECT total(size) FROM calls) + (SELECT total(size) FROM nodes)")
    oldest = value(
        connection,
        "SELECT max(ended) FROM (SELECT ended FROM calls WHERE ended IS NOT NULL ORDER BY ended LIMIT ?)",
        (PURGE_STEP,),
    )
    return int(total), oldest

"""Which old versions are not kept any more, by the rules of the configuration. Knows no content.

The newest version of a file always stays, and without a rule all of them do.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import apsw

from ..database import Database, rows, value
from .tree import Tree
from .versions import drop_before

LOOK = 1000
"""Files that are looked at together."""
BATCH = 20
"""Files that lose versions together, some hundreds each at most."""
DAY = 86_400.0


class Rules(NamedTuple):
    """A version stays if it is among the newest `keep_versions` of its file, or younger than `keep_days`. A rule that
    is not set keeps none."""

    keep_versions: int | None
    keep_days: float | None


class Due(NamedTuple):
    """A file whose versions below `first` are to go."""

    file: int
    scope: int
    first: int


class Pruning:
    def __init__(self, database: Database, rules: Rules) -> None:
        self._database = database
        self._rules = rules

    async def run(self, now: float) -> None:
        """Look at every file, and take out what is not kept any more. In small steps; their contents wait to be
        dropped."""
        if self._rules == (None, None):
            return
        after, is_last = 0, False
        while not is_last:
            after, is_last, due = await self._database.read_async(partial(self._look, after=after, now=now))
            while due:
                batch, due = due[:BATCH], due[BATCH:]
                due += await self._database.run(partial(_drop, batch=batch), frees=True)

    def _look(self, connection: apsw.Connection, after: int, now: float) -> tuple[int, bool, list[Due]]:
        """The files beyond `after`: where to look on, whether these are the last, and what is due."""
        found = rows(
            connection,
            "SELECT id, scope, version, oldest FROM files WHERE id > ? AND version > oldest AND kind = 'file'"
            " ORDER BY id LIMIT ?",
            (after, LOOK),
        )
        due = []
        for file, scope, newest, oldest in found:
            first = self._first_kept(connection, file, newest, now)
            if first > oldest:
                due.append(Due(file, scope, first))
        return (found[-1][0] if found else after), len(found) < LOOK, due

    def _first_kept(self, connection: apsw.Connection, file: int, newest: int, now: float) -> int:
        first = newest
        if self._rules.keep_versions is not None:
            first = min(first, newest - self._rules.keep_versions + 1)
        if self._rules.keep_days is not None:
            since = now - self._rules.keep_days * DAY
            young = value(
                connection, "SELECT min(version) FROM versions WHERE file = ? AND created >= ?", (file, since)
            )
            first = min(first, young or newest)
        return first


def _drop(connection: apsw.Connection, batch: list[Due]) -> list[Due]:
    """Those that are not done yet."""
    return [due for due in batch if drop_before(Tree.of(connection, due.scope), due.file, due.first)]

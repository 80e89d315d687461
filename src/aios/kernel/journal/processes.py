"""Processes that made calls, on record, so that pids go on after a restart and an old key has its process. Knows no
call."""

from __future__ import annotations

import apsw

from aios.abi.errors import AiosError

from ..database import Database, row, value
from ..process import Process


class ProcessRecords:
    """Each process is recorded once, with its first call."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, process: Process) -> None:
        process.is_recorded = True
        row = (
            process.pid,
            process.agent,
            process.owner,
            process.parent,
            process.nice,
            process.command,
            process.started_wall,
            process.window,
            process.memory,
        )

        def job(connection: apsw.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO processes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

        def then(_: None, error: AiosError | None) -> None:
            process.is_recorded = error is None  # when the disk is full, the process's next call tries again

        self._database.submit(job, then)

    def last_pid(self) -> int:
        # A process may have found no room on a full disk while its call did.
        sql = (
            "SELECT max(pid) FROM (SELECT pid FROM processes UNION ALL SELECT pid FROM keys"
            " UNION ALL SELECT pid FROM calls WHERE state IS NULL)"
        )
        return self._database.read(lambda c: value(c, sql)) or 0

    def find(self, pid: int) -> Process | None:
        sql = "SELECT agent, owner, parent, nice, command, started, window, memory FROM processes WHERE pid = ?"
        found = self._database.read(lambda c: row(c, sql, (pid,)))
        if found is None:
            return None
        agent, owner, parent, nice, command, started, window, memory = found
        known = Process(pid, agent, owner, parent, nice, command, started_wall=started, is_recorded=True)
        known.window, known.memory = window, memory
        return known

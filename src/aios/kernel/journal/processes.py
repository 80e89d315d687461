"""Processes that made calls, on record, so that pids go on after a restart and an old key has its process. Knows no
call."""

from __future__ import annotations

import apsw

from ..database import Database, row, value
from ..process import Process


class ProcessRecords:
    """Each process is recorded once, with its first call."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.pids: set[int] = set()
        """Those that are on record, or about to be."""

    def add(self, process: Process) -> None:
        pid = process.pid
        self.pids.add(pid)
        row = (
            pid, process.agent, process.owner, process.parent, process.nice, process.command, process.started_wall,
        )  # fmt: skip

        def job(connection: apsw.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO processes VALUES (?, ?, ?, ?, ?, ?, ?)", row)

        # When the disk is full, the process's next call tries again.
        self._database.submit(job, lambda _, error: self.pids.discard(pid) if error is not None else None)

    def last_pid(self) -> int:
        sql = "SELECT max(pid) FROM (SELECT pid FROM processes UNION ALL SELECT pid FROM keys)"
        return self._database.read(lambda c: value(c, sql)) or 0

    def find(self, pid: int) -> Process | None:
        sql = "SELECT agent, owner, parent, nice, command, started FROM processes WHERE pid = ?"
        found = self._database.read(lambda c: row(c, sql, (pid,)))
        if found is None:
            return None
        agent, owner, parent, nice, command, started = found
        return Process(pid, agent, owner, parent, nice, command, started_wall=started)

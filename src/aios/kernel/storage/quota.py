"""What one payer may keep in files, counted with each write. Knows no path."""

from __future__ import annotations

from typing import NamedTuple

import apsw

from aios.abi.errors import TooLarge

from ..database import add_kept, kept
from ..process import Place

ROOM = "storage"
VERSION_BYTES = 100
"""What a version counts beside its content, so that empty ones are not free."""
HOW_TO_MAKE_ROOM = (
    "clear some first, files that are not needed or were written often: sto_clear moves them to the trash, and "
    "sto_clear with 'trash' empties it for good, which takes a key that is no process's ('aios keys new')"
)


class Quota(NamedTuple):
    """Bounds for each payer. `max_bytes` is of all versions, `max_entries` of files and folders; the trash counts. At
    them writes are refused: nothing leaves the trash before somebody says so."""

    max_bytes: int
    max_entries: int = 2_000_000

    def check(self, connection: apsw.Connection, payer: Place, entries: int, size: int) -> None:
        """Raises TooLarge when so much more is too much."""
        there = kept(connection, ROOM, *payer)
        if there.entries + entries > self.max_entries:
            raise TooLarge(
                f"an agent, or a mount, may keep {self.max_entries:,} files and folders, its trash among them; "
                f"{HOW_TO_MAKE_ROOM}",
                code="too_many_files",
            )
        if there.bytes + size > self.max_bytes:
            raise TooLarge(
                f"an agent, or a mount, may keep {self.max_bytes:,} bytes of files ([storage] limit), older versions "
                f"and its trash among them, and this would be {there.bytes + size:,}; {HOW_TO_MAKE_ROOM}",
                code="storage_of_agent_full",
            )

    def keep(self, connection: apsw.Connection, payer: Place, entries: int, size: int) -> None:
        """Count so much more. Raises TooLarge."""
        self.check(connection, payer, entries, size)
        add_kept(connection, ROOM, *payer, entries, size)


def forget(connection: apsw.Connection, payer: Place, entries: int, size: int) -> None:
    """Count so much less."""
    add_kept(connection, ROOM, *payer, -entries, -size)

"""Whether the store takes writes, and if it does not, the sentence that says why. Knows no thread and no job."""

from __future__ import annotations

import logging
from pathlib import Path

import apsw
import msgspec

from aios.abi.errors import AiosError, Stopping

log = logging.getLogger("aios.database")

FULL = (apsw.FullError, apsw.IOError)
"""Faults of the disk: it is full, or a quota is, or it fails."""

SPOILS_GROUP = (
    *FULL, apsw.CorruptError, apsw.NotADBError, apsw.ReadOnlyError, apsw.CantOpenError, apsw.NoMemError,
    apsw.BusyError, apsw.LockedError, apsw.ProtocolError, apsw.PermissionsError,
)  # fmt: skip
"""Faults of the store, not of a job: nothing of the group was written."""

BUGS = (
    apsw.Error, ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError,
    ValueError, msgspec.MsgspecError,
)  # fmt: skip
"""What a faulty job may raise. It becomes that job's KernelFault; the others of its group are committed."""

RETRY_AFTER = 5.0


class Health:
    """Shared by the threads of one store. `is_full` and `poison` are set where a write fails, and read everywhere."""

    def __init__(self, path: Path, *, is_durable: bool) -> None:
        self.path = path
        self.is_durable = is_durable
        self.is_full = False
        """Only what makes room is written now."""
        self.is_closed = False
        self.poison: str | None = None
        """Why nothing is written any more until the kernel is started again."""

    @property
    def can_write(self) -> bool:
        return not (self.is_full or self.is_closed or self.poison is not None)

    def note_sync(self, error: apsw.Error) -> None:
        """After a failed fsync in durable mode what the disk holds is unknown: a second one may report success for
        pages that it dropped."""
        if self.is_durable and getattr(error, "extendedresult", 0) in FAILED_SYNC:
            self.poison = f"an fsync of the kernel's store failed ({error})"
            log.critical("an fsync of %s failed: nothing more is acknowledged", self.path)

    def poisoned(self) -> AiosError:
        return Stopping(
            f"{self.poison}: nothing more is accepted until the kernel is restarted on a disk that works",
            code="storage_failed",
        )

    def full(self, error: object) -> AiosError:
        """What a write hears that found no room."""
        return Stopping(
            f"the disk that holds {self.path.parent} is full or fails ({error}): nothing was recorded; free some space "
            "there, or clear what is not needed: mem_clear, and sto_clear with 'trash', are still carried out. "
            "Writing goes on by itself when there is room",
            code="storage_full",
            retry_after=RETRY_AFTER,
        )

    def unusable(self, error: apsw.Error) -> AiosError:
        log.error("%s cannot be used: %s", self.path, error)
        hint = ""
        if isinstance(error, apsw.CorruptError | apsw.NotADBError):
            hint = ": 'aios fs check' says what is hit, 'aios fs restore' brings a backup back"
        return Stopping(f"the kernel's store {self.path} cannot be used ({error}){hint}", code="storage_failed")

    def no_memory(self) -> AiosError:
        log.exception("no memory to write %s", self.path)
        return Stopping(
            "the kernel has no memory left to record this: nothing was recorded; try again with less",
            code="storage_failed",
            retry_after=RETRY_AFTER,
        )


FAILED_SYNC = (apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC)


def closed() -> AiosError:
    return Stopping("the kernel's store is closed: the kernel is stopping")

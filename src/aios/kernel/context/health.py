"""Whether snapshots can be kept on disk, and who was told. Knows no file, snapshot or thread.

People hear when it begins to fail and when it works again, not of each failure; a disk that keeps turning from one to
the other is told of once a minute.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("aios.context")

QUIET_SECONDS = 60.0
"""So long after one warning there is no other."""
FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.ENOENT)


class Health:
    """Of the disk that `folder` is on. `trouble` is why nothing can be kept there now; None while nothing is wrong."""

    def __init__(self, folder: Path, now: Callable[[], float]) -> None:
        self.trouble: str | None = None
        self.num_failed = 0
        """Snapshots that could not be written or read back."""
        self.num_spent = 0
        """Generations of which the text alone was kept, since the budget had no room for more."""
        self._folder = folder
        self._now = now
        self._told_at: float | None = None
        self._is_told = False

    def refused(self, error: OSError | MemoryError) -> None:
        """A snapshot could not be written: what the operating system said of that."""
        self.num_failed += 1
        said, code = (error.strerror, error.errno) if isinstance(error, OSError) else (None, None)
        why = said or str(error) or "out of memory"
        self.trouble = why
        if self._is_told or (self._told_at is not None and self._now() - self._told_at < QUIET_SECONDS):
            return
        self._is_told, self._told_at = True, self._now()
        log.warning(
            "suspended generations are not kept on disk: %s cannot be written (%s); %s. Until then what does not fit "
            "into memory is kept as text and computed again",
            self._folder, why, _advice(code),
        )  # fmt: skip

    def taken(self) -> None:
        """A snapshot was written."""
        self.trouble = None
        if self._is_told:
            self._is_told = False
            log.warning("suspended generations are kept on disk again, in %s", self._folder)

    def misread(self) -> None:
        """A snapshot could not be read back; the trace of its call says why."""
        self.num_failed += 1

    def spent(self, budget: int) -> None:
        """The budget has no room for a generation's snapshot, or has none for an older one any more."""
        self.num_spent += 1
        if self.num_spent == 1 and budget:
            log.warning(
                "suspended generations fill [context] disk_bytes = %d, in %s: of the oldest the text alone is kept, "
                "and computed again. Give disk_bytes or ram_bytes more, or the cores fewer slots or more kv_bytes",
                budget, self._folder,
            )  # fmt: skip


def _advice(code: int | None) -> str:
    if code in FULL:
        return "make room on its disk"
    if code in CLOSED:
        return "let the kernel write there"
    return "look whether its disk is sound"

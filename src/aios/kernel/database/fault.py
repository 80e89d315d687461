"""What a check of the store found wrong. Knows no table."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """`where` says which thing of which room, `what` is wrong with it, and `mend` what a repair does about it."""

    where: str
    what: str
    mend: str

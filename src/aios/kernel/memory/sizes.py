"""What Python's objects take of the memory, so that a budget in bytes is one. Knows nothing of what they mean."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Any, TypeVar

BYTES = sys.getsizeof(b"")
TUPLE = sys.getsizeof(())
FLOAT = sys.getsizeof(0.5)
INT = sys.getsizeof(1 << 50)
POINTER = 8
ROOMY = 320
"""Bytes an item above which a table has much more room than it needs. One that only grew has at most half of that."""

Table = TypeVar("Table", dict[int, Any], OrderedDict[int, Any])


def fitted(table: Table) -> Table:
    """`table`, or a copy without the room that what has left it took: Python's own never shrink by what leaves."""
    return type(table)(table) if sys.getsizeof(table) > ROOMY * (len(table) + 8) else table

"""Stopped generations: where each is kept until it goes on, and in which form."""

from .base import Held, Snapshot, SnapshotError, Stored
from .manager import ContextManager

__all__ = ["ContextManager", "Held", "Snapshot", "SnapshotError", "Stored"]

"""The context manager: stopped generations, and what of a conversation fits a model's window."""

from .base import Held, Snapshot, SnapshotError, Stored
from .manager import ContextManager
from .window_fit import Windows

__all__ = ["ContextManager", "Held", "Snapshot", "SnapshotError", "Stored", "Windows"]

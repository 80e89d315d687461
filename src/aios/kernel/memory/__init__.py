"""What agents remember: entries that are kept, listed and found again, and copies of those in use in memory."""

from .check import check, repair
from .manager import MemoryManager

__all__ = ["MemoryManager", "check", "repair"]

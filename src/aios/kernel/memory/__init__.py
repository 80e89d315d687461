"""What agents remember: entries that are kept, listed and found again."""

from .manager import MemoryManager

__all__ = ["MemoryManager"]

"""What agents remember: entries that are kept, listed and found again, and copies of those in use in memory."""

from .check import check, repair
from .distil import Distiller
from .manager import MemoryManager
from .runtime import RuntimeMemory

__all__ = ["Distiller", "MemoryManager", "RuntimeMemory", "check", "repair"]

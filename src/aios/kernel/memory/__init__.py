"""What agents remember: entries that are kept, listed and found again."""

from .distil import Distiller
from .manager import MemoryManager
from .runtime import RuntimeMemory

__all__ = ["Distiller", "MemoryManager", "RuntimeMemory"]

"""Files of agents: every write is a version, every clear can be undone."""

from .manager import StorageManager
from .segments import Segments
from .swap import Swap, SwapError

__all__ = ["Segments", "StorageManager", "Swap", "SwapError"]

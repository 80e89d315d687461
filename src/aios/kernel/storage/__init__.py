"""Files of agents: every write is a version, every clear can be undone."""

from .manager import StorageManager
from .swap import Swap, SwapError

__all__ = ["StorageManager", "Swap", "SwapError"]

"""Files of agents: every write is a version, every clear can be undone."""

from .manager import StorageManager
from .outlet import Opened
from .segments import Segments
from .streams import Sent, Streams
from .swap import Swap, SwapError

__all__ = ["Opened", "Segments", "Sent", "StorageManager", "Streams", "Swap", "SwapError"]

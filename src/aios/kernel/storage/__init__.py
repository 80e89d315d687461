"""Files of agents: every write is a version, every clear can be undone."""

from .manager import StorageManager

__all__ = ["StorageManager"]

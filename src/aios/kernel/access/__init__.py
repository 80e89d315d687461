"""Who may do what: keys and the check that every call passes."""

from .base import CheckCount, Lookup
from .groups import Groups
from .keys import KeyInfo, Keys
from .manager import RULES, AccessManager

__all__ = ["RULES", "AccessManager", "CheckCount", "Groups", "KeyInfo", "Keys", "Lookup"]

"""LLM cores: each model behind one interface, and the manager that hands them calls."""

from .base import Core, CoreInfo, Request, SwapsOut
from .manager import LLMManager
from .plug import Plug
from .prices import Prices
from .roster import CoreState, Roster, Seat
from .router import Router

__all__ = [
    "Core",
    "CoreInfo",
    "CoreState",
    "LLMManager",
    "Plug",
    "Prices",
    "Request",
    "Roster",
    "Router",
    "Seat",
    "SwapsOut",
]

"""LLM cores: each model behind one interface, and the manager that hands them calls."""

from .base import Core, CoreInfo, Request, SwapsOut
from .manager import LLMManager
from .prices import Prices
from .router import Router

__all__ = ["Core", "CoreInfo", "LLMManager", "Prices", "Request", "Router", "SwapsOut"]

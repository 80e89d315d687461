"""AIOS, an operating system for LLM agents. This is its door for those who write agents.

Importing it does no work: a name is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sdk import Agent, AsyncClient, Client, tool

__version__ = "0.1.0"
__all__ = ["Agent", "AsyncClient", "Client", "__version__", "tool"]

_FROM_SDK = frozenset({"Agent", "AsyncClient", "Client", "tool"})


def __getattr__(name: str) -> Any:
    if name not in _FROM_SDK:
        raise AttributeError(f"module 'aios' has no attribute '{name}'")
    value = getattr(importlib.import_module("aios.sdk"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""The tool room's door. `ToolManager` is loaded when asked for: workers pass here and do without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .manager import ToolManager

__all__ = ["ToolManager"]


def __getattr__(name: str) -> Any:
    if name != "ToolManager":
        raise AttributeError(f"module 'aios.kernel.tool' has no attribute '{name}'")
    from .manager import ToolManager

    return ToolManager

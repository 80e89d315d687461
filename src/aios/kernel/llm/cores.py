"""Makes a core from its section of the configuration. The only file that knows every kind of core."""

from __future__ import annotations

from ..config import CoreSection
from .base import Core


def make_core(section: CoreSection) -> Core:
    """The core that `section` asks for, not yet open. Kinds are imported when used: each has its own weight."""
    if section.kind == "nano":
        from .nano import NanoCore

        return NanoCore(section.name, slots=section.slots, kv_bytes=section.kv_bytes, prefix_bytes=section.prefix_bytes)
    if section.kind == "local":
        from .folder import FolderCore

        return FolderCore(section)
    if section.kind == "anthropic":
        from .anthropic import AnthropicCore

        return AnthropicCore(section)
    from .openai import OpenAICore

    return OpenAICore(section)

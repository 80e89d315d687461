"""Makes a core from its section of the configuration. The only file that knows every kind of core."""

from __future__ import annotations

from pathlib import Path

from aios.abi.home import home_path

from ..config import CoreSection
from .base import Core


def make_core(section: CoreSection, home: Path | None = None) -> Core:
    """The core that `section` asks for, not yet open. Kinds are imported when used: each has its own weight.

    `home` is where a core may keep files, in a folder of its own.
    """
    if section.kind == "nano":
        from .nano import NanoCore

        return NanoCore(
            section.name,
            slots=section.slots,
            kv_bytes=section.kv_bytes,
            prefix_bytes=section.prefix_bytes,
            snapshot=section.snapshot or "logits",
        )
    if section.kind == "local":
        from .folder import FolderCore

        return FolderCore(section, home)
    if section.kind == "gguf":
        from .gguf.core import GgufCore
        from .gguf.embed import GgufEmbedCore

        kind = GgufEmbedCore if section.embeddings else GgufCore
        return kind(section, home or home_path())
    if section.kind == "anthropic":
        from .remote.anthropic import AnthropicCore

        return AnthropicCore(section)
    if section.kind == "embed":
        from .sentences import SentenceCore

        return SentenceCore(section)
    from .remote.openai import OpenAICore

    return OpenAICore(section)

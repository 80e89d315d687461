"""The configuration: read once, checked whole, then frozen. Knows nothing about what the settings do; each room takes
its own section."""

from .base import ByteSize, ConfigError, Section, byte_size
from .cores import HUB_NAME, CoreSection, Price, PriceSection, check_url, model_of
from .load import load, parse, read_core
from .sections import (
    Config,
    ContextSection,
    GroupSection,
    JournalSection,
    MemorySection,
    ModelSection,
    MountSection,
    RouterSection,
    Scheduler,
    SearchSection,
    Server,
    StorageSection,
    ToolSection,
)

__all__ = [
    "HUB_NAME",
    "ByteSize",
    "Config",
    "ConfigError",
    "ContextSection",
    "CoreSection",
    "GroupSection",
    "JournalSection",
    "MemorySection",
    "ModelSection",
    "MountSection",
    "Price",
    "PriceSection",
    "RouterSection",
    "Scheduler",
    "SearchSection",
    "Section",
    "Server",
    "StorageSection",
    "ToolSection",
    "byte_size",
    "check_url",
    "load",
    "model_of",
    "parse",
    "read_core",
]

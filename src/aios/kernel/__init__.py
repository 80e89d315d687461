"""The kernel. This is its door: what a gateway, an SDK in the same program, or a test may use.

Names are loaded when first asked for, so that importing one small file of the kernel does not load every room.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backup import restore_backup, take_backup
    from .check import check_home, repair_home
    from .config import (
        ByteSize,
        Config,
        ConfigError,
        CoreSection,
        GroupSection,
        MemorySection,
        MountSection,
        RouterSection,
        Scheduler,
        load,
        parse,
        read_core,
    )
    from .kernel import Kernel
    from .process import Principal, Process
    from .secret import check_key
    from .syscall import State, Syscall
    from .trace import Row
    from .transfers import Opened

_PLACES = {
    "ByteSize": "config",
    "Config": "config",
    "ConfigError": "config",
    "CoreSection": "config",
    "GroupSection": "config",
    "Kernel": "kernel",
    "Opened": "transfers",
    "MemorySection": "config",
    "MountSection": "config",
    "Principal": "process",
    "Process": "process",
    "RouterSection": "config",
    "Row": "trace",
    "Scheduler": "config",
    "State": "syscall",
    "Syscall": "syscall",
    "check_home": "check",
    "check_key": "secret",
    "load": "config",
    "parse": "config",
    "read_core": "config",
    "repair_home": "check",
    "restore_backup": "backup",
    "take_backup": "backup",
}

__all__ = [
    "ByteSize",
    "Config",
    "ConfigError",
    "CoreSection",
    "GroupSection",
    "Kernel",
    "MemorySection",
    "MountSection",
    "Opened",
    "Principal",
    "Process",
    "RouterSection",
    "Row",
    "Scheduler",
    "State",
    "Syscall",
    "check_home",
    "check_key",
    "load",
    "parse",
    "read_core",
    "repair_home",
    "restore_backup",
    "take_backup",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'aios.kernel' has no attribute '{name}'")
    return getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)

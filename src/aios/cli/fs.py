"""Agents' files: look at them, change them, go back. Without --agent they are those of the key in use."""

from __future__ import annotations

from . import fs_files, fs_home, fs_mounts

commands = {**fs_files.commands, **fs_mounts.commands, **fs_home.commands}

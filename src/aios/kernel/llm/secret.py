"""Where a core's key is: an environment variable, or a file of its owner's alone. Knows no server and keeps no log."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from aios.abi.errors import ModuleFault

from ..config import CoreSection

MAX_KEY = 16 << 10


class Secret:
    """A key that is read when it is used: `text()` follows a file that is replaced. It is never shown."""

    def __init__(self, section: CoreSection) -> None:
        self._core = section.name
        self._env = section.api_key_env
        self._file = None if section.api_key_file is None else Path(section.api_key_file).expanduser()
        self._seen: tuple[int, int, int] | None = None
        self._text = ""

    @property
    def place(self) -> str:
        """Where people have to look, for an error."""
        if self._file is not None:
            return str(self._file)
        return f"${self._env}" if self._env else "[[core]] api_key_env or api_key_file, of which none is set"

    def text(self) -> str:
        """The key, "" when there is none. Raises ModuleFault for a file that cannot be used."""
        if self._file is None:
            return os.environ.get(self._env, "") if self._env else ""
        try:
            found = self._file.stat()
        except OSError as error:
            raise self._fault(f"cannot be read: {error.strerror}") from None
        mark = (found.st_mtime_ns, found.st_size, found.st_ino)
        if mark != self._seen:
            self._text = self._read(found)
            self._seen = mark
        return self._text

    def _read(self, found: os.stat_result) -> str:
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_KEY:
            raise self._fault("is no file that holds a key and nothing else")
        if os.name == "posix" and found.st_mode & 0o077:
            raise self._fault(f"can be read by others (mode {found.st_mode & 0o777:o}); chmod 600 it")
        try:
            assert self._file is not None
            text = self._file.read_text(encoding="ascii").strip()
        except OSError as error:
            raise self._fault(f"cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise self._fault("holds more than one line of ASCII") from None
        if not text or not text.isprintable() or " " in text:
            raise self._fault("must hold one key on one line, and nothing else")
        return text

    def scrubbed(self, message: str) -> str:
        """`message` without the key, if a server repeats it."""
        key = self._text or (os.environ.get(self._env, "") if self._env else "")
        return message.replace(key, "[key]") if len(key) >= 4 else message

    def _fault(self, why: str) -> ModuleFault:
        return ModuleFault(f"core '{self._core}': its api_key_file {self._file} {why}", code="no_upstream_key")

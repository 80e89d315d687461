"""Where a core's key is: an environment variable, or a file of its owner's alone. Knows no server and keeps no log."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from aios.abi.home import home_path

from .config import ConfigError, CoreSection

MAX_KEY = 16 << 10
OWN_KEY = "admin.key"


def check_key(section: CoreSection) -> None:
    """Raise ConfigError when a core's key cannot be had as it is configured."""
    if not Secret(section).text() and section.api_key_env is not None:
        raise ConfigError(f"core '{section.name}': its key is read from {section.api_key_env}, which is not set")


class Secret:
    """A key that is read when it is used: `text()` follows a file that is replaced. It is never shown."""

    def __init__(self, section: CoreSection) -> None:
        self._core = section.name
        self._env = section.api_key_env
        self._file = section.api_key_file
        self._path: Path | None = None
        self._seen: tuple[int, int, int] | None = None
        self._text = ""

    @property
    def source(self) -> str:
        """Where people have to look, for an error."""
        if self._file is not None:
            return self._file
        return f"${self._env}" if self._env else "[[core]] api_key_env, which is not set"

    def text(self) -> str:
        """The key, "" when there is none. Raises ConfigError for a file that cannot be used."""
        if self._file is None:
            return os.environ.get(self._env, "") if self._env else ""
        path = self._path = self._path or self._place(self._file)
        try:
            found = path.stat()
            mark = (found.st_mtime_ns, found.st_size, found.st_ino)
            if mark != self._seen:
                self._text, self._seen = self._read(path, found), mark
        except OSError as error:
            raise self._fault(f"cannot be read: {error.strerror}") from None
        return self._text

    def scrubbed(self, message: str) -> str:
        """`message` without the key, if a server repeats it."""
        key = self._text or (os.environ.get(self._env, "") if self._env else "")
        return message.replace(key, "[key]") if len(key) >= 4 else message

    def _place(self, name: str) -> Path:
        home = home_path().resolve()
        path = (home / name).resolve()
        if not path.is_relative_to(home):
            raise self._fault(f"is outside the home {home}, where programs of agents could read it")
        if path == home / OWN_KEY:
            raise self._fault("is the kernel's own key, which no server may have; put the server's into another file")
        return path

    def _read(self, path: Path, found: os.stat_result) -> str:
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_KEY:
            raise self._fault("must hold one line, the key")
        if os.name == "posix" and found.st_mode & 0o077:
            raise self._fault(f"can be read by others (mode {found.st_mode & 0o777:o}); chmod 600 it")
        try:
            key = path.read_text(encoding="ascii").strip()
        except UnicodeDecodeError:
            raise self._fault("is not plain ASCII text") from None
        if not key.isprintable() or not key:
            raise self._fault("must hold one line, the key")
        return key

    def _fault(self, why: str) -> ConfigError:
        return ConfigError(f"core '{self._core}': api_key_file {self._file} {why}")

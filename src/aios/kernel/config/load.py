"""Reading the configuration: once, checked whole, then frozen. Unknown keys are errors that name the nearest one."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from aios.abi.home import home_path

from .base import ByteSize, ConfigError, byte_size
from .checks import check
from .cores import DEFAULT_CORES, CoreSection, check_core
from .explain import explain
from .sections import Config


def load(path: Path | None = None, *, home: Path | None = None) -> Config:
    """The configuration in `path`, else in the home's `aios.toml` if there is one, else the defaults.

    Raises ConfigError. Without any [[core]] there is the packaged one, and it is the router's default.
    """
    if path is None:
        path = (home or home_path()) / "aios.toml"
        if not path.exists():
            return parse("", str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read the configuration {path}: it is not UTF-8 at byte {error.start}") from None
    return parse(text, str(path))


def parse(text: str, where: str = "aios.toml") -> Config:
    """The configuration in `text` (TOML). Raises ConfigError that names `where` and the key."""
    try:
        raw = tomllib.loads(text)
        config = msgspec.convert(raw, Config, dec_hook=_decode)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not valid TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {explain(error)}") from None
    if not config.core:
        default = config.router.default or DEFAULT_CORES[0].name
        router = msgspec.structs.replace(config.router, default=default)
        config = msgspec.structs.replace(config, core=DEFAULT_CORES, router=router)
    check(config, where)
    return config


def read_core(raw: Any, where: str) -> CoreSection:
    """`raw` (decoded JSON or TOML) as a [[core]] section. Raises ConfigError that names `where` and the key."""
    try:
        section = msgspec.convert(raw, CoreSection)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, CoreSection)}") from None
    check_core(section, where)
    return section


def _decode(kind: type, raw: Any) -> Any:
    """What is written in a way of its own. msgspec turns the ValueError into one that names the place."""
    if kind is ByteSize:
        return byte_size(raw)
    raise NotImplementedError(kind)

"""What all sections of the configuration are made of. Knows none of them."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, Struct

from aios.abi.errors import BadRequest

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Weight = Annotated[float, Meta(gt=0, le=1000)]
CoreName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class ConfigError(BadRequest):
    """The configuration cannot be used: which file, which key, why."""

    default_code = "bad_config"


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections."""


class ByteSize(int):
    """Bytes, written as a whole number or as "64MiB"."""


SIZES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def byte_size(text: str | int) -> ByteSize:
    """The number of bytes that `text` says. Raises ValueError that says how to write it."""
    if isinstance(text, int) and not isinstance(text, bool):
        number, unit = float(text), ""
    else:
        found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([A-Za-z]*)\s*", str(text))
        if found is None or found[2] not in SIZES:
            raise ValueError(f'expected bytes, such as 1048576 or "64MiB" (B, KiB, MiB, GiB, TiB), got {text!r:.50}')
        number, unit = float(found[1]), found[2]
    if not 0 <= number * SIZES[unit] <= 1 << 50:
        raise ValueError(f"expected bytes from 0 to 1024TiB, got {text!r:.50}")
    return ByteSize(int(number * SIZES[unit]))

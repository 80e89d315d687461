"""What all argument and result structs are made of: their bases, effects, and the types of common fields."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from msgspec import Meta, Struct

Text = Annotated[str, Meta(max_length=1 << 20)]
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""No control characters: names are shown on terminals."""
Query = Annotated[str, Meta(max_length=4096)]
Path = Annotated[str, Meta(min_length=1, max_length=1024)]
Pid = Annotated[int, Meta(ge=1, le=2**53)]
Limit = Annotated[int, Meta(ge=1, le=1000)]
Number = Annotated[int, Meta(ge=1, le=2**53)]
Weight = Annotated[float, Meta(ge=0, le=1)]
Time = Annotated[float, Meta(ge=0, le=1e12)]
"""Seconds since 1970."""


class Effect(Enum):
    """What running a call may change. Only `PURE` and `READ` may be run again without asking."""

    PURE = "pure"
    READ = "read"
    WRITE = "write"
    EGRESS = "egress"
    IRREVERSIBLE = "irreversible"


class Args(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all argument structs."""


class Result(Struct, frozen=True, kw_only=True):
    """Base of all result structs."""


class Count(Result, frozen=True):
    count: int


class Empty(Result, frozen=True):
    pass

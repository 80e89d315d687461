"""What the kernel and a tool's worker process say to each other: length-prefixed JSON. Knows no process, no socket."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct, field

from aios.abi.tools import ToolManifest

MAX_FRAME = 8 << 20
"""Bytes. A worker that says more at once is not to be trusted any further."""

PREFIX = 4
T = TypeVar("T")


class Here(Struct, frozen=True):
    """The worker's first word: it is up, and comes to the file next. What goes wrong before is no fault of the file.

    `is_contained`: whatever the tools start dies with the worker, since it lives in a pid namespace.
    """

    is_contained: bool


class Hello(Struct, frozen=True):
    """The worker's second word: its tools, or why its module could not be loaded."""

    tools: list[ToolManifest] = field(default_factory=list)
    error: str | None = None


class Request(Struct, frozen=True):
    id: int
    tool: str
    arguments: dict[str, Any]


class Reply(Struct, frozen=True):
    """`content` is cut already. `id` is the request's: a reply to another one is a lie."""

    id: int
    content: str
    is_error: bool = False
    data: Any = None


def pack(message: Struct) -> bytes:
    body = msgspec.json.encode(message)
    return len(body).to_bytes(PREFIX, "big") + body


def size_of(prefix: bytes) -> int:
    """Bytes of the body that follows. Raises ValueError beyond `MAX_FRAME`."""
    size = int.from_bytes(prefix, "big")
    if size > MAX_FRAME:
        raise ValueError(f"a frame of {size:,} bytes")
    return size


def unpack(body: bytes, kind: type[T]) -> T:
    """Raises ValueError for what is not a `kind`."""
    return msgspec.json.decode(body, type=kind)

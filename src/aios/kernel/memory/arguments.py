"""What arguments of memory calls must be, beside their types: looked at before a call is queued. Knows no block."""

from __future__ import annotations

from typing import Any

import msgspec

from aios.abi.calls import MemUpdate
from aios.abi.errors import AiosError, BadRequest, TooLarge

from .base import MAX_CONTENT, MAX_METADATA
from .entries import number_of


def number_after(id: str) -> int:
    """Of the entry after which a list goes on. Raises BadRequest for what is no id."""
    try:
        return number_of(id)
    except AiosError:
        raise BadRequest(
            f"'after' is the id of the last entry seen, and {id[:80]!r} is none", code="bad_arguments", param="after"
        ) from None


def check_entry(content: str, metadata: dict[str, Any], source: str | None) -> None:
    """Raises BadRequest, TooLarge. An empty entry is one: what it says may be in its metadata."""
    try:
        size = len(content.encode())
        num_bytes = len(msgspec.json.encode((metadata, source)))
    except UnicodeEncodeError:
        raise BadRequest("the entry holds text that is not valid Unicode (half a surrogate pair)") from None
    if size > MAX_CONTENT:
        raise TooLarge(f"an entry holds at most {MAX_CONTENT:,} bytes, this one has {size:,}", param="content")
    if num_bytes > MAX_METADATA:
        raise TooLarge(f"metadata may be {MAX_METADATA:,} bytes of JSON, this is {num_bytes:,}", param="metadata")


def check_update(args: MemUpdate) -> None:
    if args.content is None and args.kind is None and args.metadata is None and args.importance is None:
        raise BadRequest(
            "mem_update changes nothing: give it content, kind, metadata or importance", code="bad_arguments"
        )
    check_entry(args.content or "", args.metadata or {}, None)

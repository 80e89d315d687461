"""Arguments and results of the memory calls. A block is a named part of an agent's memory, or of a group's.

Without `block` a call is about the agent's own main block.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from .call import Args, Limit, Name, Query, Result, Time, Weight

EntryKind = Literal["dialogue", "observation", "tool_call", "note", "fact"]
SearchMode = Literal["hybrid", "keyword", "vector"]


class MemAlloc(Args, frozen=True):
    """What a block may take of the kernel's memory: `limit` bytes, as the kernel counts them. Above `watermark` of it
    entries leave for disk, those first whose `k`-th last use is longest ago; they are read back when asked for."""

    limit: Annotated[int, Meta(ge=4096, le=1 << 50)] | None = None
    watermark: Annotated[float, Meta(ge=0.1, le=1)] | None = None
    k: Annotated[int, Meta(ge=1, le=16)] | None = None
    block: Name | None = None


class MemWrite(Args, frozen=True):
    """An entry holds up to a megabyte, and may be empty: its metadata says something too. `source` is where it comes
    from, as the agent names it; `importance` from 0 to 1 is for searches that weigh it. With `distil` a model makes
    notes, tags and links of it, and merges facts that it contradicts."""

    content: str
    kind: EntryKind = "note"
    metadata: dict[str, Any] = field(default_factory=dict)
    source: Annotated[str, Meta(max_length=1024)] | None = None
    importance: Weight | None = None
    block: Name | None = None
    distil: bool = False


class MemUpdate(Args, frozen=True):
    """What is left out stays as it is. The entry as it was before is kept in its history, which has the last 32."""

    id: Name
    content: str | None = None
    kind: EntryKind | None = None
    metadata: dict[str, Any] | None = None
    importance: Weight | None = None
    block: Name | None = None


class MemHistory(Args, frozen=True):
    id: Name
    block: Name | None = None


class MemRead(Args, frozen=True):
    id: Name
    block: Name | None = None


class MemSearch(Args, frozen=True):
    """`mode` "hybrid", the default, fuses the ranks of words and of meaning. Only entries of `kinds`, written
    from `since` until before `until`, whose metadata has all of `metadata`. `recency` and `importance` say how
    much those count beside relevance: 0 not at all, 1 as much."""

    query: Query
    k: Limit = 5
    block: Name | None = None
    mode: SearchMode | None = None
    kinds: Annotated[list[EntryKind], Meta(min_length=1)] | None = None
    since: Time | None = None
    until: Time | None = None
    metadata: Annotated[dict[str, Any], Meta(max_length=16)] | None = None
    recency: Weight = 0.0
    importance: Weight = 0.0


class MemList(Args, frozen=True):
    limit: Limit = 100
    after: str | None = None
    block: Name | None = None
    kinds: Annotated[list[EntryKind], Meta(min_length=1)] | None = None


class MemClear(Args, frozen=True):
    """One entry by `id`, or everything of the block with `all`."""

    id: str | None = None
    all: bool = False
    block: Name | None = None


class MemStat(Args, frozen=True):
    block: Name | None = None


class Entry(Result, frozen=True):
    """`revision` counts its changes, from 1; `modified` is when the last was made. With a `fault` its content is
    damaged on disk and not told: that says how."""

    id: str
    content: str
    kind: str
    metadata: dict[str, Any]
    created: float
    score: float | None = None
    source: str | None = None
    importance: float | None = None
    modified: float | None = None
    revision: int = 1
    fault: str | None = None


class Entries(Result, frozen=True):
    """`is_cut`: there are more, and the answer would be too long with them. `note`: why a search went by words only."""

    entries: list[Entry]
    is_cut: bool = False
    note: str | None = None


class Written(Result, frozen=True):
    """`derived`: entries that were made of it, or changed because of it. `problem`: why a model made nothing of it,
    though that was asked for."""

    id: str
    revision: int = 1
    derived: list[str] = field(default_factory=list)
    problem: str | None = None


class BlockStat(Result, frozen=True):
    """Bytes of a block. `limit`, `watermark` and `k` as allotted; `raw` is what all its entries' contents are, one by
    one; `disk` what those take there, shared beginnings once. `resident` is what those in memory take of it, shared
    beginnings once and all that Python needs included; `resident_raw` and `swapped` are contents one by one: of those
    in memory, and of those on disk only. Hits are reads, and entries that searches found, in memory; misses those that
    had to be brought back; both, and `evictions`, since the kernel took the block up."""

    block: str
    limit: int
    watermark: float
    k: int
    entries: int
    raw: int
    disk: int
    resident_entries: int
    resident_raw: int
    resident: int
    swapped_entries: int
    swapped: int
    hits: int
    misses: int
    evictions: int
    unembedded: int = 0
    """Entries whose vector is still to be made."""

"""All sections of the configuration but those of cores, and the whole. Knows nothing about what the settings do."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from .base import ByteSize, CoreName, Seconds, Section, Weight
from .cores import CoreSection, PriceSection


class Server(Section, frozen=True):
    """`max_body` is bytes; `drain` is how long a stop waits for open calls."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8420
    max_body: Annotated[int, Meta(ge=1024)] = 8 << 20
    max_connections: Annotated[int, Meta(ge=1)] = 4096
    drain: Seconds = 10.0


class Scheduler(Section, frozen=True):
    """`quantum` is tokens. `max_waiting` bounds each module's queue, `max_open` the open calls of one process."""

    policy: Literal["fifo", "rr"] = "rr"
    quantum: Annotated[int, Meta(ge=1, le=100_000)] = 32
    max_waiting: Annotated[int, Meta(ge=1)] = 2000
    max_open: Annotated[int, Meta(ge=1)] = 256
    timeout: Seconds = 600.0


class JournalSection(Section, frozen=True):
    """`fast` survives kill -9, `durable` power loss too. Answers of keyed calls are kept for `keep` seconds."""

    mode: Literal["fast", "durable"] = "fast"
    keep: Annotated[float, Meta(ge=0)] = 7 * 86_400.0
    max_bytes: Annotated[int, Meta(ge=1 << 20)] = 4 << 30


class RouterSection(Section, frozen=True):
    """`default` is where requests for models nobody knows go; without it they are an error. A request that names no
    model at all goes to the default, or to the only core there is.

    `aliases` are other names: `aliases = {"gpt-4o" = "qwen"}`. A default and an alias name a core, the model of
    cores, or a [[model]].
    """

    default: str | None = None
    aliases: dict[str, str] = field(default_factory=dict)


class ModelSection(Section, frozen=True):
    """One name for several cores: `cores = ["a", "b"]` shares calls as their slots are, `cores = {a = 3, b = 1}` gives
    `a` three of four. `fallback` cores are asked in their order when all of these are down, drained, or refuse a call.
    Cores of the same `model` need no such section: that name stands for all of them.
    """

    name: CoreName
    cores: list[str] | dict[str, Weight]
    fallback: list[str] = field(default_factory=list)


class ContextSection(Section, frozen=True):
    """Where suspended generations of own cores are kept when others need their core's memory: up to `ram_bytes` in host
    memory, then up to `disk_bytes` under `swap` in the home; past both their text is kept and the rest computed again.

    `window` is what becomes of messages that do not fit a model's window, where neither the call nor its process says
    so: an error, or their oldest turns are dropped or summarised. `summarise_with` is the model that summarises;
    without it the one that was asked does.
    """

    ram_bytes: Annotated[int, Meta(ge=0, le=1 << 50)] = 512 << 20
    disk_bytes: Annotated[int, Meta(ge=0, le=1 << 50)] = 2 << 30
    window: Literal["error", "drop", "summarise"] = "error"
    summarise_with: str | None = None


class ToolSection(Section, frozen=True):
    """A Python file whose `@tool` functions become tools, run in worker processes. It is looked for in the home, then
    where the kernel was started.

    `max_instances` and `timeout` are for each tool of the file, instead of what it says itself.
    """

    module: str
    max_instances: Annotated[int, Meta(ge=1, le=1024)] | None = None
    timeout: Seconds | None = None


class MemorySection(Section, frozen=True):
    """What agents remember. `total` bounds what all their entries take of the kernel's memory, `limit` those of one
    block, where `mem_alloc` says nothing else; what leaves is on disk and comes back when it is asked for. Above
    `watermark` of a bound entries leave down to `low`, in the order of `policy`: by their `k`-th last use ("lru_k").
    `disk` bounds what one agent keeps in all.

    With `auto` every process that says nothing else has a runtime memory: its turns and tool calls are kept, and what
    fits a question is added to it, up to `recall_tokens` tokens. `distil_with` names the model that makes notes of
    entries that are written with `distil`; without it the router's default does.
    """

    total: ByteSize = ByteSize(1 << 30)
    limit: ByteSize = ByteSize(64 << 20)
    disk: ByteSize = ByteSize(1 << 30)
    watermark: Annotated[float, Meta(ge=0.1, le=1)] = 0.8
    low: Annotated[float, Meta(ge=0, le=1)] = 0.7
    policy: Literal["lru_k", "lru", "two_q", "arc", "size_aware"] = "lru_k"
    k: Annotated[int, Meta(ge=1, le=16)] = 2
    auto: bool = False
    recall_tokens: Annotated[int, Meta(ge=0, le=1 << 20)] = 512
    distil_with: str | None = None


class StorageSection(Section, frozen=True):
    """Agents' files. `limit` bounds the bytes of all versions of one agent's files, its trash among them. Of each file
    the newest `keep_versions` are kept, and those younger than `keep_days` days; the newest always is."""

    limit: ByteSize = ByteSize(1 << 30)
    max_file: ByteSize = ByteSize(16 << 30)
    keep_versions: Annotated[int, Meta(ge=1)] | None = None
    keep_days: Annotated[float, Meta(gt=0)] | None = None


class SearchSection(Section, frozen=True):
    """`embed_with` names the core, or the model of cores, that makes vectors for searches of memory and files. Without
    it they are made of letters and words, which needs no model and finds no synonyms."""

    embed_with: str | None = None


class MountSection(Section, frozen=True):
    """A folder of the machine as the first part `name` of agents' paths; without `folder` a fresh one of the kernel's.
    It is for the groups that have a right to it ("sto_read:NAME"), or with `agent` for that one ("owner:agent")."""

    name: CoreName
    folder: str | None = None
    agent: str | None = None
    read_only: bool = False


class GroupSection(Section, frozen=True):
    """Agents that may do together what others may not. `members` are agents by name, or as "owner:agent", "*" standing
    for any letters; `may` are rights to what is shared, a block of memory or a mount, as "mem_read:team"."""

    name: CoreName
    members: list[str] = field(default_factory=list)
    may: list[str] = field(default_factory=list)


class Config(Section, frozen=True):
    """All of it. The home, where the kernel keeps what must outlive it, is no key here: `$AIOS_HOME` names it."""

    server: Server = Server()
    scheduler: Scheduler = Scheduler()
    journal: JournalSection = JournalSection()
    router: RouterSection = RouterSection()
    context: ContextSection = ContextSection()
    memory: MemorySection = MemorySection()
    storage: StorageSection = StorageSection()
    search: SearchSection = SearchSection()
    price: list[PriceSection] = field(default_factory=list)
    core: list[CoreSection] = field(default_factory=list)
    model: list[ModelSection] = field(default_factory=list)
    tool: list[ToolSection] = field(default_factory=list)
    mount: list[MountSection] = field(default_factory=list)
    group: list[GroupSection] = field(default_factory=list)

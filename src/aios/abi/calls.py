"""THE table of system calls: names, arguments, results. Knows nothing about how a call is carried out.

Native routes, OpenAPI, the SDK's methods and the docs' table are made from `CALLS`; nothing of it is written twice.
Argument structs refuse unknown fields. Sizes are bytes, times are seconds, unless a name says otherwise.
"""

from __future__ import annotations

import difflib
import itertools
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from .call import (
    Args as Args,
)
from .call import (
    Count as Count,
)
from .call import (
    Effect as Effect,
)
from .call import (
    Empty as Empty,
)
from .call import (
    Limit as Limit,
)
from .call import (
    Name as Name,
)
from .call import (
    Path as Path,
)
from .call import (
    Pid as Pid,
)
from .call import (
    Query as Query,
)
from .call import (
    Result as Result,
)
from .call import (
    Text as Text,
)
from .choices import choices_at, place_of
from .errors import BadRequest, NotFound
from .memory import (
    BlockStat as BlockStat,
)
from .memory import (
    Entries as Entries,
)
from .memory import (
    Entry as Entry,
)
from .memory import (
    MemAlloc as MemAlloc,
)
from .memory import (
    MemClear as MemClear,
)
from .memory import (
    MemHistory as MemHistory,
)
from .memory import (
    MemList as MemList,
)
from .memory import (
    MemRead as MemRead,
)
from .memory import (
    MemSearch as MemSearch,
)
from .memory import (
    MemStat as MemStat,
)
from .memory import (
    MemUpdate as MemUpdate,
)
from .memory import (
    MemWrite as MemWrite,
)
from .memory import (
    Written as Written,
)
from .messages import Embeddings, Generation, Message, ToolSpec
from .storage import (
    Diff as Diff,
)
from .storage import (
    File as File,
)
from .storage import (
    History as History,
)
from .storage import (
    Link as Link,
)
from .storage import (
    Listing as Listing,
)
from .storage import (
    MountInfo as MountInfo,
)
from .storage import (
    MountList as MountList,
)
from .storage import (
    Passage as Passage,
)
from .storage import (
    Passages as Passages,
)
from .storage import (
    Revision as Revision,
)
from .storage import (
    Stat as Stat,
)
from .storage import (
    StoClear as StoClear,
)
from .storage import (
    StoCreate as StoCreate,
)
from .storage import (
    StoDiff as StoDiff,
)
from .storage import (
    StoHistory as StoHistory,
)
from .storage import (
    StoList as StoList,
)
from .storage import (
    StoMount as StoMount,
)
from .storage import (
    StoMounts as StoMounts,
)
from .storage import (
    StoMove as StoMove,
)
from .storage import (
    StorageStat as StorageStat,
)
from .storage import (
    StoRead as StoRead,
)
from .storage import (
    StoRestore as StoRestore,
)
from .storage import (
    StoRetrieve as StoRetrieve,
)
from .storage import (
    StoRollback as StoRollback,
)
from .storage import (
    StoShare as StoShare,
)
from .storage import (
    StoStat as StoStat,
)
from .storage import (
    StoUnmount as StoUnmount,
)
from .storage import (
    StoWrite as StoWrite,
)
from .storage import (
    Version as Version,
)
from .storage import (
    Where as Where,
)

WindowPolicy = Literal["error", "drop", "summarise"]
MemoryPolicy = Literal["off", "auto"]


# ── llm ──────────────────────────────────────────────────────────────────────────────────────────────


class LLMGenerate(Args, frozen=True):
    """`extra` holds parameters that the kernel does not know; remote cores get them as they came.
    `window` says what becomes of messages that do not fit the model's: an error, or the oldest turns are dropped or
    summarised, and the answer's `context` says so. Without it the process's own word counts, then the kernel's.
    `beam_width` above 1 looks for the likeliest answer: a line's worth is its log probability divided by its length
    to the power of `length_penalty`. Requests with another `cache_salt` share nothing of their prompts' KV.
    `memory` "auto" keeps this exchange in the agent's memory, and tells the model what that holds for the question.
    """

    messages: Annotated[list[Message], Meta(min_length=1)]
    model: str | None = None
    tools: list[ToolSpec] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=16)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    min_tokens: Annotated[int, Meta(ge=0)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = None
    beam_width: Annotated[int, Meta(ge=1, le=16)] | None = None
    length_penalty: Annotated[float, Meta(ge=-4, le=4)] | None = None
    cache_salt: Annotated[str, Meta(max_length=256)] | None = None
    window: WindowPolicy | None = None
    memory: MemoryPolicy | None = None
    extra: dict[str, Any] | None = None


class LLMEmbed(Args, frozen=True):
    """`input` is a text, or a list of texts, or the tokens of one text, or a list of such lists. `dimensions` asks for
    shorter vectors than the model's own, `encoding_format` for numbers, or for base64 of little-endian f32.
    `extra` holds parameters that the kernel does not know; remote cores get them as they came.
    """

    input: Text | list[Text | int | list[int]]
    model: str | None = None
    dimensions: Annotated[int, Meta(ge=1, le=1 << 16)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    extra: dict[str, Any] | None = None


# ── tool ─────────────────────────────────────────────────────────────────────────────────────────────


class ToolList(Args, frozen=True):
    query: Query | None = None


class ToolRun(Args, frozen=True):
    name: Name
    arguments: dict[str, Any] = field(default_factory=dict)


class ToolInfo(Result, frozen=True):
    name: str
    description: str
    parameters: dict[str, Any]
    effect: str
    is_idempotent: bool
    max_instances: int
    timeout: float
    running: int = 0


class Tools(Result, frozen=True):
    """`problems`, told to admins only: files of tools that do not load, and why."""

    tools: list[ToolInfo]
    problems: dict[str, str] = field(default_factory=dict)


class ToolResult(Result, frozen=True):
    """`is_error` results are for the model to read and act on: the call itself is DONE."""

    content: str
    is_error: bool = False
    data: Any = None


# ── access and processes ─────────────────────────────────────────────────────────────────────────────


class AccCheck(Args, frozen=True):
    """May the caller make this call with these arguments?"""

    call: Name
    arguments: dict[str, Any] = field(default_factory=dict)


class Verdict(Result, frozen=True):
    allowed: bool
    why: str


class ProcSpawn(Args, frozen=True):
    """Start a process of an agent. The result holds its key, shown this once. `window` is for those of its generations
    that name none, and for those of its children; without it the parent's counts. So is `memory`."""

    agent: Name
    nice: Annotated[int, Meta(ge=-20, le=19)] = 0
    command: Annotated[str, Meta(max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")] | None = None
    window: WindowPolicy | None = None
    memory: MemoryPolicy | None = None


class ProcList(Args, frozen=True):
    is_all: bool = field(default=False, name="all")


class ProcSignal(Args, frozen=True):
    """`kill` cancels all its calls and revokes its key; `stop` holds its calls, `cont` lets them go; `exit` ends it
    when its program has ended, with `code`."""

    pid: Pid
    signal: Literal["kill", "term", "stop", "cont", "exit"]
    code: int | None = None


class ProcNice(Args, frozen=True):
    pid: Pid
    nice: Annotated[int, Meta(ge=-20, le=19)]


class ProcWait(Args, frozen=True):
    pid: Pid
    timeout: Annotated[float, Meta(ge=0, le=3600)] = 5.0


class Spawned(Result, frozen=True):
    pid: int
    key: str


class OpenCall(Result, frozen=True):
    """A call that is not over. `position` is its place in the queue (1 = next); `estimate` seconds till it runs."""

    id: str
    name: str
    state: str
    since: float
    why: str | None = None
    core: str | None = None
    position: int | None = None
    estimate: float | None = None


class ProcessInfo(Result, frozen=True):
    """`cost` is US dollars for the calls of it whose price is known; None when that is none of them. `tokens_cached` of
    those in were computed for an earlier prompt that began alike."""

    pid: int
    agent: str
    owner: str
    state: str
    nice: int
    parent: int | None
    command: str | None
    started: float
    ended: float | None
    exit_code: int | None
    num_calls: int
    num_failed: int
    tokens_in: int
    tokens_out: int
    num_slices: int
    num_switches: int
    wait_s: float
    run_s: float
    core: str | None
    open_calls: list[OpenCall]
    cost: float | None = None
    tokens_cached: int = 0


class Processes(Result, frozen=True):
    processes: list[ProcessInfo]


# ── the table ────────────────────────────────────────────────────────────────────────────────────────


class CallSpec(Struct, frozen=True):
    """A row. `module` names the queue; "kernel" calls are answered at once, without one.

    `is_repeatable`: after a crash the kernel may run it again, since a second run changes nothing more.
    `is_wait`: it only waits for what others do, so it has no time-out of the kernel's and holds up no stop.
    `frees`: it makes room, so it is carried out on a full disk too.
    """

    name: str
    module: str
    args: type[Args]
    result: type[Struct]
    effect: Effect
    doc: str
    is_repeatable: bool = True
    is_streamed: bool = False
    is_wait: bool = False
    frees: bool = False


R, W, P = Effect.READ, Effect.WRITE, Effect.PURE

_ROWS = [
    CallSpec(
        "llm_generate",
        "llm",
        LLMGenerate,
        Generation,
        P,
        "Ask a model for the next message.",
        is_streamed=True,
    ),
    CallSpec("llm_embed", "llm", LLMEmbed, Embeddings, R, "Turn texts into vectors that say what they mean."),
    CallSpec(
        "mem_alloc", "memory", MemAlloc, BlockStat, W, "Say what a block of memory may take; make it, if it is new."
    ),
    CallSpec("mem_write", "memory", MemWrite, Written, W, "Keep an entry in the agent's memory."),
    CallSpec("mem_update", "memory", MemUpdate, Written, W, "Change an entry; as it was, it stays in its history."),
    CallSpec("mem_read", "memory", MemRead, Entry, R, "Read one entry of the agent's memory."),
    CallSpec(
        "mem_history", "memory", MemHistory, Entries, R, "Read what an entry was before its changes, newest first."
    ),
    CallSpec("mem_search", "memory", MemSearch, Entries, R, "Find the k entries that fit a query best, best first."),
    CallSpec("mem_list", "memory", MemList, Entries, R, "List entries, newest first; `after` is the last id seen."),
    CallSpec("mem_clear", "memory", MemClear, Count, W, "Forget one entry, or all of them.", frees=True),
    CallSpec("mem_stat", "memory", MemStat, BlockStat, R, "Count what a block holds, in memory and on disk."),
    CallSpec("sto_create", "storage", StoCreate, Version, W, "Make an empty file or a folder."),
    CallSpec("sto_write", "storage", StoWrite, Version, W, "Write a file whole; each write is a new version."),
    CallSpec("sto_read", "storage", StoRead, File, R, "Read a file, the newest version unless one is named."),
    CallSpec("sto_list", "storage", StoList, Listing, R, "List what is in a folder of the agent's storage."),
    CallSpec("sto_move", "storage", StoMove, Version, W, "Give a file or folder, with its history, another name."),
    CallSpec("sto_restore", "storage", StoRestore, Version, W, "Bring back what was cleared last at a path."),
    CallSpec("sto_history", "storage", StoHistory, History, R, "List a file's versions, the newest first."),
    CallSpec("sto_diff", "storage", StoDiff, Diff, R, "Show what changed between two versions of a file."),
    CallSpec("sto_rollback", "storage", StoRollback, Version, W, "Make an old version of a file its newest again."),
    CallSpec("sto_retrieve", "storage", StoRetrieve, Passages, R, "Find passages of files by their words and meaning."),
    CallSpec(
        "sto_share",
        "storage",
        StoShare,
        Link,
        W,
        "Make a link that opens a file for anybody who has it, or end all links to it.",
        is_repeatable=False,
    ),
    CallSpec("sto_mount", "storage", StoMount, MountInfo, W, "Show a folder of the machine among agents' files."),
    CallSpec("sto_unmount", "storage", StoUnmount, Count, W, "Show a mounted folder no more; it stays as it is."),
    CallSpec("sto_mounts", "storage", StoMounts, MountList, R, "List mounted folders, and whether they are there."),
    CallSpec("sto_stat", "storage", StoStat, StorageStat, R, "Say what the agent's files take, and may."),
    CallSpec(
        "sto_clear",
        "storage",
        StoClear,
        Count,
        W,
        "Move a file or folder to the trash, or what is there out of it for good.",
        frees=True,
    ),
    CallSpec("tool_list", "tool", ToolList, Tools, R, "List the tools the caller may run, with their schemas."),
    CallSpec("tool_run", "tool", ToolRun, ToolResult, W, "Check the arguments and run a tool.", is_repeatable=False),
    CallSpec("acc_check", "kernel", AccCheck, Verdict, R, "Ask whether a call would be allowed, without making it."),
    CallSpec(
        "proc_spawn",
        "kernel",
        ProcSpawn,
        Spawned,
        W,
        "Start a process and mint its key.",
        is_repeatable=False,
    ),
    CallSpec("proc_list", "kernel", ProcList, Processes, R, "List processes the caller may see."),
    CallSpec("proc_signal", "kernel", ProcSignal, Empty, W, "Stop, continue, kill or end a process."),
    CallSpec("proc_nice", "kernel", ProcNice, Empty, W, "Change a process's share of the cores."),
    CallSpec(
        "proc_wait",
        "kernel",
        ProcWait,
        ProcessInfo,
        R,
        "Wait until a process has ended, or for the timeout.",
        is_wait=True,
    ),
]

CALLS: dict[str, CallSpec] = {row.name: row for row in _ROWS}


def nearest(word: str, known: Any) -> str:
    """`"; did you mean 'x'?"` for the known word nearest to `word`, or ""."""
    # Comparing costs the product of both lengths: nobody's word may cost more than a glance.
    names = [name for name in itertools.islice(map(str, known), 500) if len(name) <= 100]
    found = difflib.get_close_matches(word[:100], names, n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else ""


def know_types() -> None:
    """Let msgspec look at the types of all calls, before there are threads: two that come upon a type for the first
    time together, one with a request and one with a recorded answer, crash it."""
    for spec in CALLS.values():
        msgspec.json.Decoder(spec.args)
        msgspec.json.Decoder(spec.result)


def spec_of(name: str) -> CallSpec:
    """The row named `name`. Raises NotFound, naming the nearest call."""
    spec = CALLS.get(name)
    if spec is None:
        hint = nearest(name[:100], CALLS) or "; GET /openapi.json lists all calls"
        raise NotFound(f"there is no call '{name[:100]}'{hint}", code="unknown_call", param="name")
    return spec


def convert_args(spec: CallSpec, raw: Any) -> Args:
    """`raw` (decoded JSON) as the argument struct of `spec`. Raises BadRequest that names the field."""
    try:
        return msgspec.convert(raw, spec.args)
    except msgspec.ValidationError as error:
        raise bad_arguments(error, spec.args) from None


def bad_arguments(error: msgspec.ValidationError, kind: type[Struct]) -> BadRequest:
    """What a caller hears of arguments that are no `kind`."""
    return BadRequest(explain(error, kind), code="bad_arguments", param=place_of(error))


def explain(error: msgspec.ValidationError, kind: type[Struct]) -> str:
    """msgspec's message, with the nearest known field when one is unknown, and the words a place may hold."""
    text = str(error)
    if "unknown field `" in text:
        word = text.split("unknown field `", 1)[1].split("`", 1)[0]
        return f"Object contains unknown field `{word[:100]}`" + nearest(word, kind.__struct_encode_fields__)
    text = text[:500]
    if words := choices_at(kind, place_of(error) or ""):
        text += f"; it must be {' or '.join(map(repr, words))}"
    return text

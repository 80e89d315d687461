"""The configuration: read once, checked whole, then frozen. Unknown keys are errors that name the nearest known one.

Knows nothing about what the settings do; each room takes its own section.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import Meta, Struct, field

from aios.abi.calls import nearest
from aios.abi.choices import choices_at, place_of
from aios.abi.errors import BadRequest
from aios.abi.home import home_path

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Weight = Annotated[float, Meta(gt=0, le=1000)]
HUB_NAME = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
CoreName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class ConfigError(BadRequest):
    """The configuration cannot be used: which file, which key, why."""

    default_code = "bad_config"


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections."""


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


Dollars = Annotated[float, Meta(ge=0, le=1_000_000)]


class Price(Section, frozen=True):
    """US dollars for a million tokens. `cached` is input that the server had computed before, `cache_write` input that
    it puts by."""

    input: Dollars
    output: Dollars
    cached: Dollars | None = None
    cache_write: Dollars | None = None


class PriceSection(Price, frozen=True, kw_only=True):
    """What a model costs, instead of what the packaged table says: US dollars for a million tokens. With `host` only
    for cores whose base_url has it; a row with `above` is for prompts of more tokens than that.

    `cached` is input that the server had computed before; without it such input costs what any does, so that a sum is
    rather too high than too low. `cache_write` is input that the server puts by, which mostly costs more than any;
    without it an answer that has such tokens has no known cost, and nothing is said of it.
    """

    model: str
    host: str | None = None
    above: Annotated[int, Meta(ge=0)] = 0


class CoreSection(Section, frozen=True):
    """One LLM core. `nano` is the packaged model; `local` is a model in the folder `path`, as Hugging Face keeps them,
    or of their hub: `hub` is its name there (owner/name), `revision` a branch, tag or commit (else "main"). It is
    fetched once, into the home; $HF_TOKEN and $HF_ENDPOINT count;
    `gguf` one in the file `path`, run by llama.cpp; `openai` is any server that speaks OpenAI's API at `base_url`;
    `anthropic` is Anthropic's API, or what speaks it at `base_url`; `embed` is a model in the folder `path` that only
    turns texts into vectors (BERT, as sentence-transformers keeps it, or a table of model2vec).

    `timeout` is seconds between two tokens, `first_timeout` those to the first one (without it, as much). The key is
    read from the environment variable `api_key_env`, or from the file `api_key_file` in the home, which nobody
    but its owner may read; it is read again when it changes.
    `max_tokens` bounds an answer of an `anthropic` core where the request names no bound (else 32,000). Parameters
    named in `ignore` are left out there, where a request that has them would be refused.

    `server` says what speaks at `base_url`, and with it what that can do; without it the server is asked. What stands
    here goes before what is known of its kind: `resume` (how an answer is gone on with after an interrupt: "none",
    "prefill_text", or "tokens"), `priority` (whether requests carry one, and which goes first; a server that is not set
    up for it refuses them), `tools`, `json_schema` and `embeddings` (false: such requests are refused here; with
    `embeddings = true` those for models that nobody knows come here). `embed_batch` texts are posted at once (256).
    With `probe = false` the server is never asked what it can do.

    `context_length` makes a local model's window smaller. `kv_bytes` bounds what running sequences of a `nano` or
    `local` core hold; suspended ones leave it when others need it, whole (`snapshot` "logits", as [context] says) or as
    their text alone, to be computed again ("text"). `prefix_bytes` bounds what is kept of prompts, so that
    others that begin alike need not compute it; 0 keeps nothing.

    A `local` model is computed by `backend` ("numpy" unless said) in numbers of `dtype` ("f32") on `device` ("cpu").
    """

    name: CoreName
    kind: Literal["nano", "local", "gguf", "openai", "anthropic", "embed"]
    slots: Annotated[int, Meta(ge=1, le=4096)] = 8
    path: str | None = None
    hub: Annotated[str, Meta(pattern=f"^{HUB_NAME}$")] | None = None
    revision: Annotated[str, Meta(pattern=r"^[\w./-]{1,200}$")] | None = None
    base_url: str | None = None
    model: str | None = None
    timeout: Seconds = 120.0
    first_timeout: Seconds | None = None
    api_key_env: str | None = None
    api_key_file: str | None = None
    server: Literal["openai", "vllm", "sglang", "llama", "ollama", "lmstudio", "openrouter"] | None = None
    resume: Literal["none", "prefill_text", "tokens"] | None = None
    priority: Literal["low_first", "high_first"] | None = None
    tools: bool | None = None
    json_schema: bool | None = None
    embeddings: bool | None = None
    probe: bool = True
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    ignore: list[str] | None = None
    embed_batch: Annotated[int, Meta(ge=1)] | None = None
    context_length: Annotated[int, Meta(ge=16)] | None = None
    kv_bytes: Annotated[int, Meta(ge=1 << 20)] = 512 << 20
    prefix_bytes: Annotated[int, Meta(ge=0)] = 64 << 20
    backend: Literal["numpy", "torch"] | None = None
    dtype: Literal["f32", "bf16", "f16"] | None = None
    device: str | None = None
    snapshot: Literal["logits", "text"] | None = None
    price: Price | None = None

    @property
    def url(self) -> str | None:
        """Where the server of a remote core is."""
        return self.base_url or ("https://api.anthropic.com" if self.kind == "anthropic" else None)


class ToolSection(Section, frozen=True):
    """A Python file whose `@tool` functions become tools, run in worker processes. It is looked for in the home, then
    where the kernel was started.

    `max_instances` and `timeout` are for each tool of the file, instead of what it says itself.
    """

    module: str
    max_instances: Annotated[int, Meta(ge=1, le=1024)] | None = None
    timeout: Seconds | None = None


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


COMPUTE_KEYS = ("backend", "dtype", "device")
HUB_KEYS = ("hub", "revision")
LOCAL_KEYS = ("path", *HUB_KEYS, *COMPUTE_KEYS)
EMBED_KEYS = ("embeddings", "embed_batch")
CHAT_KEYS = ("server", "resume", "priority", "tools", "json_schema", *EMBED_KEYS)
REMOTE_KEYS = ("base_url", "api_key_env", "api_key_file", "first_timeout", *CHAT_KEYS)
SERVER_KEYS = tuple(key for key in REMOTE_KEYS if key not in EMBED_KEYS)
ANTHROPIC_KEYS = ("max_tokens", "ignore")
POOL_KEYS = ("snapshot", "kv_bytes", "prefix_bytes")
WAIT_KEYS = ("probe", "timeout")
OWN_FOREIGN = (*ANTHROPIC_KEYS, *WAIT_KEYS, *REMOTE_KEYS)
FOREIGN_KEYS = {
    "nano": (*HUB_KEYS, "path", "model", "context_length", *OWN_FOREIGN, *COMPUTE_KEYS),
    "local": OWN_FOREIGN,
    "gguf": (*HUB_KEYS, *ANTHROPIC_KEYS, "snapshot", "prefix_bytes", "probe", *SERVER_KEYS, *COMPUTE_KEYS),
    "openai": (*ANTHROPIC_KEYS, *POOL_KEYS, *LOCAL_KEYS),
    "embed": (*HUB_KEYS, *POOL_KEYS, *OWN_FOREIGN, *COMPUTE_KEYS),
    "anthropic": ("probe", *POOL_KEYS, *CHAT_KEYS, *LOCAL_KEYS),
}
"""Keys of other kinds of core: one that would be ignored is a mistake worth telling."""

MODEL_PATHS = {
    "local": "the model's folder, or hub, its name on the hub",
    "gguf": "the model's file",
    "embed": "the model's folder",
}

DEFAULT_CORES = [CoreSection(name="nano", kind="nano", slots=8)]


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
        raise ConfigError(f"{where}: {_explain(error)}") from None
    if not config.core:
        default = config.router.default or DEFAULT_CORES[0].name
        router = msgspec.structs.replace(config.router, default=default)
        config = msgspec.structs.replace(config, core=DEFAULT_CORES, router=router)
    _check(config, where)
    return config


def _decode(kind: type, raw: Any) -> Any:
    """What is written in a way of its own. msgspec turns the ValueError into one that names the place."""
    if kind is ByteSize:
        return byte_size(raw)
    raise NotImplementedError(kind)


KEYS_GO = (
    "a key does not belong in the configuration: put it into an environment variable and write "
    'api_key_env = "ITS_NAME", or into a file of the home that only you can read (chmod 600) and write '
    'api_key_file = "its.name"'
)


def check_url(core: CoreSection) -> None:
    """Raise ConfigError when `base_url` is no address that can be posted to."""
    url = core.url or ""
    why = ""
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            why = "it has no http:// or https:// and host"
        elif parts.port == 0:
            why = "port 0 cannot be connected to"
    except ValueError as error:  # a port or a bracketed address that is none
        why = str(error)
    if not url.isascii() or any(c.isspace() or not c.isprintable() for c in url):
        why = "it may hold no blanks and only ASCII"
    elif not why and parts.username is not None:
        raise ConfigError(f"core '{core.name}' has a name or password in its base_url; {KEYS_GO}")
    elif not why and any(re.search(r"key|token|secret", name, re.I) for name, _ in parse_qsl(parts.query)):
        raise ConfigError(f"core '{core.name}' has a key in the query of its base_url; {KEYS_GO}")
    if not url:
        raise ConfigError(f"core '{core.name}' needs base_url = \"http://…/v1\", where its server is")
    if why:
        raise ConfigError(f"core '{core.name}' needs base_url = \"http://…/v1\", and {url!r:.200} is none: {why}")


TYPES = {
    "`object`": "a section", "`array`": "a list", "`str`": "a text", "`int`": "a whole number", "`float`": "a number",
    "`bool`": "true or false",
}  # fmt: skip


def _explain(error: msgspec.ValidationError, kind: type[Section] = Config) -> str:
    """msgspec's message as one about keys: where first, then what, with the words that may stand there."""
    what, place = str(error).split(" - at `", 1)[0], place_of(error) or ""
    if "unknown field `" in what:
        word = what.split("unknown field `", 1)[1].split("`", 1)[0]
        if word in ("api_key", "key", "token", "password", "secret") and (
            kind is CoreSection or place.startswith("core")
        ):
            return f"{place or 'the core'} has '{word}'; {KEYS_GO}"
        near = nearest(word, kind.__struct_encode_fields__) if kind is not Config else _meant(word, place)
        return f"unknown key '{word}'{near}" + (f" (at {place})" if place else "")
    if words := choices_at(kind, place):
        allowed = " or ".join(f'"{word}"' for word in words)
        given = what.partition("Invalid enum value ")[2]
        hint = nearest(given.strip("'").lower(), words)
        return f"{place} is {given or 'no text'}, and must be {allowed}{hint}"
    for theirs, ours in TYPES.items():
        what = what.replace(theirs, ours)
    what = what[:1].lower() + what[1:]
    if what == "expected a list, got a section":
        what += f"; write its header as [[{place}]]"
    return f"{place}: {what}" if place else what


def _meant(word: str, place: str) -> str:
    """What an unknown key may have been meant to be: one of its own section, or one of another."""
    known = {header.strip("[]"): (header, keys) for header, keys in _sections()}
    own = known[place.partition("[")[0]][1] if place.partition("[")[0] in known else set(known)
    if hint := nearest(word, own):
        return hint
    homes = [header for header, keys in known.values() if word in keys]
    if homes:
        return f"; it belongs under {' or '.join(homes)}"
    return nearest(word, {key for _, keys in known.values() for key in keys})


def _sections() -> Iterator[tuple[str, set[str]]]:
    """Each section's header, as it is written, and its keys."""
    for item in msgspec.structs.fields(Config):
        inner = getattr(item.type, "__args__", ())
        kind = inner[0] if inner else item.type
        if isinstance(kind, type) and issubclass(kind, Section):
            header = f"[[{item.encode_name}]]" if inner else f"[{item.encode_name}]"
            yield header, set(kind.__struct_encode_fields__)


def _check_compute(core: CoreSection, where: str) -> None:
    if core.device is not None and not re.fullmatch(r"cpu|cuda(:\d{1,3})?", core.device):
        raise ConfigError(
            f'{where}: core \'{core.name}\' has device = {core.device!r:.60}, and it must be "cpu" or "cuda", or '
            f'"cuda:1" for the second GPU{nearest(core.device.lower(), ("cpu", "cuda"))}'
        )
    if core.backend != "torch" and (core.dtype or "f32", core.device or "cpu") != ("f32", "cpu"):
        raise ConfigError(
            f"{where}: core '{core.name}' computes on NumPy, in f32 on the cpu only; "
            'other dtypes and devices take backend = "torch"'
        )


def read_core(raw: Any, where: str) -> CoreSection:
    """`raw` (decoded JSON or TOML) as a [[core]] section. Raises ConfigError that names `where` and the key."""
    try:
        section = msgspec.convert(raw, CoreSection)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error, CoreSection)}") from None
    _check_core(section, where)
    return section


def model_of(core: CoreSection) -> str:
    """The name of its model, as it is known before it is loaded."""
    return core.model or (Path(core.path).expanduser().name if core.path else "") or core.name


def _check(config: Config, where: str) -> None:
    names = [core.name for core in config.core]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{where}: two cores are called '{name}'; each [[core]] needs a name of its own")
    for core in config.core:
        _check_core(core, where)
    _check_names(config, names, where)
    _check_mounts(config.mount, where)


def _check_names(config: Config, names: list[str], where: str) -> None:
    """Each name that leads to cores leads to some, and to one place only."""
    models = [model.name for model in config.model]
    for model in config.model:
        if models.count(model.name) > 1 or model.name in names:
            what = "two [[model]]s are" if models.count(model.name) > 1 else "a [[model]] and a [[core]] are both"
            raise ConfigError(f"{where}: {what} called '{model.name}'; each needs a name of its own")
        if not model.cores:
            raise ConfigError(f"{where}: model '{model.name}' names no cores; list some under cores")
        for each in (*model.cores, *model.fallback):
            if each not in names:
                raise ConfigError(f"{where}: model '{model.name}' names no core: '{each}'{nearest(each, names)}")
    targets = [*names, *models, *map(model_of, config.core)]
    for alias, target in config.router.aliases.items():
        if alias in names or alias in models:
            raise ConfigError(f"{where}: the alias '{alias}' is the name of a core or model already")
        if target not in targets:
            raise ConfigError(
                f"{where}: the alias '{alias}' names no core and no model: '{target}'{nearest(target, targets)}"
            )
    default = config.router.default
    targets += config.router.aliases
    if default is not None and default not in targets:
        raise ConfigError(
            f"{where}: [router] default names no core and no model: '{default}'{nearest(default, targets)}"
        )
    for key, named in (
        ("[context] summarise_with", config.context.summarise_with),
        ("[memory] distil_with", config.memory.distil_with),
        ("[search] embed_with", config.search.embed_with),
    ):
        if named is not None and named not in targets:
            raise ConfigError(f"{where}: {key} names no core and no model: '{named}'{nearest(named, targets)}")
    _check_embeds(config, where)


def _check_embeds(config: Config, where: str) -> None:
    for core in config.core:
        if core.name == config.search.embed_with and core.kind in ("nano", "local", "anthropic"):
            others = [each.name for each in config.core if each.kind == "embed" or each.embeddings]
            hint = f"; {' and '.join(others)} can" if others else '; a [[core]] of kind "embed" can'
            raise ConfigError(f"{where}: [search] embed_with names core '{core.name}', which makes no vectors{hint}")


def _check_mounts(mounts: list[MountSection], where: str) -> None:
    names = [(mount.agent, mount.name) for mount in mounts]
    for mount in mounts:
        if names.count((mount.agent, mount.name)) > 1:
            raise ConfigError(f"{where}: two mounts are called '{mount.name}'; each needs a name of its own")
        owner, _, agent = (mount.agent or "a:a").partition(":")
        if not (owner and agent):
            raise ConfigError(
                f"{where}: mount '{mount.name}' has agent = {mount.agent!r:.60}; write agent = \"OWNER:AGENT\" "
                "('aios keys list' shows both)"
            )
        if mount.folder is not None and not mount.folder.startswith(("/", "~")):
            raise ConfigError(f"{where}: mount '{mount.name}': the folder {mount.folder!r:.200} is not absolute")


def _check_texts(core: CoreSection, where: str) -> None:
    for key in core.__struct_fields__:
        value = getattr(core, key)
        if isinstance(value, str) and not value.isprintable():
            raise ConfigError(f"{where}: core '{core.name}': {key} holds a character that cannot be printed: {value!r}")
    try:
        Path(core.path or "").expanduser()
    except RuntimeError:  # ~somebody whom nobody knows
        raise ConfigError(f"{where}: core '{core.name}': there is no user of path {core.path!r}") from None


def _check_core(core: CoreSection, where: str) -> None:
    _check_texts(core, where)
    unsaid = CoreSection(core.name, core.kind)
    for key in FOREIGN_KEYS[core.kind]:
        if getattr(core, key) != getattr(unsaid, key):
            raise ConfigError(f"{where}: core '{core.name}' is of kind {core.kind}, which takes no {key}")
    if core.hub is not None and core.path:
        raise ConfigError(f"{where}: core '{core.name}' has path and hub; one of them is enough")
    if core.revision is not None and core.hub is None:
        raise ConfigError(f"{where}: core '{core.name}' has revision, which goes with hub")
    if core.kind in MODEL_PATHS and not core.path and core.hub is None:
        what = MODEL_PATHS[core.kind]
        raise ConfigError(f"{where}: core '{core.name}' is of kind {core.kind}, and needs path, {what}")
    _check_compute(core, where)
    if core.api_key_env is not None and core.api_key_file is not None:
        raise ConfigError(f"{where}: core '{core.name}' names api_key_env and api_key_file; one of them is enough")
    if core.api_key_env is not None and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", core.api_key_env):
        raise ConfigError(f"{where}: core '{core.name}': api_key_env is no name of a variable; {KEYS_GO}")
    if core.kind in ("openai", "anthropic"):
        try:
            check_url(core)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

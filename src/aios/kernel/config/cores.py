"""LLM cores in the configuration: what may be said of one, and which words go together. Knows no other section."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qsl, urlsplit

from msgspec import Meta

from aios.abi.calls import nearest

from .base import ConfigError, CoreName, Seconds, Section

HUB_NAME = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
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


def model_of(core: CoreSection) -> str:
    """The name of its model, as it is known before it is loaded."""
    return core.model or (Path(core.path).expanduser().name if core.path else "") or core.name


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

KEYS_GO = (
    "a key does not belong in the configuration: put it into an environment variable and write "
    'api_key_env = "ITS_NAME", or into a file of the home that only you can read (chmod 600) and write '
    'api_key_file = "its.name"'
)


def check_core(core: CoreSection, where: str) -> None:
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


def _check_texts(core: CoreSection, where: str) -> None:
    for key in core.__struct_fields__:
        value = getattr(core, key)
        if isinstance(value, str) and not value.isprintable():
            raise ConfigError(f"{where}: core '{core.name}': {key} holds a character that cannot be printed: {value!r}")
    try:
        Path(core.path or "").expanduser()
    except RuntimeError:  # ~somebody whom nobody knows
        raise ConfigError(f"{where}: core '{core.name}': there is no user of path {core.path!r}") from None


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

"""What is known of the servers that speak OpenAI's API: one row a kind. Plain data and reading; no I/O.

A kernel that knows nothing of a server takes it for "openai": nothing but the chat itself is asked of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from ...config import CoreSection


@dataclass(frozen=True, slots=True)
class Server:
    """`resume` is how an answer is gone on with, `continuing` what a request says beside the half answer for it to be
    continued. `props` is a page that tells more than `/v1/models`, `metrics` where its load can be read."""

    resume: str = "none"
    continuing: dict[str, Any] = field(default_factory=dict)
    props: str | None = None
    metrics: str | None = None


_CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}

SERVERS: dict[str, Server] = {
    "openai": Server(),
    "vllm": Server("prefill_text", _CONTINUE, metrics="/metrics"),
    "sglang": Server("prefill_text", {"continue_final_message": True}, metrics="/metrics"),
    "llama": Server("prefill_text", props="/props", metrics="/metrics"),
    "ollama": Server(),
    "lmstudio": Server(),
    "openrouter": Server(),
}
"""By the configuration's `server`; docs/remote-models.md has a table of them."""

_OWNERS = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llama",
    "library": "ollama",
    "organization_owner": "lmstudio",
}
"""Who a server says owns its models, and what kind of server says so."""


@dataclass(slots=True)
class Capabilities:
    """What one core's server can do, as far as it was declared, found out, or is known of its kind. None: not known."""

    section: CoreSection
    server: str
    slots: int
    context_length: int | None
    resume: str
    found: str = "not asked yet"
    """What came of asking the server."""
    is_told: bool = False

    @classmethod
    def declared(cls, section: CoreSection) -> Capabilities:
        server = section.server or "openai"
        resume = section.resume or SERVERS[server].resume
        return cls(section, server, section.slots, section.context_length, resume)

    @property
    def row(self) -> Server:
        return SERVERS[self.server]

    def learn_models(self, body: bytes, model: str) -> bool:
        """From the answer to `GET /v1/models`. Says whether it was one."""
        try:
            entry = _entry(msgspec.json.decode(body), model)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError, TypeError, LookupError):
            return False
        owner = entry.get("owned_by")
        if self.section.server is None and isinstance(owner, str):
            self.server = _OWNERS.get(owner, "openai")
        if self.section.resume is None:
            self.resume = self.row.resume
        meta = entry.get("meta")
        for holder, name in ((entry, "max_model_len"), (entry, "context_length"), (meta, "n_ctx")):
            if isinstance(holder, dict) and isinstance(size := holder.get(name), int) and size > 0:
                self._fits(size)
                break
        return True

    def refuse_resume(self, why: str) -> None:
        """The server would not do what it was taken to do."""
        self.resume, self.found, self.is_told = "none", f"its server refused to continue: {why}"[:300], True

    def learn_props(self, body: bytes) -> None:
        """From llama-server's `GET /props`."""
        try:
            props = msgspec.json.decode(body)
            slots, settings = props.get("total_slots"), props.get("default_generation_settings") or {}
            size = settings.get("n_ctx")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError):
            return
        if isinstance(slots, int) and slots > 0:
            self.slots = min(self.section.slots, slots)
        if isinstance(size, int) and size > 0:
            self._fits(size)

    def _fits(self, size: int) -> None:
        if self.section.context_length is None:
            self.context_length = size

    def told(self) -> dict[str, Any]:
        """For people."""
        section = self.section
        told: dict[str, Any] = {
            "server": self.server,
            "found": self.found,
            "metrics": self.row.metrics,
            "priority": section.priority,
        }
        told |= {"tools": section.tools, "json_schema": section.json_schema, "embeddings": section.embeddings}
        return {name: value for name, value in told.items() if value is not None}


def _entry(listed: Any, model: str) -> dict[str, Any]:
    """What a server says of `model`, or of the first it has. Raises LookupError and the like for what is no list."""
    entries = listed["data"]
    for entry in entries:
        if entry["id"] == model:
            return dict(entry)
    return dict(entries[0])

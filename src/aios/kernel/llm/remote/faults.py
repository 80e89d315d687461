"""What the faults of a server mean for the agent that asked: refusals, garbage, an answer cut short. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from aios.abi.errors import AiosError, BadRequest, ContextLengthExceeded, TimedOut, TooLarge, UpstreamFault

_TOO_LONG = re.compile(
    r"context (length|window|size)|(prompt|input|request) is too long|maximum (input|prompt) length"
    r"|exceeds? the (maximum number of tokens|model's max)|too many (input )?tokens",
    re.IGNORECASE,
)
"""How servers say that a prompt does not fit their model's window."""


def garbage(core: str, why: str) -> UpstreamFault:
    return UpstreamFault(f"core '{core}' answered with what {why}", code="upstream_garbage")


def cut(core: str) -> UpstreamFault:
    return UpstreamFault(f"core '{core}': its server cut the stream short", code="upstream_cut")


def error_of(core: str, key_source: str, status: int, body: bytes, headers: Mapping[str, str]) -> AiosError:
    """The error that a server's refusal means for the agent that asked."""
    detail = detail_of(body)
    said = message_of(detail) or f"status {status}"
    after = _retry_after(headers)
    if status in (401, 403):
        why = f"its server refuses the kernel's key ({status}); see {key_source}. Your own key is not at fault"
        return UpstreamFault(f"core '{core}': {why}", code="upstream_refused")
    if 300 <= status < 400:
        where = _plain(headers.get("location", "nowhere")[:200])
        why = f"its server redirects to {where} ({status}), which is not followed; should that be its base_url?"
        return UpstreamFault(f"core '{core}': {why}", code="upstream_rejected")
    if status in (408, 504):
        return TimedOut(f"core '{core}': {said}", code="upstream_timeout", retry_after=after)
    if status == 501:
        return BadRequest(f"core '{core}' (501): {said}", code="unsupported")
    if status == 413:
        return TooLarge(f"core '{core}': {said}")
    if status in (400, 409, 422):
        return _bad_request(core, detail, said)
    if status == 429 and isinstance(detail, dict) and detail.get("code") == "insufficient_quota":
        return UpstreamFault(f"core '{core}': {said}", code="upstream_quota")
    if status in (429, 503, 529):
        return UpstreamFault(f"core '{core}' is busy: {said}", code="upstream_busy", retry_after=after)
    code = "upstream_failed" if status >= 500 else "upstream_rejected"
    return UpstreamFault(f"core '{core}' ({status}): {said}", code=code, retry_after=after)


def _bad_request(core: str, detail: Any, said: str) -> AiosError:
    code = detail.get("code") if isinstance(detail, dict) else None
    param = detail.get("param") if isinstance(detail, dict) else None
    kind = detail.get("type") if isinstance(detail, dict) else None
    param = param if isinstance(param, str) else None
    if code == "context_length_exceeded" or kind == "exceed_context_size_error" or _TOO_LONG.search(said):
        return ContextLengthExceeded(f"core '{core}': {said}", param=param or "messages")
    return BadRequest(f"core '{core}': {said}", code=code if isinstance(code, str) else None, param=param)


def detail_of(body: bytes) -> Any:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return decoded.get("error", decoded) if isinstance(decoded, dict) else decoded


def message_of(detail: Any) -> str:
    """What a server says of its error, in the shapes that are about; at most some lines of it, as plain text."""
    if isinstance(detail, dict):
        detail = detail.get("message") or detail.get("detail") or detail.get("msg")
    return _plain(detail[:500]) if isinstance(detail, str) else ""


def _plain(text: str) -> str:
    """Without what terminals and logs would obey."""
    return "".join(character if character.isprintable() else " " for character in text)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after-ms")
    factor = 0.001
    if text is None:
        text, factor = headers.get("retry-after"), 1.0
    if text is None or not (text.isascii() and text.replace(".", "", 1).isdigit()):
        return None
    return min(float(text) * factor, 3600.0)
